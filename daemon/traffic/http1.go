package traffic

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// maxPipelined bounds the requests of a connection that wait for an answer.
const maxPipelined = 100

// headPart is how much is taken at a time that may be a head's, or follow it.
const headPart = 4 << 10

// maxLine bounds the line of a chunk's size, with its extensions.
const maxLine = 4 << 10

// An http1 is a conversation in HTTP/1.
type http1 struct {
	c     *conversation
	sides [2]reader
	asked []*exchange // not answered yet, in order
}

// A reader is where one direction is.
type reader struct {
	state state
	part  buffer // of a head or line
	left  int64  // of a body or chunk
	x     *exchange
	m     *message
}

type state uint8

const (
	inHead state = iota
	inBody       // of a known length
	inSize       // of a chunk
	inChunk
	afterChunk // its CRLF
	inTrailer
	untilEnd // of the direction
	stray    // what nobody asked for, up to the next request
)

func newHTTP1(c *conversation) *http1 {
	h := &http1{c: c}
	for d := range h.sides {
		h.sides[d].part.w = c.w
	}
	return h
}

func (h *http1) data(d direction, b []byte, at time.Duration) (ok bool) {
	r := &h.sides[d]
	for len(b) > 0 && !h.c.opaque {
		switch r.state {
		case inHead:
			b, ok = h.head(d, b, at)
		case inBody, inChunk:
			n := min(int64(len(b)), r.left)
			if h.unsent(d, b) {
				r.state = inHead
				continue
			}
			r.x.add(r.m, b[:n])
			b, ok = b[n:], true
			h.advance(d, n, at)
		case inSize:
			if h.unsent(d, b) {
				r.state = inHead
				continue
			}
			b, ok = r.line(b, r.size)
		case afterChunk:
			b, ok = r.line(b, func(line []byte) bool {
				r.state = inSize
				return len(line) == 0
			})
		case inTrailer:
			b, ok = r.line(b, func(line []byte) bool {
				if len(line) == 0 {
					h.complete(d, at)
				} else {
					r.x.trail(r.m, parseFields(line))
				}
				return true
			})
		case untilEnd:
			r.x.add(r.m, b)
			b, ok = nil, true
			h.spare(d)
		case stray:
			return true
		}
		if !ok {
			return false
		}
	}
	return true
}

// advance goes n bytes on in a body or chunk.
func (h *http1) advance(d direction, n int64, at time.Duration) {
	r := &h.sides[d]
	if r.left -= n; r.left > 0 {
		h.spare(d)
		return
	}
	if r.state == inChunk {
		r.state = afterChunk
		return
	}
	h.complete(d, at)
}

// spare has no more of a body copied than is kept.
func (h *http1) spare(d direction) {
	r := &h.sides[d]
	if !r.m.full() {
		return
	}
	left := r.left
	if r.state == untilEnd {
		left = 1 << 30 // it is told again
	}
	h.c.spare(d, h.c.offset[d], left)
}

func (h *http1) skip(d direction, n int) bool {
	r := &h.sides[d]
	switch {
	case r.state == stray:
	case (r.state == inBody || r.state == inChunk) && int64(n) <= r.left:
		r.x.pass(r.m, n)
		h.advance(d, int64(n), h.c.w.now())
	case r.state == untilEnd:
		r.x.pass(r.m, n)
		h.spare(d)
	default:
		return false
	}
	return true
}

// head takes a part of a head, and returns what follows it.
func (h *http1) head(d direction, b []byte, at time.Duration) (rest []byte, ok bool) {
	r := &h.sides[d]
	if d == server && len(h.asked) == 0 { // as a server that tires of waiting says
		r.state = stray
		return nil, true
	}
	if len(r.part.b) == 0 { // some end a body with an empty line
		if b = bytes.TrimLeft(b, "\r\n"); len(b) == 0 {
			return nil, true
		}
	}
	end := -1
	for end < 0 {
		if len(b) == 0 {
			return nil, true
		}
		n, had := min(len(b), headPart), len(r.part.b)
		if !r.part.add(b[:n]) {
			return nil, h.huge(d, b, at)
		}
		if end = headEnd(r.part.b, had); end >= 0 {
			n = end - had
		}
		b = b[n:]
	}
	head := append([]byte(nil), r.part.b[:end]...)
	r.part.clear()
	first, lines := firstLine(head)
	if d == client {
		ok = h.request(first, parseFields(lines), at)
	} else {
		ok = h.response(first, parseFields(lines), at)
	}
	return b, ok
}

// huge tells what can be told of a head that there is no room for.
func (h *http1) huge(d direction, b []byte, at time.Duration) bool {
	first, lines := firstLine(append(append([]byte(nil), h.sides[d].part.b...), b...))
	if len(lines) == 0 {
		return false
	}
	if d == client {
		if method, path, proto, ok := parseRequestLine(first); ok {
			x := h.c.ask(at, method, path, "", proto, nil)
			x.request.truncated = true
			h.asked = append(h.asked, x)
		}
	}
	h.abandon(at, "its head is too large to be followed")
	h.c.ignore()
	return true
}

func (h *http1) request(first string, fields [][2]string, at time.Duration) bool {
	method, path, proto, ok := parseRequestLine(first)
	f, known := framingOf(fields, 0)
	if !ok || !known || len(h.asked) == maxPipelined {
		return false
	}
	x := h.c.ask(at, method, path, field(fields, "Host"), proto, fields)
	h.asked = append(h.asked, x)
	if answers := &h.sides[server]; answers.state == stray {
		answers.state = inHead
	}
	h.sides[client].x, h.sides[client].m = x, &x.request
	h.body(client, f, at)
	return true
}

func (h *http1) response(first string, fields [][2]string, at time.Duration) bool {
	status, ok := parseStatusLine(first)
	if !ok {
		return false
	}
	x := h.asked[0]
	if status < 200 && status != http.StatusSwitchingProtocols {
		return true // the answer is still to come
	}
	x.status = status
	x.head(&x.response, fields)
	h.sides[server].x, h.sides[server].m = x, &x.response
	switch {
	case status == http.StatusSwitchingProtocols, x.method == http.MethodConnect && status < 300:
		x.finish(at, "")
		h.asked = h.asked[1:]
		h.abandon(at, "the connection was given to another protocol")
		h.c.ignore()
		return true
	case x.method == http.MethodHead, status == http.StatusNoContent, status == http.StatusNotModified:
		h.complete(server, at)
		return true
	}
	f, known := framingOf(fields, -1)
	if known {
		h.body(server, f, at)
	}
	return known
}

// body begins with a body.
func (h *http1) body(d direction, f framing, at time.Duration) {
	r := &h.sides[d]
	r.left = f.length
	switch {
	case f.chunked:
		r.state = inSize
	case f.length < 0:
		r.state = untilEnd
	case f.length == 0:
		h.complete(d, at)
	default:
		r.state = inBody
	}
}

// complete is the end of a message.
func (h *http1) complete(d direction, at time.Duration) {
	r := &h.sides[d]
	r.state = inHead
	if d == server {
		r.x.finish(at, "")
		h.asked = h.asked[1:]
	}
	r.x, r.m = nil, nil
}

// unsent tells whether a client, which has asked whether it may send its body
// and was told no, goes on with another request.
func (h *http1) unsent(d direction, b []byte) bool {
	x := h.sides[d].x
	if d != client || !x.done || x.request.bytes > 0 || field(x.request.fields, "Expect") == "" {
		return false
	}
	yes, _ := isRequest(b)
	return yes
}

func (h *http1) end(d direction, at time.Duration) {
	r := &h.sides[d]
	if r.state == untilEnd {
		h.complete(d, at)
	}
}

func (h *http1) abandon(at time.Duration, why string) {
	for _, x := range h.asked {
		x.finish(at, why)
	}
	h.asked = nil
	for d := range h.sides {
		h.sides[d].part.clear()
	}
}

// line collects a line, which take gets without its end.
func (r *reader) line(b []byte, take func([]byte) bool) (rest []byte, ok bool) {
	i := bytes.IndexByte(b, '\n')
	part := b
	if i >= 0 {
		part, rest = b[:i+1], b[i+1:]
	}
	if len(r.part.b)+len(part) > maxLine && r.state != inTrailer || !r.part.add(part) {
		return nil, false
	}
	if i < 0 {
		return nil, true
	}
	line := append([]byte(nil), bytes.TrimRight(r.part.b, "\r\n")...)
	r.part.clear()
	return rest, take(line)
}

// size reads the size of a chunk.
func (r *reader) size(line []byte) bool {
	text, _, _ := strings.Cut(string(line), ";")
	n, err := strconv.ParseUint(strings.TrimSpace(text), 16, 62)
	r.left, r.state = int64(n), inChunk
	if n == 0 {
		r.state = inTrailer
	}
	return err == nil
}
