package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"mirrord/protocol"
)

// Call does one operation that is a request and its answer, and returns the
// answer's payload. The end of ctx abandons it.
func (t *Tunnel) Call(ctx context.Context, k protocol.Kind, request, reply any) ([]byte, error) {
	s, payload, err := t.control.call(ctx, k, request, reply)
	if err != nil {
		return nil, err
	}
	s.Close()
	return payload, nil
}

// CallAhead is Call for an answer that others may follow: where more says so,
// each gets them, in a goroutine, until their end or ctx's.
func (t *Tunnel) CallAhead(ctx context.Context, k protocol.Kind, request, reply any, more func() bool, each func(protocol.Ahead, []byte)) ([]byte, error) {
	s, payload, err := t.control.call(ctx, k, request, reply)
	if err != nil {
		return nil, err
	}
	if !more() {
		s.Close()
		return payload, nil
	}
	begun := t.begin(func() {
		defer s.Close()
		defer abandon(ctx, s)()
		if err := readAhead(s, k, each); err != nil && ctx.Err() == nil {
			t.log.Debug("reading ahead", "stream", k, "err", err)
		}
	})
	if !begun {
		s.Close()
	}
	return payload, nil
}

// begin has goroutines do what Close waits for. After Close it begins nothing.
func (t *Tunnel) begin(list ...func()) (begun bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.ctx.Err() != nil {
		return false
	}
	for _, f := range list {
		t.ended.Go(f)
	}
	return true
}

func readAhead(s net.Conn, k protocol.Kind, each func(protocol.Ahead, []byte)) error {
	for {
		var a protocol.Ahead
		contents, err := protocol.ReadAnswer(s, k, &a)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		each(a, contents)
	}
}

// call sends a request on a new stream and reads its answer.
func (c *channel) call(ctx context.Context, k protocol.Kind, request, reply any) (s net.Conn, payload []byte, err error) {
	s, err = c.use(ctx, func(s net.Conn) (err error) {
		payload, err = protocol.Call(s, k, request, reply)
		return err
	})
	return s, payload, err
}

// use opens a stream and does its first exchange; the end of ctx abandons it.
func (c *channel) use(ctx context.Context, exchange func(net.Conn) error) (net.Conn, error) {
	s, err := c.mux.OpenStream()
	if err != nil {
		return nil, fmt.Errorf("opening stream: %w", err)
	}
	if err := do(ctx, s, exchange); err != nil {
		return nil, err
	}
	return s, nil
}

// do does one exchange on a stream, which an error, or the end of ctx, ends.
func do(ctx context.Context, s net.Conn, exchange func(net.Conn) error) error {
	stop := abandon(ctx, s)
	err := exchange(s)
	if !stop() && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		s.Close()
	}
	return err
}

// abandon makes the stream's reads and writes fail when ctx ends.
func abandon(ctx context.Context, s net.Conn) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.SetDeadline(time.Unix(1, 0)) })
}

// Connect connects to addr from the target; see protocol.Relay for the stream.
func (t *Tunnel) Connect(ctx context.Context, addr netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
	var reply protocol.ConnectReply
	s, _, err := t.bulk.call(ctx, protocol.KindConnect, protocol.Connect{Addr: addr}, &reply)
	return s, reply, err
}

// Datagram opens a UDP socket of the target that is connected to addr. first
// goes with the request; the answer is waited for afterwards.
func (t *Tunnel) Datagram(ctx context.Context, addr netip.AddrPort, first []byte) (net.Conn, error) {
	return t.bulk.use(ctx, func(s net.Conn) error {
		if err := protocol.WriteMessage(s, protocol.KindDatagram, protocol.Datagram{Addr: addr}, nil); err != nil {
			return err
		}
		if err := protocol.WriteDatagram(s, first); err != nil {
			return err
		}
		_, err := protocol.ReadAnswer(s, protocol.KindDatagram, new(protocol.DatagramReply))
		return err
	})
}

// A steal is a port that is taken. What is mirrored or filtered leaves it to
// others, too.
type steal struct {
	port    uint16
	mirror  bool
	filter  bool
	handler Handler
}

// Steal takes over a port; h gets its connections until it is released. It
// returns when the redirect is active.
func (t *Tunnel) Steal(ctx context.Context, q protocol.Steal, h Handler) (*Held, error) {
	t.mu.Lock()
	for _, other := range t.steals {
		if other.port == q.Port && !other.mirror && !q.Mirror && !(other.filter && q.Filter != nil) {
			t.mu.Unlock()
			return nil, fmt.Errorf("another session of yours holds it (mirrord session ls): %w", syscall.EADDRINUSE)
		}
	}
	t.last++
	q.ID = t.last
	t.steals[q.ID] = steal{q.Port, q.Mirror, q.Filter != nil, h}
	t.mu.Unlock()
	forget := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.steals, q.ID)
	}
	s, _, err := t.control.call(ctx, protocol.KindSteal, q, new(protocol.StealReply))
	if err != nil {
		forget()
		return nil, err
	}
	first := protocol.StealState{Arm: q.Arm}
	return &Held{t: t, stream: s, forget: forget, want: first, said: first}, nil
}

// Held is a port that is taken.
//
// Goroutines: one while the agent is told something.
type Held struct {
	t      *Tunnel
	stream net.Conn
	forget func()

	mu     sync.Mutex
	want   protocol.StealState // guarded by mu
	said   protocol.StealState // guarded by mu
	heard  chan struct{}       // guarded by mu; closed when there is no more to say; nil: there was nothing yet
	saying bool                // guarded by mu
}

// Release gives the port back.
func (h *Held) Release() {
	h.stream.Close()
	h.forget()
}

// Set has the agent know the state, and of several the last. It does not wait.
func (h *Held) Set(state protocol.StealState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = state
	if !h.saying && h.want != h.said {
		h.heard = make(chan struct{})
		h.saying = h.t.begin(h.say)
	}
}

// Wait returns when the agent has done what was Set, or the port is released.
func (h *Held) Wait(ctx context.Context) error {
	h.mu.Lock()
	saying, heard := h.saying, h.heard
	h.mu.Unlock()
	if !saying {
		return nil
	}
	select {
	case <-heard:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Held) say() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for h.want != h.said {
		state := h.want
		h.mu.Unlock()
		_, err := protocol.Call(h.stream, protocol.KindSteal, state, new(protocol.StealReply))
		h.mu.Lock()
		if err != nil { // the port is not held any more
			close(h.heard)
			h.heard = nil
			h.saying = false
			return
		}
		h.said = state
	}
	close(h.heard)
	h.heard = nil
	h.saying = false
}
