package traffic

import (
	"bytes"
	"errors"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A conversation makes sense of what is said on a connection. Its watcher's mu
// is held.
type conversation struct {
	flow   *flow
	w      *watcher
	of     *Incoming
	offset [2]int64 // of what comes next

	midway bool     // what came first is not known
	first  buffer   // of the client, until it is known what it speaks
	speaks speaker  // nil: not known yet, or of no interest
	opaque bool     // of no interest
	told   uint64   // id as a connection, 0: it is none that is told
	bytes  [2]int64 // all
}

// A speaker understands a protocol.
type speaker interface {
	// data takes bytes; false: they make no sense.
	data(d direction, b []byte, at time.Duration) bool
	// skip takes bytes that nobody has seen; false: they were needed.
	skip(d direction, n int) bool
	// end is the direction's orderly end.
	end(d direction, at time.Duration)
	// abandon ends what is unanswered, for a reason.
	abandon(at time.Duration, why string)
}

func newConversation(f *flow, of *Incoming, midway bool) *conversation {
	return &conversation{flow: f, w: f.w, of: of, midway: midway, first: buffer{w: f.w}}
}

const preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

func (c *conversation) data(d direction, b []byte, at time.Duration) {
	c.bytes[d] += int64(len(b))
	c.offset[d] += int64(len(b))
	switch {
	case c.opaque:
	case c.speaks != nil:
		c.say(d, b, at)
	case c.midway:
		if d == client {
			c.catchUp(b, at)
		}
	case d == server: // it speaks first
		c.tellConnection(at)
	default:
		c.begin(b, at)
	}
}

// begin finds out what the client speaks.
func (c *conversation) begin(b []byte, at time.Duration) {
	n := min(len(b), maxHead-len(c.first.b))
	if n == 0 || !c.first.add(b[:n]) {
		c.tellConnection(at)
		return
	}
	rest := b[n:]
	b = c.first.b
	if len(b) < len(preface) && bytes.HasPrefix([]byte(preface), b) {
		return
	}
	if bytes.HasPrefix(b, []byte(preface)) {
		c.speaks = newHTTP2(c)
	} else if yes, known := isRequest(b); yes {
		c.speaks = newHTTP1(c)
	} else if known {
		c.tellConnection(at)
		return
	} else {
		return
	}
	// All of it was counted when it came.
	said := append(append([]byte(nil), b...), rest...)
	c.first.clear()
	c.say(client, said, at)
}

func (c *conversation) say(d direction, b []byte, at time.Duration) {
	if !c.speaks.data(d, b, at) && !c.opaque {
		c.speaks.abandon(at, "what follows is no HTTP that could be understood")
		c.ignore()
	}
}

// catchUp looks for the beginning of a request.
func (c *conversation) catchUp(b []byte, at time.Duration) {
	if yes, _ := isRequest(b); !yes {
		return
	}
	c.midway = false
	c.begin(b, at)
}

func (c *conversation) skip(d direction, n int, at time.Duration) {
	c.bytes[d] += int64(n)
	c.offset[d] += int64(n)
	switch {
	case c.opaque || c.midway:
	case c.speaks == nil:
		c.tellConnection(at)
	case !c.speaks.skip(d, n):
		c.resume(at)
	}
}

// lost is called where bytes were skipped that nobody knows the order of.
func (c *conversation) lost(both [2]int, at time.Duration) {
	for d, n := range both {
		c.bytes[d] += int64(n)
		c.offset[d] += int64(n)
	}
	if !c.opaque {
		c.resume(at)
	}
}

// resume begins anew with the next request that is seen to begin.
func (c *conversation) resume(at time.Duration) {
	c.w.miss()
	if c.speaks != nil {
		c.speaks.abandon(at, "missed: there was too much at once")
	}
	c.speaks, c.midway = nil, true
	c.first.clear()
}

func (c *conversation) end(d direction, at time.Duration) {
	if c.speaks != nil {
		c.speaks.end(d, at)
	}
}

func (c *conversation) ended(err error, at time.Duration) {
	if c.speaks != nil {
		c.speaks.abandon(at, endWords(err))
	}
	c.ignore()
	if c.told == 0 && (c.midway || c.speaks != nil) {
		return
	}
	if c.told == 0 { // it has ended before anybody knew
		c.told = c.w.source.id()
	}
	k := c.connection(at)
	k.Open = false
	c.w.source.tell(ide.SessionEvent{Kind: ide.EventConnection, Connection: k})
}

func endWords(err error) string {
	switch {
	case err == nil:
		return "the connection ended before the answer did"
	case errors.Is(err, protocol.ErrReset), errors.Is(err, unix.ECONNRESET):
		return "the connection was reset"
	}
	return "the connection broke: " + err.Error()
}

// tellConnection tells of a connection that is not HTTP.
func (c *conversation) tellConnection(at time.Duration) {
	c.told = c.w.source.id()
	c.w.source.tell(ide.SessionEvent{Kind: ide.EventConnection, Connection: c.connection(at)})
	c.ignore()
}

func (c *conversation) connection(at time.Duration) *ide.Connection {
	k := c.of.connection(c.told)
	k.BytesIn, k.BytesOut = c.bytes[client]+c.flow.passed[client].Load(), c.bytes[server]+c.flow.passed[server].Load()
	k.MS, k.Open = ms(c.w.began.Add(at).Sub(c.of.begun)), true
	return k
}

// ignore has no more copies made.
func (c *conversation) ignore() {
	c.opaque = true
	c.first.clear()
	for d := range c.flow.needless {
		c.flow.needless[d].Store(forever)
	}
}

// spare says that the next n bytes of a direction are not needed.
func (c *conversation) spare(d direction, from, n int64) {
	if n > 0 && from+n > 0 {
		c.flow.needless[d].Store(from + n)
	}
}
