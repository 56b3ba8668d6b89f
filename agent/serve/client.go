package serve

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"mirrord/agent/files"
	"mirrord/protocol"
	"mirrord/protocol/link"
)

// Limits of one client.
const (
	maxStreams = 4096 // open at one time
	maxBusy    = 64   // one-answer requests that are worked on at one time; others wait
)

// A client is one link's use of the agent.
//
// Goroutines: one for each stream; serve waits for all.
type client struct {
	log     *slog.Logger
	server  *Server
	name    string
	session *yamux.Session
	files   *files.Handles
	streams chan struct{} // one for each open stream
	busy    chan struct{} // one for each one-answer request at work
}

// client serves the client at the other end of conn until its link ends.
func (s *Server) client(ctx context.Context, conn io.ReadWriteCloser, name string) {
	log := s.log.With("client", name)
	session, err := yamux.Server(conn, link.Mux())
	if err != nil {
		log.Error("client not served", "err", err)
		return
	}
	c := &client{
		log:     log,
		server:  s,
		name:    name,
		session: session,
		files:   s.tree.Handles(),
		streams: make(chan struct{}, s.maxStreams),
		busy:    make(chan struct{}, maxBusy),
	}
	log.Info("client came")
	err = c.serve(ctx)
	log.Info("client went", "err", err)
}

// serve answers streams until the link ends; all that the client had is undone then.
func (c *client) serve(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer c.files.CloseAll()
	defer cancel()
	defer c.session.Close()
	defer context.AfterFunc(ctx, func() { c.session.Close() })()

	if err := c.greet(); err != nil {
		return err
	}
	for {
		stream, err := c.session.AcceptStream()
		if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
			return nil
		}
		if err != nil {
			return err
		}
		select {
		case c.streams <- struct{}{}:
			wg.Go(func() {
				c.stream(ctx, stream)
				<-c.streams
			})
		default:
			_ = protocol.WriteError(stream, "stream", fmt.Errorf("client has %d streams open: %w", cap(c.streams), unix.EAGAIN))
			stream.Close()
		}
	}
}

// greet answers the first stream, which must be a hello of our version.
func (c *client) greet() error {
	stream, err := c.session.AcceptStream()
	if err != nil {
		return err
	}
	defer stream.Close()
	f, err := protocol.ReadFrame(stream)
	if err != nil {
		return fmt.Errorf("reading hello: %w", err)
	}
	reply, err := c.hello(f)
	if err != nil {
		return errors.Join(err, protocol.WriteError(stream, "hello", err))
	}
	return protocol.WriteMessage(stream, protocol.KindHello, reply, nil)
}

func (c *client) hello(f protocol.Frame) (protocol.HelloReply, error) {
	var q protocol.Hello
	if f.Kind != protocol.KindHello {
		return protocol.HelloReply{}, fmt.Errorf("first stream is of kind %v (%d), not hello: %w", f.Kind, f.Kind, unix.EPROTO)
	}
	if err := json.Unmarshal(f.Header, &q); err != nil {
		return protocol.HelloReply{}, fmt.Errorf("decoding hello: %w", err)
	}
	if q.Version != protocol.Version {
		return protocol.HelloReply{}, fmt.Errorf("the client speaks version %d (build %s) of the protocol, this agent version %d (build %s): %w",
			q.Version, q.Build, protocol.Version, protocol.Build, unix.EPROTO)
	}
	return c.server.hello()
}

// stream gives one stream to the feature of its kind.
func (c *client) stream(ctx context.Context, stream net.Conn) {
	defer stream.Close()
	f, err := protocol.ReadFrame(stream)
	if err != nil {
		if err != io.EOF {
			c.log.Debug("stream without a request", "err", err)
		}
		return
	}
	h, ok := handlers[f.Kind]
	if !ok {
		err := fmt.Errorf("an agent of version %d does not know this kind of request: %w", protocol.Version, unix.ENOSYS)
		_ = protocol.WriteError(stream, fmt.Sprintf("kind %d", f.Kind), err)
		return
	}
	if err := h(ctx, c, stream, f); err != nil {
		c.log.Debug("stream ended", "stream", f.Kind, "err", err)
	}
}

// Name tells others who holds a port.
func (c *client) Name() string { return "client " + c.name }

// Open opens a stream to the client.
func (c *client) Open() (net.Conn, error) {
	stream, err := c.session.OpenStream()
	if err != nil {
		return nil, err // and no typed nil
	}
	return stream, nil
}
