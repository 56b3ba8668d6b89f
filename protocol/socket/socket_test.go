package socket

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pair is a connection over TCP, its near end a Conn.
func pair(t *testing.T) (*Conn, *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	far, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	near, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close(); far.Close() })
	far.SetDeadline(time.Now().Add(30 * time.Second))
	return New(near).(*Conn), far.(*net.TCPConn)
}

func TestReadsToTheEnd(t *testing.T) {
	c, far := pair(t)
	text := bytes.Repeat([]byte("text"), 1<<18)
	go func() {
		far.Write(text)
		far.CloseWrite()
	}()
	got, err := io.ReadAll(c)
	if err != nil || !bytes.Equal(got, text) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(text))
	}
}

// More than the socket's buffers hold, in more buffers than one call takes,
// while nobody reads at first: every write is cut at some odd place.
func TestWritesAll(t *testing.T) {
	c, far := pair(t)
	want, got := sha256.New(), sha256.New()
	var parts [][]byte
	for range 2*maxVector + 7 {
		part := bytes.Repeat([]byte{byte(rand.Int())}, 1+rand.IntN(20_000))
		want.Write(part)
		parts = append(parts, part)
	}
	tail := bytes.Repeat([]byte("tail"), 1<<20)
	want.Write(tail)
	written := make(chan error, 1)
	go func() {
		err := c.WriteBuffers(parts)
		if err == nil {
			_, err = c.Write(tail)
		}
		c.Close()
		written <- err
	}()
	if _, err := io.Copy(got, far); err != nil {
		t.Error(err)
	}
	if err := <-written; err != nil {
		t.Error(err)
	}
	if !bytes.Equal(got.Sum(nil), want.Sum(nil)) {
		t.Error("what came is not what was sent")
	}
}

// What is written last leaves with the end, in one segment, however it was cut.
func TestWriteLast(t *testing.T) {
	near, client := pair(t)
	segments := func() uint32 {
		raw, err := client.SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		var info *unix.TCPInfo
		if ctl := raw.Control(func(fd uintptr) { info, err = unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO) }); ctl != nil || err != nil {
			t.Fatal(ctl, err)
		}
		return info.Segs_in
	}
	before := segments()
	if err := near.WriteLast([][]byte{[]byte("the last "), []byte("words")}); err != nil {
		t.Fatal(err)
	}
	if err := near.Conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(client); string(got) != "the last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if n := segments() - before; n != 1 {
		t.Errorf("%d segments came", n)
	}
}

func TestEndsOfWaiting(t *testing.T) {
	t.Run("deadline", func(t *testing.T) {
		c, _ := pair(t)
		c.SetReadDeadline(time.Unix(1, 0))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("read: %v, want a deadline's error", err)
		}
	})
	t.Run("close", func(t *testing.T) {
		c, _ := pair(t)
		read := make(chan error)
		go func() {
			_, err := c.Read(make([]byte, 1))
			read <- err
		}()
		c.Close()
		if err := <-read; !errors.Is(err, net.ErrClosed) {
			t.Errorf("read: %v, want %v", err, net.ErrClosed)
		}
	})
	t.Run("reset", func(t *testing.T) {
		c, far := pair(t)
		far.SetLinger(0)
		far.Close()
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read: %v, want %v", err, syscall.ECONNRESET)
		}
		if _, err := c.Write(make([]byte, 1)); !errors.Is(err, syscall.EPIPE) {
			t.Errorf("write: %v, want %v", err, syscall.EPIPE)
		}
	})
}

func TestWithoutDescriptor(t *testing.T) {
	a, b := net.Pipe()
	defer a.Close()
	defer b.Close()
	if c := New(a); c != a {
		t.Errorf("New(%T) is a %T", a, c)
	}
}
