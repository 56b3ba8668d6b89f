package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

func TestMain(m *testing.M) {
	if os.Getenv(doomedMark) != "" {
		if err := doomed(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1)
	}
	goleak.VerifyTestMain(m)
}

var quiet = slog.New(slog.DiscardHandler)

// streams returns both ends of one yamux stream.
func streams(t *testing.T) (ours, theirs net.Conn) {
	p1, p2 := net.Pipe()
	c, err := yamux.Client(p1, nil)
	if err != nil {
		t.Fatal(err)
	}
	s, err := yamux.Server(p2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	if ours, err = c.Open(); err != nil {
		t.Fatal(err)
	}
	if theirs, err = s.Accept(); err != nil {
		t.Fatal(err)
	}
	theirs.SetDeadline(time.Now().Add(30 * time.Second))
	return ours, theirs
}

// fileConn makes a net.Conn of a duplicate of fd.
func fileConn(fd int) (net.Conn, error) {
	dup, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(dup), "socket")
	defer f.Close()
	return net.FileConn(f)
}

// dialFrom connects from a source that it tells before it connects.
func dialFrom(t *testing.T, source string, expect func(netip.AddrPort) netip.AddrPort) net.Conn {
	fd, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer syscall.Close(fd)
	if err := syscall.Bind(fd, &syscall.SockaddrInet4{Addr: netip.MustParseAddr(source).As4()}); err != nil {
		t.Fatal(err)
	}
	bound, err := syscall.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	b := bound.(*syscall.SockaddrInet4)
	to := expect(netip.AddrPortFrom(netip.AddrFrom4(b.Addr), uint16(b.Port)))
	if err := syscall.Connect(fd, &syscall.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
	c, err := fileConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(30 * time.Second))
	return c
}

func TestOutgoingPairsBySource(t *testing.T) {
	one, agent1 := streams(t)
	two, agent2 := streams(t)
	next := make(chan net.Conn, 1)
	o, err := NewOutgoing(quiet, func(context.Context, netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		return <-next, protocol.ConnectReply{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	for _, x := range []struct {
		source string
		stream net.Conn
		agent  net.Conn
	}{{"127.0.0.2", one, agent1}, {"127.0.0.3", two, agent2}} {
		c := dialFrom(t, x.source, func(from netip.AddrPort) netip.AddrPort {
			next <- x.stream
			to, err := o.Connect(t.Context(), netip.AddrPort{}, from, nil)
			if err != nil {
				t.Fatal(err)
			}
			return to.Addr
		})
		io.WriteString(c, x.source)
		buf := make([]byte, protocol.MaxDatagram)
		n, err := protocol.ReadDatagram(x.agent, buf)
		if string(buf[:n]) != x.source || err != nil {
			t.Errorf("stream of %s got %q, %v", x.source, buf[:n], err)
		}
	}
}

func TestOutgoingRefusesStrangers(t *testing.T) {
	o, err := NewOutgoing(quiet, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	c, err := net.Dial("tcp", o.v4.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(30 * time.Second))
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a stranger read %d bytes, %v", n, err)
	}
}

func TestIncomingKnowsThePeerBeforeAccept(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, agent := streams(t)
	in := newIncoming(t)
	want := Peer{Client: netip.MustParseAddrPort("10.244.0.9:51000"), Local: netip.MustParseAddrPort("10.244.0.7:8080")}
	done := make(chan error)
	go func() {
		done <- in.Deliver(t.Context(), NewOffer(ours, false), want, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil)
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	got, ok := in.Peer(c.RemoteAddr().(*net.TCPAddr).AddrPort())
	if !ok || got != want {
		t.Errorf("Peer = %v, %v", got, ok)
	}
	if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
		t.Error(err)
	}
	c.Close()
	agent.Close()
	if err := <-done; err != nil {
		t.Errorf("Deliver = %v", err)
	}
}

// What a debuggee says last arrives, though its session ends with it.
func TestIncomingLastWords(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, agent := streams(t)
	ctx, end := context.WithCancel(t.Context())
	defer end()
	done := make(chan error)
	go func() {
		done <- newIncoming(t).Deliver(ctx, NewOffer(ours, false), Peer{}, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil)
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	last := bytes.Repeat([]byte("words "), 50_000)
	if _, err := c.Write(last); err != nil {
		t.Fatal(err)
	}
	c.Close()
	end()
	if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
		t.Fatal(err)
	}
	var got []byte
	for buf := make([]byte, protocol.MaxChunk); ; {
		n, err := protocol.ReadDatagram(agent, buf)
		if err != nil {
			t.Fatalf("after %d bytes of %d: %v", len(got), len(last), err)
		}
		if n == 0 {
			break
		}
		got = append(got, buf[:n]...)
	}
	if !bytes.Equal(got, last) {
		t.Errorf("%d bytes arrive of %d", len(got), len(last))
	}
	agent.Close()
	<-done
}

// A source that was given to another connection is that one's.
func TestIncomingForgetsNoSuccessor(t *testing.T) {
	in := newIncoming(t)
	source := netip.MustParseAddrPort("127.0.0.1:40000")
	first, second := &Peer{}, &Peer{Client: netip.MustParseAddrPort("10.244.0.9:51000")}
	in.peers[source] = second
	in.forget(source, first)
	if got, ok := in.Peer(source); !ok || got != *second {
		t.Errorf("Peer = %v, %v", got, ok)
	}
	in.forget(source, second)
	if _, ok := in.Peer(source); ok {
		t.Error("the peer was not forgotten")
	}
}

func TestIncomingLeavesTheStreamWhereNobodyListens(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l.Close()
	ours, _ := streams(t)
	err = newIncoming(t).Deliver(t.Context(), NewOffer(ours, false), Peer{}, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Deliver = %v", err)
	}
	if _, err := ours.Write([]byte("still ours")); err != nil {
		t.Errorf("the stream is of no use any more: %v", err)
	}
}

// Another process that has taken the port gets nothing of the cluster's.
// A listener whose queue is full, as that of a debuggee at a breakpoint, holds
// nobody up for longer than is said.
func TestIncomingToAFullQueue(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	at, in := Listener{Addr: addrPort(sa)}, newIncoming(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	for full := false; !full; {
		conn, _, err := in.open(ctx, new(Peer), at)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			t.Fatal(err)
		}
		full = info.Unacked > info.Sacked // of a listener: how many wait, and how many may but for one
	}
	short, cancel := context.WithTimeout(ctx, 100*time.Millisecond)
	defer cancel()
	_, _, err = in.open(short, new(Peer), at)
	if e, ok := errors.AsType[net.Error](err); !ok || !e.Timeout() || ctx.Err() != nil {
		t.Errorf("delivering to a full queue: %v", err)
	}
}

func TestIncomingKnowsTheListener(t *testing.T) {
	l, ino := listener(t, "127.0.0.1:0", false)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	foreign, other := listener(t, addr.String(), false)
	ours, agent := streams(t)
	in := newIncoming(t)
	err := in.Deliver(t.Context(), NewOffer(ours, false), Peer{}, Listener{Addr: addr, Inodes: []uint64{ino}}, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("Deliver = %v", err)
	}
	if len(in.peers) > 0 {
		t.Errorf("peers left: %v", in.peers)
	}
	foreign.SetDeadline(time.Now()) // whatever was connected waits in its queue
	if c, err := foreign.Accept(); err == nil {
		t.Errorf("%v was connected", c.RemoteAddr())
	}
	// To its own it is delivered.
	done := make(chan error)
	go func() {
		done <- in.Deliver(t.Context(), NewOffer(ours, false), Peer{}, Listener{Addr: addr, Inodes: []uint64{ino, other}}, nil)
	}()
	foreign.SetDeadline(time.Now().Add(patience))
	c, err := foreign.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
		t.Error(err)
	}
	c.Close()
	agent.Close()
	if err := <-done; err != nil {
		t.Errorf("Deliver = %v", err)
	}
}

// What a client said before it was delivered is kept until it is.
func TestIncomingBeginsAhead(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}
	nowhere, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nowhere.Close()
	ours, agent := streams(t)
	first := strings.Repeat("first words ", 1000)
	if err := protocol.WriteDatagram(agent, []byte(first)); err != nil {
		t.Fatal(err)
	}
	in, offer := newIncoming(t), NewOffer(ours, false)
	err = in.Deliver(t.Context(), offer, Peer{}, Listener{Addr: nowhere.Addr().(*net.TCPAddr).AddrPort()}, nil)
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Fatalf("Deliver = %v", err)
	}
	done := make(chan error, 1)
	go func() { done <- in.Deliver(t.Context(), offer, Peer{}, at, nil) }()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(patience))
	if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
		t.Error(err)
	}
	if err := errors.Join(protocol.WriteDatagram(agent, []byte("and others")), protocol.WriteDatagram(agent, nil)); err != nil {
		t.Error(err)
	}
	if b, err := io.ReadAll(c); err != nil || string(b) != first+"and others" {
		t.Errorf("the debuggee got %d bytes, %v", len(b), err)
	}
	c.Close()
	agent.Close()
	if err := <-done; err != nil {
		t.Errorf("Deliver = %v", err)
	}
}

// The answer may go with the debuggee's first words where the client has nothing to say
// before those.
func TestIncomingAnswerLingers(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_ = l.(*net.TCPListener).SetDeadline(time.Now().Add(patience))
	for words, want := range map[string]bool{
		"":                        false,
		"GET / HTTP/1.1\r\n":      false,
		"POST / HTTP/1.1\r\n\r\n": false,
		"GET / HTTP/1.1\r\ncontent-length: 2\r\n\r\n":      false,
		"GET / HTTP/1.1\r\nHost: x\r\n\r\n":                true,
		"GET / HTTP/1.1\r\n\r\nGET /more HTTP/1.1\r\n\r\n": true,
	} {
		ours, agent := streams(t)
		if words != "" {
			if err := protocol.WriteDatagram(agent, []byte(words)); err != nil {
				t.Fatal(err)
			}
		}
		done := make(chan error, 1)
		go func() {
			done <- newIncoming(t).Deliver(t.Context(), NewOffer(ours, false), Peer{}, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil)
		}()
		c, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		var got protocol.IncomingReply
		if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, &got); err != nil || got != (protocol.IncomingReply{Lingers: want}) {
			t.Errorf("%q: %+v, %v", words, got, err)
		}
		c.Close()
		agent.Close()
		if err := <-done; err != nil {
			t.Errorf("%q: %v", words, err)
		}
	}
}

// What waited is the debuggee's when the agent has granted it, with the first words
// that came before; where it does not, the debuggee gets nothing.
func TestIncomingIsGranted(t *testing.T) {
	for name, test := range map[string]struct {
		before, after string // we ask, as the first chunk
		cut           bool
	}{
		"nothing said":          {},
		"said before":           {before: "first words"},
		"said when we ask":      {after: "first words"},
		"cut":                   {before: "first words", cut: true},
		"cut, with other words": {after: "first words", cut: true},
	} {
		t.Run(name, func(t *testing.T) {
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			ours, agent := streams(t)
			in, offer := newIncoming(t), NewOffer(ours, false)
			say := func(words string) {
				if words == "" {
					return
				}
				if err := protocol.WriteDatagram(agent, []byte(words)); err != nil {
					t.Error(err)
				}
			}
			wantReply := func(want protocol.IncomingReply) {
				t.Helper()
				var got protocol.IncomingReply
				if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, &got); err != nil || got != want {
					t.Fatalf("the agent is told %+v, %v, not %+v", got, err, want)
				}
			}
			say(test.before)
			if err := errors.Join(offer.Wait(), offer.Wait()); err != nil { // told once
				t.Fatal(err)
			}
			wantReply(protocol.IncomingReply{Waits: true})
			done := make(chan error, 1)
			go func() {
				done <- in.Deliver(t.Context(), offer, Peer{}, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil)
			}()
			wantReply(protocol.IncomingReply{Asks: true})
			say(test.after)
			if test.cut {
				agent.Close()
				if err := <-done; err == nil || len(in.peers) > 0 {
					t.Errorf("Deliver = %v", err)
				}
				return
			}
			if _, err := agent.Write(protocol.Granted()); err != nil {
				t.Fatal(err)
			}
			c, err := l.Accept()
			if err != nil {
				t.Fatal(err)
			}
			c.SetDeadline(time.Now().Add(patience))
			wantReply(protocol.IncomingReply{})
			say("and others")
			if err := protocol.WriteDatagram(agent, nil); err != nil {
				t.Error(err)
			}
			if b, err := io.ReadAll(c); err != nil || string(b) != test.before+test.after+"and others" {
				t.Errorf("the debuggee got %q, %v", b, err)
			}
			c.Close()
			agent.Close()
			if err := <-done; err != nil {
				t.Errorf("Deliver = %v", err)
			}
		})
	}
}

// Where the agent does not wait any more the debuggee gets nothing.
func TestDeliverTooLate(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ours, theirs := net.Pipe()
	theirs.Close()
	in := newIncoming(t)
	if err := in.Deliver(t.Context(), NewOffer(ours, false), Peer{}, Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, nil); !errors.Is(err, io.EOF) {
		t.Errorf("Deliver = %v", err)
	}
	if len(in.peers) > 0 {
		t.Error("the debuggee got a connection")
	}
}

func newIncoming(t *testing.T) *Incoming {
	in := NewIncoming()
	t.Cleanup(in.Close)
	return in
}
