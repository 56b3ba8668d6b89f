package agenttest

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

// A Client is a daemon's side of a tunnel. Its sessions end with the test.
type Client struct {
	*yamux.Session                // over the control link
	Bulk           *yamux.Session // nil before it was greeted
	t              testing.TB
	dialer         *link.Dialer
	links          []*link.Client

	mu    sync.Mutex
	conns []net.Conn // guarded by mu; below the links
	bulk  int        // guarded by mu; the first of them that may be the bulk link's
}

// Dial connects to the agent at addr without greeting it.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	c := &Client{t: t}
	c.dialer = link.NewDialer(slog.New(slog.DiscardHandler), link.NewID(), link.Grace, func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		conn, err := d.DialContext(ctx, "tcp", addr)
		if err == nil {
			c.mu.Lock()
			defer c.mu.Unlock()
			c.conns = append(c.conns, conn)
		}
		return conn, err
	})
	l, err := c.dialer.Control(t.Context())
	if err != nil {
		t.Fatalf("dialling agent: %v", err)
	}
	t.Cleanup(c.End)
	c.Session = c.session(l)
	return c
}

func (c *Client) session(l *link.Client) *yamux.Session {
	c.t.Helper()
	c.links = append(c.links, l)
	s, err := yamux.Client(l, l.Mux())
	if err != nil {
		c.t.Fatal(err)
	}
	return s
}

// New connects to the agent at addr, greets it and joins a bulk link.
func New(t testing.TB, addr string) (*Client, protocol.HelloReply) {
	t.Helper()
	c := Dial(t, addr)
	var hello protocol.HelloReply
	if _, err := c.Ask(protocol.KindHello, protocol.Hello{Version: protocol.Version}, &hello); err != nil {
		t.Fatalf("greeting agent: %v", err)
	}
	c.mu.Lock()
	c.bulk = len(c.conns)
	c.mu.Unlock()
	c.Bulk = c.session(c.dialer.Bulk())
	_, err := c.AskBulk(protocol.KindHello, protocol.Hello{Version: protocol.Version}, new(protocol.HelloReply))
	if !errors.Is(err, unix.EALREADY) { // it is answered, so the link is there
		t.Fatalf("joining bulk link: %v", err)
	}
	return c, hello
}

// CutBulk breaks the connections below the bulk link, which connects again.
func (c *Client) CutBulk() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, conn := range c.conns[c.bulk:] {
		conn.Close()
	}
	c.bulk = len(c.conns)
}

// End ends the client, as a daemon does that says goodbye.
func (c *Client) End() {
	if c.Bulk != nil {
		c.Bulk.Close()
	}
	if c.Session != nil {
		c.Session.Close()
	}
	for _, l := range c.links {
		l.Close()
		l.Wait()
	}
}

// Accept waits for a stream that the agent opens.
func (c *Client) Accept() (net.Conn, error) {
	return cmp.Or(c.Bulk, c.Session).Accept()
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
	return ask(c.Session, k, request, reply)
}

// AskBulk makes one over the bulk link.
func (c *Client) AskBulk(k protocol.Kind, request, reply any) ([]byte, error) {
	return ask(c.Bulk, k, request, reply)
}

func ask(session *yamux.Session, k protocol.Kind, request, reply any) ([]byte, error) {
	s, err := session.Open()
	if err != nil {
		return nil, err
	}
	defer s.Close()
	return protocol.Call(s, k, request, reply)
}

// Steal takes a port over; closing what it returns gives it back. It is asked
// for where its connections are offered, so that what was said of these before
// the port was given back also comes before.
func (c *Client) Steal(port uint16) net.Conn {
	c.t.Helper()
	s, err := cmp.Or(c.Bulk, c.Session).Open()
	if err != nil {
		c.t.Fatalf("opening stream: %v", err)
	}
	c.t.Cleanup(func() { s.Close() })
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
