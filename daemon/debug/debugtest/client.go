// Package debugtest is the IDE's side of a debugger for tests: a client of the
// debug adapter protocol (DAP) that keeps all that it was told, so that two runs
// of one script can be compared, and one of Delve's own protocol.
package debugtest

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net"
	"testing"
	"time"

	"github.com/google/go-dap"
)

// patience bounds every wait: a test that needs it has failed.
const patience = 60 * time.Second

// A Client speaks to one DAP server. It is used by one goroutine, and ends the
// test when the server does not do what is asked.
type Client struct {
	t       testing.TB
	conn    net.Conn
	in      *bufio.Reader
	seq     int
	waiting []dap.EventMessage // came while something else was waited for
	all     []dap.Message
}

// Dial connects to a DAP server.
func Dial(t testing.TB, addr string) *Client {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	return New(t, conn)
}

// New initialises the server at the other end of conn as an editor does.
func New(t testing.TB, conn net.Conn) *Client {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	c := &Client{t: t, conn: conn, in: bufio.NewReader(conn)}
	c.Do("initialize", dap.InitializeRequestArguments{AdapterID: "go", PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true})
	return c
}

// Close leaves the server without a word, as an editor that crashed.
func (c *Client) Close() { c.conn.Close() }

// A request is one of any kind; the specification's have a type each.
type request struct {
	dap.Request
	Arguments any `json:"arguments,omitempty"`
}

// Send sends a request whose response is not waited for, and returns its number.
func (c *Client) Send(command string, args any) int {
	c.t.Helper()
	c.seq++
	r := request{dap.Request{ProtocolMessage: dap.ProtocolMessage{Seq: c.seq, Type: "request"}, Command: command}, args}
	b, err := json.Marshal(r)
	if err == nil {
		err = dap.WriteBaseMessage(c.conn, b)
	}
	if err != nil {
		c.t.Fatalf("sending %s: %v", command, err)
	}
	return c.seq
}

// read returns the next message.
func (c *Client) read(why string) dap.Message {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	m, err := dap.ReadProtocolMessage(c.in)
	if err != nil {
		c.t.Fatalf("waiting for %s: %v; so far:\n%s", why, err, c.Transcript())
	}
	c.all = append(c.all, m)
	return m
}

// Response waits for the response to request number seq.
func (c *Client) Response(command string, seq int) dap.ResponseMessage {
	c.t.Helper()
	for {
		switch m := c.read("the response to " + command).(type) {
		case dap.ResponseMessage:
			if m.GetResponse().RequestSeq == seq {
				return m
			}
		case dap.EventMessage:
			c.waiting = append(c.waiting, m)
		}
	}
}

// Do has the server do something.
func (c *Client) Do(command string, args any) dap.ResponseMessage {
	c.t.Helper()
	m := c.Response(command, c.Send(command, args))
	if e, ok := m.(*dap.ErrorResponse); ok {
		c.t.Fatalf("%s was refused: %s; so far:\n%s", command, words(e), c.Transcript())
	}
	return m
}

// Refused asks for what the server refuses to do, and returns its words.
func (c *Client) Refused(command string, args any) string {
	c.t.Helper()
	m := c.Response(command, c.Send(command, args))
	e, ok := m.(*dap.ErrorResponse)
	if !ok {
		c.t.Fatalf("%s was not refused: %+v", command, m)
	}
	return words(e)
}

func words(e *dap.ErrorResponse) string {
	if e.Body.Error != nil {
		return e.Body.Error.Format
	}
	return e.Message
}

// Next waits for the next event of a type that was not waited for yet.
func Next[E dap.EventMessage](c *Client) E {
	c.t.Helper()
	for i, m := range c.waiting {
		if e, ok := m.(E); ok {
			c.waiting = append(c.waiting[:i:i], c.waiting[i+1:]...)
			return e
		}
	}
	for {
		m := c.read(fmt.Sprintf("%T", *new(E)))
		if e, ok := m.(E); ok {
			return e
		}
		if e, ok := m.(dap.EventMessage); ok {
			c.waiting = append(c.waiting, e)
		}
	}
}

// Had tells whether an event of a type came that was not waited for yet.
func Had[E dap.EventMessage](c *Client) bool {
	for _, m := range c.waiting {
		if _, ok := m.(E); ok {
			return true
		}
	}
	return false
}

// End waits until the server hangs up.
func (c *Client) End() {
	c.t.Helper()
	c.conn.SetReadDeadline(time.Now().Add(patience))
	for {
		m, err := dap.ReadProtocolMessage(c.in)
		if e, ok := err.(net.Error); ok && e.Timeout() {
			c.t.Fatal("the server does not hang up")
		}
		if err != nil {
			return
		}
		c.all = append(c.all, m)
	}
}
