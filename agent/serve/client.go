package serve

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"mirrord/agent/files"
	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/link"
)

// Limits of one client, over both links.
const (
	maxStreams = 4096 // open at one time
	maxBusy    = 64   // one-answer requests that are worked on at one time; others wait
)

// refusalTime bounds the wait for a client to read why it was not greeted.
const refusalTime = time.Second

var errGreeting = errors.New("client was not greeted")

// A client is one daemon's use of the agent: a control link, soon a bulk link too.
//
// Goroutines: one looks after its steals, one accepts the streams of each link,
// one for each stream; client waits for all.
type client struct {
	log     *slog.Logger
	server  *Server
	name    string
	ctx     context.Context // good until the client ends
	end     context.CancelCauseFunc
	greeted atomic.Bool
	who     protocol.Client // guarded by Server.mu
	link    *link.Conn      // control's
	files   *files.Handles
	streams chan struct{} // one for each open stream
	busy    chan struct{} // one for each one-answer request at work
	steals  steals

	mu      sync.Mutex
	control *channel        // guarded by mu
	bulk    *channel        // guarded by mu; nil until it joined
	joined  chan *link.Conn // tells steals of it
	gone    bool            // guarded by mu; nothing joins any more
	bulks   sync.WaitGroup
}

// A channel is one of a client's links with the streams on it.
type channel struct {
	*link.Conn
	mux *yamux.Session
}

// client serves the client at the other end of a control link until that ends.
func (s *Server) client(ctx context.Context, conn *link.Conn, id link.ID) {
	c := &client{
		log:     s.log.With("client", id.String()),
		server:  s,
		name:    id.String(),
		link:    conn,
		files:   s.tree.Handles(),
		streams: make(chan struct{}, s.maxStreams),
		busy:    make(chan struct{}, maxBusy),
		joined:  make(chan *link.Conn, 1),
	}
	c.steals.log, c.steals.held = c.log, map[hold]func(error){}
	c.ctx, c.end = context.WithCancelCause(ctx)
	c.log.Info("client came")
	s.add(id, c)
	var wg sync.WaitGroup
	wg.Go(func() { c.steals.watch(c.ctx, conn, c.joined) })
	c.serve(conn, &c.control)
	s.remove(id)
	c.mu.Lock()
	c.gone = true
	c.mu.Unlock()
	c.bulks.Wait()
	wg.Wait()
	c.files.CloseAll()
	c.log.Info("client went", "err", context.Cause(c.ctx))
}

// join serves the client's bulk link until it or the client ends.
func (c *client) join(conn *link.Conn) {
	c.mu.Lock()
	if c.gone {
		c.mu.Unlock()
		return
	}
	c.bulks.Add(1)
	defer c.bulks.Done()
	c.mu.Unlock()
	conn.SetGrace(c.link.Grace())
	c.joined <- conn
	c.serve(conn, &c.bulk)
}

// serve answers the streams of a link until it or the client ends; either is
// the end of both.
func (c *client) serve(conn *link.Conn, as **channel) {
	session, err := yamux.Server(conn, conn.Mux())
	if err != nil {
		c.end(fmt.Errorf("starting yamux: %w", err))
		return
	}
	c.mu.Lock()
	*as = &channel{conn, session}
	c.mu.Unlock()
	team := crew.New()
	defer team.Wait()
	defer session.Close()
	defer context.AfterFunc(c.ctx, func() { session.Close() })()
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			c.end(fmt.Errorf("%v link: %w", conn.Channel(), cmp.Or(conn.Err(), err)))
			return
		}
		team.Go(func() { c.stream(stream) })
	}
}

// stream answers one stream, if the client may have so many.
func (c *client) stream(stream net.Conn) {
	defer stream.Close()
	select {
	case c.streams <- struct{}{}:
		defer func() { <-c.streams }()
	default:
		_ = protocol.WriteError(stream, "stream", fmt.Errorf("client has %d streams open: %w", cap(c.streams), unix.EAGAIN))
		return
	}
	f, err := protocol.ReadFrame(stream)
	if err != nil {
		if err != io.EOF {
			c.log.Debug("stream without a request", "err", err)
		}
		return
	}
	if !c.greeted.Load() {
		if err := c.greet(stream, f); err != nil {
			_ = stream.SetReadDeadline(time.Now().Add(refusalTime))
			_, _ = io.Copy(io.Discard, stream) // the client closes it when it has read why
			c.end(fmt.Errorf("%w: %w", errGreeting, err))
		}
		return
	}
	h, ok := handlers[f.Kind]
	if !ok {
		err := fmt.Errorf("an agent of version %d does not know this kind of request: %w", protocol.Version, unix.ENOSYS)
		_ = protocol.WriteError(stream, fmt.Sprintf("kind %d", f.Kind), err)
		return
	}
	c.server.streams[f.Kind%maxKinds].Add(1)
	if err := h(c.ctx, c, stream, f); err != nil {
		c.log.Debug("stream ended", "stream", f.Kind, "err", err)
	}
}

// greet answers the first stream, which must be a hello of our version.
func (c *client) greet(stream net.Conn, f protocol.Frame) error {
	reply, err := c.hello(f)
	if err != nil {
		return errors.Join(err, protocol.WriteError(stream, "hello", err))
	}
	c.greeted.Store(true)
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
	if len(q.Client.Name) > maxName || len(q.Client.Place) > maxName {
		return protocol.HelloReply{}, fmt.Errorf("the client's name is longer than %d bytes: %w", maxName, unix.EPROTO)
	}
	if q.GraceMS > 0 {
		c.link.SetGrace(time.Duration(min(q.GraceMS, uint64(math.MaxInt64/time.Millisecond))) * time.Millisecond)
	}
	c.server.succeed(c, q.Client)
	return c.server.hello()
}

// maxName bounds what a client calls itself.
const maxName = 128

// Name tells others who holds a port.
func (c *client) Name() string {
	c.server.mu.Lock()
	defer c.server.mu.Unlock()
	return cmp.Or(c.who.Name, "client "+c.name)
}

// Open opens a stream to the client, for a connection's bytes.
func (c *client) Open() (net.Conn, error) {
	stream, err := c.widest().mux.OpenStream()
	if err != nil {
		return nil, err // and no typed nil
	}
	return stream, nil
}

// Hears tells whether what is opened is likely to come to the client.
func (c *client) Hears() bool { return c.widest().Hears() }

// widest is the channel for connections' bytes.
func (c *client) widest() *channel {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cmp.Or(c.bulk, c.control)
}
