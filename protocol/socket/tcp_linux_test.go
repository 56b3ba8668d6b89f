package socket

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
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
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	c, err := Adopt(fd, netip.AddrPort{}, to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	if err := c.Connected(&unix.SockaddrInet4{Addr: to.Addr().As4(), Port: int(to.Port())}); err != nil {
		t.Fatal(err)
	}
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
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	refused, err := Adopt(fd, netip.AddrPort{}, netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	defer refused.Close()
	if err := refused.Connected(&unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}, Port: 1}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("of a port that nobody listens on: %v", err)
	}
}
