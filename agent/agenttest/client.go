package agenttest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"testing"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

// A Client is a daemon's side of a tunnel. Its session ends with the test.
type Client struct {
	*yamux.Session
	t    testing.TB
	link *link.Client
}

// Dial connects to the agent at addr without greeting it.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	dialer := link.NewDialer(slog.New(slog.DiscardHandler), link.NewID(), link.Grace, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", addr)
	})
	l, err := dialer.Control(t.Context())
	if err != nil {
		t.Fatalf("dialling agent: %v", err)
	}
	s, err := yamux.Client(l, l.Mux())
	if err != nil {
		t.Fatal(err)
	}
	c := &Client{Session: s, t: t, link: l}
	t.Cleanup(c.End)
	return c
}

// New connects to the agent at addr and greets it.
func New(t testing.TB, addr string) (*Client, protocol.HelloReply) {
	t.Helper()
	c := Dial(t, addr)
	var hello protocol.HelloReply
	if _, err := c.Ask(protocol.KindHello, protocol.Hello{Version: protocol.Version}, &hello); err != nil {
		t.Fatalf("greeting agent: %v", err)
	}
	return c, hello
}

// End ends the client, as a daemon does that says goodbye.
func (c *Client) End() {
	c.Session.Close()
	c.link.Close()
	c.link.Wait()
}

// Stream opens a stream, closed at the test's end.
func (c *Client) Stream() net.Conn {
	c.t.Helper()
	s, err := c.Open()
	if err != nil {
		c.t.Fatalf("opening stream: %v", err)
	}
	c.t.Cleanup(func() { s.Close() })
	return s
}

// Ask makes one request in a stream of its own.
func (c *Client) Ask(k protocol.Kind, request, reply any) ([]byte, error) {
	s, err := c.Open()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return protocol.Call(s, k, request, reply)
}

// Steal takes a port over; closing what it returns gives it back.
func (c *Client) Steal(port uint16) net.Conn {
	c.t.Helper()
	s := c.Stream()
	if _, err := protocol.Call(s, protocol.KindSteal, protocol.Steal{Port: port}, new(protocol.StealReply)); err != nil {
		c.t.Fatalf("stealing port %d: %v", port, err)
	}
	return s
}

// Offered waits for the agent to offer a stolen connection.
func (c *Client) Offered() (net.Conn, protocol.Incoming) {
	c.t.Helper()
	s, err := c.Accept()
	if err != nil {
		c.t.Fatalf("waiting for a stolen connection: %v", err)
	}
	c.t.Cleanup(func() { s.Close() })
	var in protocol.Incoming
	if err := ReadRequest(s, protocol.KindIncoming, &in); err != nil {
		c.t.Fatal(err)
	}
	return s, in
}

// ReadRequest reads a request of kind k into header.
func ReadRequest(s net.Conn, k protocol.Kind, header any) error {
	f, err := protocol.ReadFrame(s)
	if err != nil {
		return fmt.Errorf("reading request: %w", err)
	}
	if f.Kind != k {
		return fmt.Errorf("request is of kind %v, not %v", f.Kind, k)
	}
	return json.Unmarshal(f.Header, header)
}
