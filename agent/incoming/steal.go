package incoming

import (
	"context"
	"fmt"
	"net"
	"time"

	"mirrord/protocol"
)

// A Client is who gets stolen connections.
type Client interface {
	Name() string
	Open() (net.Conn, error) // a new stream to it
}

// patience is how long a holder may take to answer an offer. Its launcher's
// debuggee need not run for that, its kernel accepts; so who is silent for so
// long is cut off, and the pod serves its client.
const patience = 5 * time.Second

// A Steal is the holding of a port by a client.
type Steal struct {
	in     *Incoming
	port   uint16
	client Client
	claim  *claim
	life   context.Context // good until the client ends
	held   context.Context // good until the port is released
	giveUp context.CancelFunc
}

// Release gives the port back: first to the kernel, so that nothing new comes;
// what came and is not taken yet goes to the pod. Connections that were taken
// go on.
func (s *Steal) Release() {
	if err := s.in.redirect.Remove(s.port); err != nil {
		s.in.log.Error("releasing port", "port", s.port, "err", err)
	}
	s.drop()
	s.in.log.Info("port released", "port", s.port, "holder", s.client.Name())
}

func (s *Steal) drop() {
	s.in.mu.Lock()
	delete(s.in.steals, s.port)
	s.in.mu.Unlock()
	s.giveUp()
	s.claim.Release()
}

// offer asks the holder to take a connection. It returns the stream that the
// connection's bytes are to go through.
//
// Goroutines: one, which may outlive the offer where opening a stream blocks;
// Incoming waits for it, and the end of the client's session ends it.
func (s *Steal) offer(conn protocol.Incoming) (net.Conn, error) {
	ctx, cancel := context.WithTimeoutCause(s.held, patience, fmt.Errorf("no answer within %v", patience))
	defer cancel()
	taken := make(chan net.Conn)
	refused := make(chan error, 1)
	s.in.wg.Go(func() {
		stream, err := ask(ctx, s.client, conn)
		if err != nil {
			refused <- err
			return
		}
		select {
		case taken <- stream:
		case <-ctx.Done():
			stream.Close()
		}
	})
	select {
	case stream := <-taken:
		return stream, nil
	case err := <-refused:
		return nil, err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func ask(ctx context.Context, client Client, conn protocol.Incoming) (net.Conn, error) {
	stream, err := client.Open()
	if err != nil {
		return nil, fmt.Errorf("opening stream: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })
	_, err = protocol.Call(stream, protocol.KindIncoming, conn, new(protocol.IncomingReply))
	if !stop() {
		err = context.Cause(ctx)
	}
	if err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// relay moves a taken connection's bytes; ctx is the agent's life.
func (s *Steal) relay(ctx context.Context, conn *net.TCPConn, stream net.Conn) error {
	// Where only the pod's side is still sending, nobody waits on the stream.
	defer context.AfterFunc(s.life, func() { reset(conn) })()
	defer context.AfterFunc(ctx, func() { reset(conn) })()
	return protocol.Relay(conn, stream)
}
