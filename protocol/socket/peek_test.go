package socket

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"time"
)

// What is looked at stays to be read, until it is discarded.
func TestPeek(t *testing.T) {
	near, far := pair(t)
	c := near.Conn.(*net.TCPConn)
	b := make([]byte, 16)
	if n, err := Peek(c, b, false); n != 0 || err != nil {
		t.Errorf("of a silent connection: %d bytes, %v", n, err)
	}
	go io.WriteString(far, "words")
	for range 2 {
		if n, err := Peek(c, b, true); err != nil || n == 0 || string(b[:n]) != "words"[:n] {
			t.Errorf("%q, %v", b[:n], err)
		}
	}
	if err := Discard(c, 3); err != nil {
		t.Error(err)
	}
	if _, err := io.ReadFull(near, b[:2]); err != nil || string(b[:2]) != "ds" {
		t.Errorf("after three bytes: %q, %v", b[:2], err)
	}
	_ = near.SetReadDeadline(time.Unix(1, 0))
	if _, err := Peek(c, b, true); !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("after the deadline: %v", err)
	}
	_ = near.SetReadDeadline(time.Time{})
	_ = far.CloseWrite()
	if n, err := Peek(c, b, true); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("at the end: %d bytes, %v", n, err)
	}
}
