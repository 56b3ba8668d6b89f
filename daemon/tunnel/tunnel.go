// Package tunnel is the daemon's side of its connection to one agent: a yamux
// session over a link that survives cuts. Each operation is one stream.
//
//	session ─ Call, Connect, Datagram ─▶ stream ═ link ═▶ agent
//	session ◀─ handler of the port ───── stream ═ link ══ agent (Incoming)
package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

// ErrBuild: daemon and agent do not speak the same version.
var ErrBuild = errors.New("agent is of another version")

// A Handler gets the stolen connections of one port. It answers the stream
// with IncomingReply or an error, and closes it.
type Handler func(ctx context.Context, stream net.Conn, in protocol.Incoming)

// A Tunnel is open from Open to Close or until its agent is gone.
//
// Goroutines: one accepts the agent's streams, one for each of them; Close
// waits for all.
type Tunnel struct {
	log    *slog.Logger
	link   *link.Client
	mux    *yamux.Session
	hello  protocol.HelloReply
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu    sync.Mutex
	ports map[uint16]Handler // guarded by mu
}

// Open links to an agent as client id and greets it. dial connects to the
// agent, now and after each cut.
func Open(ctx context.Context, log *slog.Logger, id link.ID, dial func(context.Context) (net.Conn, error)) (*Tunnel, error) {
	l, err := link.Dial(ctx, log, id, dial)
	if err != nil {
		return nil, err
	}
	mux, err := yamux.Client(l, link.Mux())
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("starting yamux: %w", err)
	}
	own, cancel := context.WithCancel(context.Background())
	t := &Tunnel{log: log, link: l, mux: mux, cancel: cancel, ports: map[uint16]Handler{}}
	t.wg.Go(func() { t.accept(own) })
	request := protocol.Hello{Version: protocol.Version, Build: protocol.Build}
	if _, err := t.Call(ctx, protocol.KindHello, request, &t.hello); err != nil {
		t.Close()
		return nil, fmt.Errorf("greeting agent: %w", err)
	}
	if t.hello.Version != protocol.Version {
		t.Close()
		return nil, fmt.Errorf("greeting agent: it speaks version %d, we %d: %w", t.hello.Version, protocol.Version, ErrBuild)
	}
	return t, nil
}

// Hello is what the agent told of itself and the target.
func (t *Tunnel) Hello() protocol.HelloReply { return t.hello }

// Done is closed when the tunnel is of no more use.
func (t *Tunnel) Done() <-chan struct{} { return t.link.Done() }

// Err says why, after Done.
func (t *Tunnel) Err() error { return t.link.Err() }

// Close ends all streams.
func (t *Tunnel) Close() {
	t.cancel()
	t.mux.GoAway()
	t.mux.Close()
	t.link.Close()
	t.link.Wait()
	t.wg.Wait()
}

// Call does one operation that is a request and its answer, and returns the
// answer's payload. The end of ctx abandons it.
func (t *Tunnel) Call(ctx context.Context, k protocol.Kind, request, reply any) ([]byte, error) {
	s, payload, err := t.open(ctx, k, request, reply)
	if err != nil {
		return nil, err
	}
	s.Close()
	return payload, nil
}

// open sends a request on a new stream and reads its answer.
func (t *Tunnel) open(ctx context.Context, k protocol.Kind, request, reply any) (net.Conn, []byte, error) {
	s, err := t.mux.OpenStream()
	if err != nil {
		return nil, nil, fmt.Errorf("opening stream: %w", err)
	}
	stop := abandon(ctx, s)
	payload, err := protocol.Call(s, k, request, reply)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, payload, nil
}

// abandon makes the stream's reads and writes fail when ctx ends.
func abandon(ctx context.Context, s net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.SetDeadline(time.Unix(1, 0)) })
}

// Connect connects to addr from the target; see protocol.Relay for the stream.
func (t *Tunnel) Connect(ctx context.Context, addr netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
	var reply protocol.ConnectReply
	s, _, err := t.open(ctx, protocol.KindConnect, protocol.Connect{Addr: addr}, &reply)
	return s, reply, err
}

// Datagram opens a UDP socket of the target that is connected to addr. first
// goes with the request; the answer is waited for afterwards.
func (t *Tunnel) Datagram(ctx context.Context, addr netip.AddrPort, first []byte) (net.Conn, error) {
	s, err := t.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("opening stream: %w", err)
	}
	defer abandon(ctx, s)()
	err = protocol.WriteMessage(s, protocol.KindDatagram, protocol.Datagram{Addr: addr}, nil)
	if err == nil {
		err = protocol.WriteDatagram(s, first)
	}
	if err == nil {
		_, err = protocol.ReadAnswer(s, protocol.KindDatagram, new(protocol.DatagramReply))
	}
	if err != nil {
		s.Close()
		return nil, err
	}
	return s, nil
}

// Steal takes over a port; h gets its connections until release is called. It
// returns when the redirect is active.
func (t *Tunnel) Steal(ctx context.Context, steal protocol.Steal, h Handler) (release func(), err error) {
	port := steal.Port
	t.mu.Lock()
	if t.ports[port] != nil {
		t.mu.Unlock()
		return nil, fmt.Errorf("another session of yours holds it (mirrord session ls): %w", syscall.EADDRINUSE)
	}
	t.ports[port] = h
	t.mu.Unlock()
	forget := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.ports, port)
	}
	s, _, err := t.open(ctx, protocol.KindSteal, steal, new(protocol.StealReply))
	if err != nil {
		forget()
		return nil, err
	}
	return func() { s.Close(); forget() }, nil
}

// accept serves the streams that the agent opens.
func (t *Tunnel) accept(ctx context.Context) {
	for {
		s, err := t.mux.AcceptStreamWithContext(ctx)
		if err != nil {
			return
		}
		t.wg.Go(func() {
			if err := t.incoming(ctx, s); err != nil {
				t.log.Info("incoming connection not delivered", "err", err)
				s.Close()
			}
		})
	}
}

const headTimeout = 10 * time.Second // for the first frame of a stream

func (t *Tunnel) incoming(ctx context.Context, s net.Conn) error {
	s.SetReadDeadline(time.Now().Add(headTimeout))
	f, err := protocol.ReadFrame(s)
	if err != nil {
		return fmt.Errorf("reading incoming: %w", err)
	}
	s.SetReadDeadline(time.Time{})
	var in protocol.Incoming
	if f.Kind != protocol.KindIncoming || json.Unmarshal(f.Header, &in) != nil {
		return protocol.WriteError(s, "incoming", fmt.Errorf("unexpected request of kind %v", f.Kind))
	}
	t.mu.Lock()
	h := t.ports[in.Port]
	t.mu.Unlock()
	if h == nil {
		protocol.WriteError(s, "incoming", fmt.Errorf("port %d is not stolen", in.Port))
		return s.Close()
	}
	h(ctx, s, in)
	return nil
}
