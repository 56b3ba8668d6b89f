package httpfilter

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// A client that speaks TLS says first which server it wants, in the clear. That is
// looked at, and stays to be read: the connection is opened if it can be (Secure), so
// that its requests are seen; else it is, as a whole, that holder's who wants all of
// the server's, or the pod's.

const (
	handshake = 0x16 // the first byte of TLS
	maxHello  = 128 << 10
	openTime  = 30 * time.Second // for the client's part of a handshake
)

// A Secured is what a client's TLS is opened by.
type Secured struct {
	Config *tls.Config
	Exits  Exits  // of its requests
	Done   func() // is called when Exits is not used any more, or never was
}

var (
	errTLS  = errors.New("the client's TLS is to be opened")
	errSeen = errors.New("it is seen")
)

// hello decides what becomes of a connection that may be in TLS. errTLS: it is
// opened by c.secured; errForeign: it is passed on as it is.
func (c *conn1) hello() error {
	if c.exits.Deaf() { // nobody takes part in what is a copy
		return errForeign
	}
	hello, err := c.peek()
	if err != nil {
		return err
	}
	if hello == nil || c.saidMeanwhile() {
		return errForeign
	}
	if c.secured = c.exits.Secure(hello); c.secured != nil {
		if c.saidMeanwhile() {
			c.secured.Done()
			return errForeign
		}
		return errTLS
	}
	holder, _ := c.exits.Choose(&filter.Request{ServerName: hello.ServerName, Unseen: true})
	if holder == nil {
		return errForeign
	}
	u, err := c.turn(holder, nil, c.in.kept())
	if err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if u != nil && c.tunnel == nil {
		c.tunnel, c.current = u, u
		c.changed.Broadcast()
	}
	return errForeign
}

// saidMeanwhile tells whether the pod has spoken, or is not to any more: then the
// client's bytes are its.
func (c *conn1) saidMeanwhile() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tunnel != nil {
		return true
	}
	if !c.spoken {
		c.spoken, c.current = true, &upstream{} // who was opened meanwhile has no say
		c.exits.Spoke(false)
	}
	return false
}

// peek reads a client's hello, which stays to be passed on. nil: there is none.
func (c *conn1) peek() (hello *tls.ClientHelloInfo, err error) {
	_ = c.client.SetReadDeadline(time.Now().Add(headTime))
	defer func() { _ = c.client.SetReadDeadline(time.Time{}) }()
	r := &helloReader{Conn: c.client, c: c}
	_ = tls.Server(r, &tls.Config{GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
		hello = h
		return nil, errSeen
	}}).Handshake() // what it fails with is told by hello
	c.mu.Lock()
	over := c.over || c.dead
	c.mu.Unlock()
	switch {
	case over:
		return nil, errOver
	case hello != nil, r.err == nil, r.err == io.EOF, errors.Is(r.err, os.ErrDeadlineExceeded):
		return hello, nil
	}
	return nil, r.err
}

// A helloReader is a connection whose bytes stay in c.in, and to which nothing is
// written.
type helloReader struct {
	net.Conn
	c   *conn1
	at  int // of what is kept
	err error
}

func (r *helloReader) Read(b []byte) (int, error) {
	if r.at == len(r.c.in.kept()) {
		if r.at > maxHello {
			return 0, io.EOF
		}
		if r.err = r.c.in.fill(); r.err != nil {
			return 0, r.err
		}
	}
	n := copy(b, r.c.in.kept()[r.at:])
	r.at += n
	return n, nil
}

func (*helloReader) Write(b []byte) (int, error)      { return len(b), nil }
func (*helloReader) SetWriteDeadline(time.Time) error { return nil }
func (*helloReader) Close() error                     { return nil }

// within goes on in what the client says within TLS.
func (c *conn1) within(ctx context.Context) error {
	defer c.secured.Done()
	c.dropAll()
	low := &rest{c.client, io.MultiReader(bytes.NewReader(bytes.Clone(c.in.kept())), c.client)}
	opened := tls.Server(low, c.secured.Config)
	handshaking, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if err := opened.HandshakeContext(handshaking); err != nil {
		_ = c.client.Close()
		return fmt.Errorf("opening the client's TLS: %w", err)
	}
	return Serve(ctx, socket.NewTLS(opened, low), c.secured.Exits)
}

// A rest is a connection of which something was read already.
type rest struct {
	Conn
	in io.Reader
}

func (r *rest) Read(b []byte) (int, error) { return r.in.Read(b) }

// SetLinger is for reset.
func (r *rest) SetLinger(sec int) error { return socket.SetLinger(r.Conn, sec) }
