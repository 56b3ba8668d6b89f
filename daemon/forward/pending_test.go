package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// An answer is what a slow target says in the end.
type answer struct {
	stream net.Conn
	err    error
}

// slow makes endpoints whose dials answer when the test says so.
func slow(t *testing.T) (*Outgoing, chan answer) {
	t.Helper()
	answers := make(chan answer)
	o, err := NewOutgoing(quiet, func(ctx context.Context, _ netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		select {
		case a := <-answers:
			return a.stream, protocol.ConnectReply{}, a.err
		case <-ctx.Done():
			return nil, protocol.ConnectReply{}, ctx.Err()
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(o.Close)
	return o, answers
}

// A program is a debuggee's socket that does not block.
type program struct {
	t      *testing.T
	fd     int
	source netip.AddrPort
}

func newProgram(t *testing.T, source netip.Addr, protocol int) *program {
	t.Helper()
	family := unix.AF_INET
	if source.Is6() {
		family = unix.AF_INET6
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(source, 0))); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return &program{t, fd, addrPort(sa)}
}

func (s *program) connect(to netip.AddrPort) {
	s.t.Helper()
	if err := unix.Connect(s.fd, sockaddr(to)); err != unix.EINPROGRESS {
		s.t.Fatalf("connect = %v", err)
	}
}

// outcome waits at most so long for poll(2) to report the connection's end.
func (s *program) outcome(wait time.Duration) (known bool, errno unix.Errno) {
	s.t.Helper()
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLOUT}}
	for deadline := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			s.t.Fatal(err)
		}
		if n == 0 {
			return false, 0
		}
		no, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil {
			s.t.Fatal(err)
		}
		return true, unix.Errno(no)
	}
}

const patience = 30 * time.Second

// What does not block is never held longer than hold, and is connected as soon
// as the target has answered.
func TestConnectPending(t *testing.T) {
	for _, tt := range []struct {
		name     string
		source   netip.Addr
		protocol int
	}{
		{"IPv4", netip.MustParseAddr("127.4.3.2"), 0},
		{"IPv6", netip.IPv6Loopback(), 0},
		{"multipath", netip.MustParseAddr("127.4.3.2"), unix.IPPROTO_MPTCP},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o, answers := slow(t)
			s := newProgram(t, tt.source, tt.protocol)
			e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, tt.protocol != 0, nil)
			if err != nil || !e.Pending {
				t.Fatalf("%+v, %v", e, err)
			}
			s.connect(e.Addr)
			if known, errno := s.outcome(0); known {
				t.Fatalf("connect ended before the target answered: %v", errno)
			}
			if info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO); tt.protocol == 0 && (err != nil || info.State != unix.BPF_TCP_SYN_SENT) {
				t.Fatalf("before the target answered: %+v, %v", info, err)
			}
			ours, agent := streams(t)
			answers <- answer{stream: ours}
			if known, errno := s.outcome(patience); !known || errno != 0 {
				t.Fatalf("after the answer: %v, %v", known, errno)
			}
			if info, err := unix.GetsockoptTCPInfo(s.fd, unix.IPPROTO_TCP, unix.TCP_INFO); tt.protocol == 0 && (err != nil || info.Total_retrans != 0) {
				t.Errorf("the debuggee's kernel has asked again: %+v, %v", info, err)
			}
			if peer, err := unix.Getpeername(s.fd); err != nil || addrPort(peer) != e.Addr {
				t.Errorf("peer %v, %v", peer, err)
			}
			c, err := fileConn(s.fd)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			c.SetDeadline(time.Now().Add(patience))
			io.WriteString(c, "question")
			buf := make([]byte, protocol.MaxDatagram)
			if n, err := protocol.ReadDatagram(agent, buf); err != nil || string(buf[:n]) != "question" {
				t.Errorf("the agent read %q, %v", buf[:n], err)
			}
			protocol.WriteDatagram(agent, []byte("answer"))
			if _, err := io.ReadFull(c, buf[:6]); err != nil || string(buf[:6]) != "answer" {
				t.Errorf("the debuggee read %q, %v", buf[:6], err)
			}
		})
	}
}

// The target's answer may come before the debuggee's socket connects.
func TestConnectAfterTheAnswer(t *testing.T) {
	o, answers := slow(t)
	s := newProgram(t, netip.MustParseAddr("127.4.3.2"), 0)
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, false, nil)
	if err != nil || !e.Pending {
		t.Fatalf("%+v, %v", e, err)
	}
	ours, _ := streams(t)
	answers <- answer{stream: ours}
	s.connect(e.Addr)
	if known, errno := s.outcome(patience); !known || errno != 0 {
		t.Errorf("connect: %v, %v", known, errno)
	}
}

func TestConnectRefusedLate(t *testing.T) {
	o, answers := slow(t)
	s := newProgram(t, netip.MustParseAddr("127.4.3.2"), 0)
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, false, nil)
	if err != nil || !e.Pending {
		t.Fatalf("%+v, %v", e, err)
	}
	s.connect(e.Addr)
	answers <- answer{err: syscall.EHOSTUNREACH}
	if known, errno := s.outcome(patience); !known || errno != unix.ECONNREFUSED {
		t.Errorf("connect: %v, %v", known, errno)
	}
	if l, err := net.Listen("tcp", e.Addr.String()); err == nil {
		l.Close()
		t.Error("the endpoint's port was anybody's to have")
	}
}

// What is known in time is told at once.
func TestConnectAsyncInTime(t *testing.T) {
	o, answers := slow(t)
	go func() { answers <- answer{err: syscall.ECONNREFUSED} }()
	if e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("127.0.0.5:5"), false, nil); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("%+v, %v", e, err)
	}
	ours, _ := streams(t)
	go func() { answers <- answer{stream: ours} }()
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("127.0.0.5:5"), false, nil)
	if err != nil || e.Pending || e.Addr != o.v4.Addr() {
		t.Errorf("%+v, %v", e, err)
	}
}

// Too many that wait are an error, and the end of all lets their sockets go.
func TestConnectPendingLimit(t *testing.T) {
	o, _ := slow(t)
	o.pending = maxPending - 1
	s := newProgram(t, netip.MustParseAddr("127.4.3.2"), 0)
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, false, nil)
	if err != nil {
		t.Fatal(err)
	}
	s.connect(e.Addr)
	_, err = o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), netip.MustParseAddrPort("127.0.0.5:5"), false, nil)
	if !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("one too many: %v", err)
	}
	o.Close()
	if known, errno := s.outcome(patience); !known || errno != unix.ECONNREFUSED {
		t.Errorf("after the end: %v, %v", known, errno)
	}
	if o.pending != maxPending-1 {
		t.Errorf("%d are pending after the end", o.pending)
	}
}

// A debuggee that gives up what waits leaves no dial and no endpoint.
func TestConnectGivenUp(t *testing.T) {
	cancelled := make(chan struct{})
	o, err := NewOutgoing(quiet, func(ctx context.Context, _ netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		<-ctx.Done()
		close(cancelled)
		return nil, protocol.ConnectReply{}, ctx.Err()
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	s := newProgram(t, netip.MustParseAddr("127.4.3.2"), 0)
	e, err := o.ConnectAsync(t.Context(), netip.MustParseAddrPort("10.0.0.1:80"), s.source, false, nil)
	if err != nil || !e.Pending {
		t.Fatalf("%+v, %v", e, err)
	}
	s.connect(e.Addr)
	if err := unix.Shutdown(s.fd, unix.SHUT_RDWR); err != nil { // as close, but the number stays ours
		t.Fatal(err)
	}
	select {
	case <-cancelled:
	case <-time.After(patience):
		t.Fatal("the target is still dialled")
	}
	if o.Close(); o.pending != 0 {
		t.Errorf("%d endpoints wait", o.pending)
	}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Addr: a.Addr().As4(), Port: int(a.Port())}
	}
	return &unix.SockaddrInet6{Addr: a.Addr().As16(), Port: int(a.Port())}
}
