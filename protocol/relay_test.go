package protocol

import (
	"bytes"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
)

// pair is two TCP connections joined by two Relays over a yamux session, as a
// debuggee and a remote peer are.
func pair(t *testing.T) (a, b *net.TCPConn, ended chan error) {
	p1, p2 := net.Pipe()
	s1, err := yamux.Client(p1, nil)
	if err != nil {
		t.Fatal(err)
	}
	s2, err := yamux.Server(p2, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s1.Close(); s2.Close() })
	out, err := s1.Open()
	if err != nil {
		t.Fatal(err)
	}
	in, err := s2.Accept()
	if err != nil {
		t.Fatal(err)
	}
	a, a2 := tcp(t)
	b, b2 := tcp(t)
	ended = make(chan error, 2)
	go func() { ended <- Relay(a2, out) }()
	go func() { ended <- Relay(b2, in) }()
	return a, b, ended
}

func tcp(t *testing.T) (client, server *net.TCPConn) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); s.Close() })
	deadline := time.Now().Add(30 * time.Second)
	c.SetDeadline(deadline)
	s.SetDeadline(deadline)
	return c.(*net.TCPConn), s.(*net.TCPConn)
}

func TestRelayKeepsHalfClose(t *testing.T) {
	a, b, ended := pair(t)
	want := bytes.Repeat([]byte("0123456789"), 50_000)
	go func() {
		a.Write(want)
		a.CloseWrite()
	}()
	got, err := io.ReadAll(b)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("read %d bytes of %d, %v", len(got), len(want), err)
	}
	b.Write([]byte("answer after the end"))
	b.Close()
	got, err = io.ReadAll(a)
	if err != nil || string(got) != "answer after the end" {
		t.Fatalf("read %q, %v", got, err)
	}
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("Relay = %v", err)
		}
	}
}

func TestRelayKeepsReset(t *testing.T) {
	a, b, ended := pair(t)
	a.Write([]byte("x"))
	io.ReadFull(b, make([]byte, 1))
	a.SetLinger(0)
	a.Close()
	if _, err := io.ReadAll(b); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("a reset arrived as %v", err)
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("Relay of a reset connection = nil")
		}
	}
}

// A peer that gives up after its own direction ended is noticed, though the
// other direction is silent.
func TestRelayNoticesGivingUp(t *testing.T) {
	p1, p2 := net.Pipe()
	s1, _ := yamux.Client(p1, nil)
	s2, _ := yamux.Server(p2, nil)
	t.Cleanup(func() { s1.Close(); s2.Close() })
	ours, err := s1.Open()
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := s2.Accept()
	if err != nil {
		t.Fatal(err)
	}
	client, server := tcp(t)
	ended := make(chan error, 1)
	go func() { ended <- Relay(server, ours) }()
	theirs.Write([]byte{0, 0, 0, 1, 'x', 0, 0, 0, 0}) // one byte, and the end
	if got, err := io.ReadAll(client); string(got) != "x" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	theirs.Close()
	if err := <-ended; !errors.Is(err, ErrReset) {
		t.Errorf("Relay = %v", err)
	}
}

// packets has what was written to a stream, each at once.
type packets struct {
	net.Conn
	list chan string
}

func (p *packets) Write(b []byte) (int, error) {
	p.list <- string(b)
	return len(b), nil
}

// An end that has come goes with the bytes before it, and says whether it is the last.
func TestRelayEndsWithTheLastBytes(t *testing.T) {
	for _, last := range []bool{false, true} {
		client, server := tcp(t)
		ours, theirs := net.Pipe()
		theirs.SetDeadline(time.Now().Add(30 * time.Second))
		stream := &packets{ours, make(chan string, 2)}
		ended := make(chan error, 1)
		end := func() { // the other direction's
			if _, err := theirs.Write(make([]byte, ChunkHead)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := io.WriteString(client, "last"); err != nil {
			t.Fatal(err)
		}
		if !last {
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
		}
		go func() { ended <- Relay(server, stream) }()
		want := "\x00\x00\x00\x04last\x00\x00\x00\x00"
		if last {
			if got := <-stream.list; got != want[:8] {
				t.Errorf("%q was written, want %q", got, want[:8])
			}
			end()
			if _, err := io.ReadAll(client); err != nil {
				t.Fatal(err)
			}
			if err := client.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			want = "\xff\xff\xff\xfe"
		}
		if got := <-stream.list; got != want {
			t.Errorf("%q was written, want %q", got, want)
		}
		if !last {
			end()
		}
		theirs.Close()
		if err := <-ended; err != nil {
			t.Errorf("Relay = %v", err)
		}
	}
}

// Both forms of the end of a direction end it.
func TestEnds(t *testing.T) {
	for _, end := range []string{"\x00\x00\x00\x00", "\xff\xff\xff\xfe"} {
		client, server := tcp(t)
		ours, theirs := net.Pipe()
		theirs.SetDeadline(time.Now().Add(30 * time.Second))
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		ended := make(chan error, 1)
		go func() { ended <- Relay(server, ours) }()
		if _, err := io.WriteString(theirs, "\x00\x00\x00\x02it"+end); err != nil {
			t.Fatal(err)
		}
		if got, err := io.ReadAll(client); string(got) != "it" || err != nil {
			t.Errorf("after %q the connection had %q, %v", end, got, err)
		}
		client.Close()
		if err := <-ended; err != nil {
			t.Errorf("Relay = %v", err)
		}
		ours, theirs = net.Pipe()
		go func() {
			_, _ = io.WriteString(theirs, "\x00\x00\x00\x02it"+end)
			theirs.Close()
		}()
		if got, err := io.ReadAll(NewChunked(ours)); string(got) != "it" || err != nil {
			t.Errorf("after %q the stream had %q, %v", end, got, err)
		}
	}
}
