package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
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
// each gets them, in a goroutine, until their end or ctx's. soon: the first of
// them comes before the return.
func (t *Tunnel) CallAhead(ctx context.Context, k protocol.Kind, request, reply any, more func() (more, soon bool), each func(protocol.Ahead, []byte)) ([]byte, error) {
	s, payload, err := t.control.call(ctx, k, request, reply)
	if err != nil {
		return nil, err
	}
	follow, soon := more()
	if !follow {
		s.Close()
		return payload, nil
	}
	told := make(chan struct{})
	tell := sync.OnceFunc(func() { close(told) })
	begun := t.begin(func() {
		defer tell()
		defer s.Close()
		defer abandon(ctx, s)()
		err := readAhead(s, k, func(a protocol.Ahead, contents []byte) {
			each(a, contents)
			tell()
		})
		if err != nil && ctx.Err() == nil {
			t.log.Debug("reading ahead", "stream", k, "err", err)
		}
	})
	if !begun {
		s.Close()
	} else if soon {
		<-told
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

// Held is a port that is taken.
//
// Goroutines: one that hears the agent, until the port is released or lost, and
// one while the agent is told something.
type Held struct {
	t      *Tunnel
	stream net.Conn
	forget func()
	heard  chan struct{} // the agent's answers to what was said; closed when it says no more
	lost   chan struct{} // closed with err
	err    error

	mu   sync.Mutex
	want protocol.StealState // guarded by mu
	said protocol.StealState // guarded by mu
	done chan struct{}       // guarded by mu; closed when there is no more to say; nil: there is nothing
}

// Release gives the port back.
func (h *Held) Release() {
	h.stream.Close()
	h.forget()
}

// Released waits until the agent has given back what was released.
func (h *Held) Released(ctx context.Context) error {
	for {
		select {
		case _, more := <-h.heard:
			if !more {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Lost is why the agent has given the port to somebody else; nil: it has not.
func (h *Held) Lost() error {
	select {
	case <-h.lost:
		return h.err
	default:
		return nil
	}
}

// hear takes the agent's answers to what is said, and its words beside them, until
// that which says that the port is lost, or the end.
func (h *Held) hear(lost func(), cut func(why string)) {
	defer close(h.heard)
	defer abandon(h.t.ctx, h.stream)() // as in Watch
	for {
		var r protocol.StealReply
		_, err := protocol.ReadAnswer(h.stream, protocol.KindSteal, &r)
		if err == nil && r.Cut != "" {
			cut(r.Cut)
			continue
		}
		if err == nil {
			h.heard <- struct{}{}
			continue
		}
		if e, ok := errors.AsType[*protocol.Error](err); ok {
			h.err = errors.New(e.Msg)
			close(h.lost)
			lost()
		}
		return
	}
}

// Steal takes over a port; h gets its connections until it is released, or lost,
// which lost is called for; cut is told why connections are not mirrored to their
// end. It returns when the redirect is active.
func (t *Tunnel) Steal(ctx context.Context, q protocol.Steal, h Handler, lost func(), cut func(why string)) (*Held, error) {
	t.mu.Lock()
	t.last++
	q.ID = t.last
	t.steals[q.ID] = h
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
	held := &Held{t: t, stream: s, forget: forget, heard: make(chan struct{}), lost: make(chan struct{}), want: first, said: first}
	if !t.begin(func() { held.hear(lost, cut) }) {
		held.Release()
		return nil, net.ErrClosed
	}
	return held, nil
}

// Set has the agent know the state, and of several the last. It does not wait.
func (h *Held) Set(state protocol.StealState) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.want = state
	if h.done == nil && h.want != h.said {
		done := make(chan struct{})
		if h.t.begin(h.say) {
			h.done = done
		}
	}
}

// Wait returns when the agent has done what was Set, or the port is not held any
// more.
func (h *Held) Wait(ctx context.Context) error {
	h.mu.Lock()
	done := h.done
	h.mu.Unlock()
	if done == nil {
		return nil
	}
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (h *Held) say() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for held := true; held && h.want != h.said; {
		state := h.want
		h.mu.Unlock()
		// Where it cannot be said there is no answer.
		_ = protocol.WriteMessage(h.stream, protocol.KindSteal, state, nil)
		_, held = <-h.heard
		h.mu.Lock()
		h.said = state
	}
	close(h.done)
	h.done = nil
}
