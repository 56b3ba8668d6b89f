package socket

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// adopted is a connection that is made as Adopt's users do, and its other end.
func adopted(t *testing.T) (*TCP, *net.TCPConn) {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	to := l.Addr().(*net.TCPAddr).AddrPort()
	fd, err := Open(to)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Connect(t.Context(), fd, netip.AddrPort{}, to, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return c, far.(*net.TCPConn)
}

// What is copied between two connections comes unchanged, so much as was wanted.
func TestCopy(t *testing.T) {
	from, source := adopted(t)
	to, sink := adopted(t)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 1<<18) // 4 MiB: more than a pipe, and sockets' buffers, have
	go func() {
		_, _ = source.Write(sent)
		_ = source.CloseWrite()
	}()
	got := make(chan []byte, 1)
	go func() {
		b, _ := io.ReadAll(sink)
		got <- b
	}()
	const first = 1<<20 + 1
	if n, err := Copy(to, from, first); n != first || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := Copy(to, from, -1); n != int64(len(sent)-first) || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
	if n, err := Copy(to, from, 1); n != 0 || err != io.EOF {
		t.Errorf("after the end: %d bytes, %v", n, err)
	}
	if err := to.CloseWrite(); err != nil {
		t.Error(err)
	}
	if b := <-got; sha256.Sum256(b) != sha256.Sum256(sent) {
		t.Errorf("%d other bytes than were sent", len(b))
	}
}

// A deadline, a close and a reset end a copy.
func TestCopyEnds(t *testing.T) {
	from, source := adopted(t)
	to, _ := adopted(t)
	_ = from.SetReadDeadline(time.Unix(1, 0))
	if _, err := Copy(to, from, -1); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after its deadline: %v", err)
	}
	_ = from.SetReadDeadline(time.Time{})
	_ = source.SetLinger(0)
	source.Close()
	if _, err := Copy(to, from, -1); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("after a reset: %v", err)
	}
	from, _ = adopted(t)
	ended := make(chan error)
	go func() {
		_, err := Copy(to, from, -1)
		ended <- err
	}()
	from.Close()
	if err := <-ended; err == nil {
		t.Error("a closed connection came to its end")
	}
}

// What is refused is said so, and a reset is one.
func TestAdopt(t *testing.T) {
	c, far := adopted(t)
	if err := errors.Join(c.SetLinger(0), c.Close()); err != nil {
		t.Error(err)
	}
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("of a reset: %v", err)
	}
	nobody := netip.MustParseAddrPort("127.0.0.1:1")
	fd, err := Open(nobody)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Connect(t.Context(), fd, netip.AddrPort{}, nobody, 0); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("of a port that nobody listens on: %v", err)
	}
}

// A connection that is closed late is ended, or reset, at once; nobody reads from it any
// more, and its descriptor is closed soon.
func TestCloseLate(t *testing.T) {
	for _, linger := range []int{-1, 0} {
		c, far := adopted(t)
		if err := c.CloseLate().SetLinger(linger); err != nil {
			t.Fatal(err)
		}
		var fd int
		_ = c.control(func(n int) error { fd = n; return nil })
		link := fmt.Sprintf("/proc/self/fd/%d", fd)
		was, err := os.Readlink(link)
		if err != nil {
			t.Fatal(err)
		}
		waits := make(chan error)
		go func() {
			_, err := New(c).Read(make([]byte, 1))
			waits <- err
		}()
		if _, err := c.Write([]byte("x")); err != nil {
			t.Fatal(err)
		}
		if _, err := far.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		_, err = far.Read(make([]byte, 1))
		if want := map[int]error{-1: io.EOF, 0: unix.ECONNRESET}[linger]; !errors.Is(err, want) {
			t.Errorf("linger %d: its peer reads %v, want %v", linger, err, want)
		}
		if err := <-waits; err != nil && !errors.Is(err, net.ErrClosed) && err != io.EOF && err != unix.ECONNRESET {
			t.Errorf("linger %d: who read from it got %v", linger, err)
		}
		if _, err := New(c).Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) {
			t.Errorf("linger %d: who reads from it gets %v", linger, err)
		}
		if err := c.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("linger %d: closing it again: %v", linger, err)
		}
		for now := was; now == was; now, _ = os.Readlink(link) { // until it is closed, or another's
			time.Sleep(lateTime / 10)
		}
	}
}

// What is accepted has both addresses and its listener's options: it is reset when
// nobody ends it in order.
func TestListener(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := Listen(netip.MustParseAddrPort(at))
		if err != nil {
			t.Fatal(err)
		}
		fd, err := Open(l.Addr())
		if err != nil {
			t.Fatal(err)
		}
		if err := Bind(fd, netip.AddrPortFrom(l.Addr().Addr(), 0)); err != nil {
			t.Fatal(err)
		}
		from, err := LocalAddr(fd)
		if err != nil {
			t.Fatal(err)
		}
		near, err := Connect(t.Context(), fd, from, l.Addr(), 0)
		if err != nil {
			t.Fatal(err)
		}
		far, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if far.Remote() != from || far.Local() != l.Addr() || near.Local() != from || near.Remote() != l.Addr() {
			t.Errorf("from %v to %v, as its client %v to %v", far.Remote(), far.Local(), near.Local(), near.Remote())
		}
		far.Close()
		if _, err := near.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
			t.Errorf("of one that was not ended in order: %v", err)
		}
		near.Close()
		ended := make(chan error)
		go func() {
			_, err := l.Accept()
			ended <- err
		}()
		if l.Close(); !errors.Is(<-ended, net.ErrClosed) {
			t.Error("a closed listener accepts")
		}
	}
}

// waitsFor tells whether a goroutine waits for input in a function.
func waitsFor(function string) bool {
	all := make([]byte, 1<<20)
	for g := range strings.SplitSeq(string(all[:runtime.Stack(all, true)]), "\n\n") {
		if strings.Contains(g, " [IO wait]:") && strings.Contains(g, function) {
			return true
		}
	}
	return false
}

// A packet comes with its descriptor, as from package net; a full socket takes nothing now.
func TestMessages(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "end")
		c, err := net.FileConn(f)
		f.Close()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		ends[i] = c.(*net.UnixConn)
	}
	near, far := New(ends[0]).(*Conn), ends[1]
	b, oob := make([]byte, 100), make([]byte, unix.CmsgSpace(4))
	for _, sent := range []struct {
		words string
		oob   []byte
		late  bool // when it is waited for
	}{{"with a descriptor", unix.UnixRights(0), false}, {"without", nil, false}, {"with one, waited for", unix.UnixRights(0), true}, {"without, waited for", nil, true}} {
		write := func() {
			for deadline := time.Now().Add(10 * time.Second); sent.late && !waitsFor("ReadMsg") && time.Now().Before(deadline); {
				runtime.Gosched()
			}
			if _, _, err := far.WriteMsgUnix([]byte(sent.words), sent.oob, nil); err != nil {
				t.Error(err)
			}
		}
		if sent.late {
			go write()
		} else {
			write()
		}
		n, oobn, err := near.ReadMsg(b, oob)
		if err != nil || string(b[:n]) != sent.words || (oobn > 0) != (sent.oob != nil) {
			t.Fatalf("%q with %d bytes of control message, %v; want %q", b[:n], oobn, err, sent.words)
		}
		if oobn == 0 {
			continue
		}
		messages, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil || len(messages) != 1 {
			t.Fatalf("%d control messages, %v", len(messages), err)
		}
		got, err := unix.ParseUnixRights(&messages[0])
		if err != nil || len(got) != 1 {
			t.Fatalf("%d descriptors, %v", len(got), err)
		}
		if flags, err := unix.FcntlInt(uintptr(got[0]), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("its flags are %#x, %v: it is open in who is started meanwhile", flags, err)
		}
		unix.Close(got[0])
	}
	packet := make([]byte, 4096)
	wrote := 0
	for n := 1; n > 0; wrote++ {
		if n, err = near.WriteNow(packet); err != nil {
			t.Fatal(err)
		}
	}
	if wrote < 2 {
		t.Error("nothing could be written")
	}
	far.Close()
	if n, err := near.WriteNow(packet); err == nil {
		t.Errorf("%d bytes are written to nobody", n)
	}
}
