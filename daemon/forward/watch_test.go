package forward

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"

	"mirrord/protocol"
)

// A watched connection notes what it is shown.
type watched struct {
	mu    sync.Mutex
	shown []string // guarded by mu
	ended chan struct{}
}

func newWatched() *watched { return &watched{ended: make(chan struct{})} }

func (w *watched) note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.shown = append(w.shown, fmt.Sprintf(format, args...))
}

func (w *watched) Answered(err error) { w.note("answered %v", err) }
func (w *watched) Sends(b []byte)     { w.note("sends %q", b) }
func (w *watched) Receives(b []byte)  { w.note("receives %q", b) }
func (w *watched) Ended(err error) {
	w.note("ended %v", err)
	close(w.ended) // once
}

// wants compares what was shown, after the end.
func (w *watched) wants(t *testing.T, want ...string) {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if got := strings.Join(w.shown, ", "); got != strings.Join(want, ", ") {
		t.Errorf("shown: %s, want %s", got, strings.Join(want, ", "))
	}
}

// A connection is shown from its answer to its end, and one that nobody comes
// for has an end, too.
func TestWatchOutgoing(t *testing.T) {
	next := make(chan answer, 1)
	o, err := NewOutgoing(quiet, func(context.Context, netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		a := <-next
		return a.stream, protocol.ConnectReply{}, a.err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	refused := newWatched()
	next <- answer{err: syscall.ECONNREFUSED}
	if _, err := o.Connect(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.9:9"), refused); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Connect = %v", err)
	}
	refused.wants(t, "answered connection refused")

	used := newWatched()
	ours, agent := streams(t)
	c := dialFrom(t, "127.0.0.2", func(from netip.AddrPort) netip.AddrPort {
		next <- answer{stream: ours}
		e, err := o.Connect(t.Context(), netip.AddrPort{}, from, used)
		if err != nil {
			t.Fatal(err)
		}
		return e.Addr
	})
	io.WriteString(c, "question")
	buf := make([]byte, protocol.MaxDatagram)
	if n, err := protocol.ReadDatagram(agent, buf); string(buf[:n]) != "question" || err != nil {
		t.Errorf("%q, %v", buf[:n], err)
	}
	protocol.WriteDatagram(agent, []byte("answer"))
	protocol.WriteDatagram(agent, nil)
	if b, err := io.ReadAll(c); string(b) != "answer" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	<-used.ended
	used.wants(t, "answered <nil>", `sends "question"`, `receives "answer"`, `receives ""`, `sends ""`, "ended <nil>")

	for _, end := range []func(){
		func() { // another takes its source
			ours, _ := streams(t)
			next <- answer{stream: ours}
			if _, err := o.Connect(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.9:9"), nil); err != nil {
				t.Error(err)
			}
		},
		o.Close,
	} {
		left := newWatched()
		ours, _ := streams(t)
		next <- answer{stream: ours}
		if _, err := o.Connect(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.9:9"), left); err != nil {
			t.Fatal(err)
		}
		end()
		<-left.ended
		left.wants(t, "answered <nil>", "ended <nil>")
	}
	late := newWatched()
	ours, _ = streams(t)
	next <- answer{stream: ours}
	if _, err := o.Connect(t.Context(), netip.AddrPort{}, netip.MustParseAddrPort("127.0.0.9:9"), late); !errors.Is(err, net.ErrClosed) {
		t.Errorf("after the session's end: %v", err)
	}
	<-late.ended
}

func TestWatchPending(t *testing.T) {
	o, answers := slow(t)
	s := newProgram(t, netip.MustParseAddr("127.4.3.2"), 0)
	w := newWatched()
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, false, w)
	if err != nil || !e.Pending {
		t.Fatalf("%+v, %v", e, err)
	}
	w.wants(t)
	s.connect(e.Addr)
	ours, agent := streams(t)
	answers <- answer{stream: ours}
	if known, errno := s.outcome(patience); !known || errno != 0 {
		t.Fatalf("%v, %v", known, errno)
	}
	agent.Close() // without an end: a reset
	<-w.ended
	w.wants(t, "answered <nil>", "ended "+protocol.ErrReset.Error())
}

func TestWatchDatagrams(t *testing.T) {
	d, opened := datagrams(t)
	fd, source := debuggeeSocket(t)
	w := newWatched()
	at, err := d.Endpoint(resolver, source, 0, func() Watch { return w })
	if err != nil {
		t.Fatal(err)
	}
	c := udpConn(t, fd, at)
	io.WriteString(c, "question")
	protocol.WriteDatagram(<-opened, []byte("answer"))
	if n, err := c.Read(make([]byte, 10)); n != 6 || err != nil {
		t.Errorf("%d, %v", n, err)
	}
	d.Close()
	<-w.ended
	w.wants(t, `sends "question"`, "answered <nil>", `receives "answer"`, "ended <nil>")
}

func TestWatchIncoming(t *testing.T) {
	l := func() net.Listener {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		return l
	}()
	ours, agent := streams(t)
	w := newWatched()
	at := Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}
	done := make(chan error)
	go func() { done <- newIncoming(t).Deliver(t.Context(), NewOffer(ours, false), Peer{}, at, w) }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
		t.Error(err)
	}
	protocol.WriteDatagram(agent, []byte("question"))
	protocol.WriteDatagram(agent, nil)
	if b, err := io.ReadAll(c); string(b) != "question" || err != nil {
		t.Errorf("%q, %v", b, err)
	}
	c.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
	<-w.ended
	w.wants(t, "answered <nil>", `receives "question"`, `receives ""`, `sends ""`, "ended <nil>")

	l.Close()
	nobody := newWatched()
	ours, _ = streams(t)
	if err := newIncoming(t).Deliver(t.Context(), NewOffer(ours, false), Peer{}, at, nobody); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Deliver = %v", err)
	}
	nobody.wants(t) // it is not the debuggee's
}
