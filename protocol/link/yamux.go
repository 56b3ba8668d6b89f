package link

import (
	"encoding/binary"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

// never is what yamux must not do by itself: the link knows when it has ended.
const never = 365 * 24 * time.Hour

// Mux is the configuration of the yamux session on c. The daemon is yamux's
// client on both links.
func (c *Conn) Mux() *yamux.Config {
	m := yamux.DefaultConfig()
	m.EnableKeepAlive = false
	m.ConnectionWriteTimeout = never
	m.StreamCloseTimeout = never
	m.StreamOpenTimeout = 0
	m.AcceptBacklog = 4096
	m.MaxStreamWindowSize = 256 << 10
	if c.channel == Bulk {
		m.MaxStreamWindowSize = 4 << 20
	}
	m.LogOutput = io.Discard
	return m
}

// An urgency is how soon the bytes of one write must leave.
type urgency uint8

const (
	now   urgency = iota
	soon          // nobody waits for them
	some          // they may wait for others, for a linger
	later         // with what is written next, at once
)

// A teller tells how urgent each write of a yamux session is.
type teller struct {
	body int // bytes of the current frame that are still to be written
}

// What nobody waits for is a frame of its own if nothing goes with it.
const (
	// lastEnd is the end of a relayed connection's second direction, protocol.LastEnd.
	lastEnd = "\xff\xff\xff\xfe"
	// lingering answers that the debuggee has a connection: a protocol.IncomingReply
	// of a client that waits for the debuggee's words alone.
	lingering = "\r\x00\x00\x10\x00\x00\x00\x00" + `{"lingers":true}`
)

// tell looks at the next write. yamux writes the head of a frame and its body
// apart, and a frame of its own before the first bytes of a stream:
//
//	version 1 | type 1 (0: data, 1: window) | flags 2 (1: SYN, 2: ACK, 4: FIN) | stream 4 | length 4
//
// With us whoever opens a stream asks, and whoever accepts it answers. When both
// have said all, each ends the stream, and there is no hurry: an end of its own would
// cost every hop between daemon and agent as much as a question does.
func (t *teller) tell(p []byte) urgency {
	if t.body > 0 || len(p) < 12 {
		lingers := t.body == len(p) && (string(p) == lastEnd || string(p) == lingering)
		t.body = max(0, t.body-len(p))
		if lingers {
			return some
		}
		return now
	}
	isData, opens, ends, length := p[1] == 0, p[3]&3 != 0, p[3] == 4, binary.BigEndian.Uint32(p[8:])
	switch {
	case isData && length > 0:
		t.body = int(length)
		return later
	case p[1] == 1 && opens:
		return later
	case p[1] == 1 && ends:
		return some
	case p[1] == 1:
		return soon
	}
	return now
}

// bigFrame is the least length of a frame for which its bytes are read from the
// connection to where they belong, and not by way of a buffer.
const bigFrame = 16 << 10

// frames follows the frames of a yamux session that is read.
type frames struct {
	head [12]byte
	have int  // of head
	body int  // bytes of the current frame that are still to come
	big  bool // the current frame is, or between two the last one was
}

// inBig reports whether the next byte is one of a big frame's body.
func (f *frames) inBig() bool { return f.big && f.body > 0 }

// afterBig reports whether a big frame has just come to its end.
func (f *frames) afterBig() bool { return f.big && f.body == 0 && f.have == 0 }

// part looks at what comes next and tells how much of it is to be read at a
// time: at most up to where the body of a big frame begins or ends.
func (f *frames) part(b []byte) (n int) {
	for n < len(b) {
		if f.body > 0 {
			some := min(f.body, len(b)-n)
			f.body -= some
			n += some
			if f.afterBig() {
				return n
			}
			continue
		}
		some := copy(f.head[f.have:], b[n:])
		f.have += some
		n += some
		if f.have < len(f.head) {
			return n
		}
		f.have, f.big = 0, false
		if isData := f.head[1] == 0; isData {
			f.body = int(binary.BigEndian.Uint32(f.head[8:]))
			if f.big = f.body >= bigFrame; f.big {
				return n
			}
		}
	}
	return n
}
