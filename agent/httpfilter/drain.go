package httpfilter

import (
	"bytes"
	"strings"
	"time"

	"golang.org/x/net/http2"
)

// A connection in HTTP/1 ends with its next answer, which says so: the one thing in
// what passes that is not as it was sent. So no request is lost that its client has
// made, or is about to make. One that makes none for drainTime sees its connection
// end as by any server that keeps none for ever. What is not HTTP, or not any more,
// goes on.

// drain begins a connection's end.
func (c *conn1) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.asked {
		c.drains = time.AfterFunc(drainTime, c.part)
	}
}

// drained is called when no more requests are passed on.
func (c *conn1) drained() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.asked = true
	if c.drains != nil {
		c.drains.Stop()
	}
}

// part ends a connection that nothing is asked on.
func (c *conn1) part() {
	c.mu.Lock()
	busy := c.turning || c.tunnel != nil || c.waiting()
	c.mu.Unlock()
	if !busy {
		c.finish()
	}
}

// last tells whether the connection ends with the answer to x, by our will.
func (u *upstream) last(x *exchange, h *head) bool {
	c := u.c
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.drains != nil && !c.turning && len(u.asked) == 1 && x.keeps && h.keeps() && h.framing.kind != untilEnd
}

// withClose is an answer's head that also says that its connection ends.
func withClose(b []byte) []byte {
	const crlf = "\r\n"
	var out []byte
	words := []string{"close"}
	for line := range bytes.SplitAfterSeq(b, []byte(crlf)) {
		name, value, _ := strings.Cut(strings.TrimSuffix(string(line), crlf), ":")
		switch {
		case strings.EqualFold(name, "connection"):
			for word := range strings.SplitSeq(value, ",") {
				if word = strings.Trim(word, " \t"); word != "" && !strings.EqualFold(word, "keep-alive") {
					words = append(words, word)
				}
			}
		case string(line) == crlf:
			out = append(out, "Connection: "+strings.Join(words, ", ")+crlf+crlf...)
		default:
			out = append(out, line...)
		}
	}
	return out
}

// In HTTP/2 the client is told twice, as the standard has it: first only that it
// should make no more requests here, and goAwayTime later, when what was under way
// has come, which was the last.
const goAwayTime = time.Second

// drain begins the connection's end.
func (c *conn2) drain() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return
	}
	_ = c.client.framer.WriteGoAway(1<<31-1, http2.ErrCodeNo, nil)
	c.client.wake()
	c.drains = time.AfterFunc(goAwayTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.dead {
			return
		}
		_ = c.client.framer.WriteGoAway(c.last, http2.ErrCodeNo, nil)
		c.client.wake()
		c.left = true
		c.part()
	})
}

// part ends a connection that has no streams any more, if its client does not. c.mu
// is held.
func (c *conn2) part() {
	if c.left && len(c.streams) == 0 && !c.dead {
		_ = c.client.conn.SetReadDeadline(time.Now().Add(lingerTime))
	}
}
