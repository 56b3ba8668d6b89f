package link

import (
	"encoding/binary"
	"net"
	"time"
)

// lull: after so long without sending, who writes sends. While writes follow
// each other the sender does, which joins them.
const lull = 50 * time.Microsecond

// linger is how long what nobody waits for may wait for something that takes it along; a
// timer may be late by as much again (package slack).
const linger = time.Millisecond

// Write queues p, and sends it by itself where nothing was sent lately: what
// is alone need not wait for another goroutine. It waits while too much is
// queued or unacknowledged.
func (c *Conn) Write(p []byte) (total int, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	when := c.teller.tell(p)
	for {
		for c.err == nil && c.room() == 0 {
			c.toWrite.Wait()
		}
		if c.err != nil {
			return total, c.err
		}
		n := min(len(p), c.room())
		idle := c.sent == c.out.end || c.lingers || c.begun
		c.begun = false
		c.out.append(p[:n])
		p, total = p[n:], total+n
		if when == some && len(p) == 0 && idle {
			if !c.lingers {
				c.lingers = true
				c.lingered.Reset(linger)
			}
			return total, nil
		}
		if len(p) == 0 && when == later {
			c.begun = idle
			return total, nil
		}
		c.lingers = false
		switch w := c.cur; {
		case w == nil || w.err != nil:
		case when == now && !w.sending && time.Since(w.born)-w.sentAt > lull:
			c.flush(w)
		default:
			w.toSend.Signal()
		}
		if len(p) == 0 {
			return total, nil
		}
	}
}

// hurry has what lingers sent.
func (c *Conn) hurry() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lingers = false
	if c.cur != nil {
		c.cur.toSend.Signal()
	}
}

// room is how much may be queued. Without a connection nobody waits behind it.
// Caller holds c.mu.
func (c *Conn) room() int {
	room := c.out.max - c.out.used()
	if c.cur != nil {
		room = min(room, maxQueue-int(c.out.end-c.sent))
	}
	return max(0, room)
}

// due reports whether there is something to send on w. Caller holds c.mu.
func (c *Conn) due(w *wire) bool {
	return w.err == nil && !w.finSent && (w.ack || c.sent < c.out.end && !c.lingers || c.err == net.ErrClosed)
}

// send sends what is due on w until that is no longer the link's, and nobody
// sends on it any more.
func (c *Conn) send(w *wire) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.cur == w || w.sending {
		if w.sending || !c.due(w) {
			w.toSend.Wait()
			continue
		}
		c.flush(w)
	}
}

// flush does one write of what is due on w. Caller holds c.mu, which is
// released meanwhile.
func (c *Conn) flush(w *wire) {
	w.sending = true
	vec, n := c.batch(w)
	var err error
	if w.sock != nil && n > fewBytes {
		c.mu.Unlock()
		err = w.sock.WriteBuffers(vec)
	} else {
		w.out = w.out[:0]
		for _, b := range vec {
			w.out = append(w.out, b...)
		}
		c.mu.Unlock()
		_, err = w.nc.Write(w.out)
	}
	c.mu.Lock()
	w.sending, w.sentAt = false, time.Since(w.born)
	clear(w.vec[:]) // of a buffer that may be given back
	if err != nil {
		w.fail(err)
	}
	if c.cur != w || c.due(w) {
		w.toSend.Signal()
	}
	c.toWrite.Broadcast()
}

// batch makes the next write on w: an acknowledgement, queued data, the end.
// The data stays where it is; it is not overwritten before the peer has it.
func (c *Conn) batch(w *wire) (vec [][]byte, n int) {
	heads := w.heads[:0]
	vec = w.vec[:0]
	add := func(b []byte) {
		vec = append(vec, b)
		n += len(b)
	}
	if got := c.received.Load(); w.ack || got > c.acked.Load() {
		heads = appendFrame(heads, frameAck, 8)
		heads = binary.BigEndian.AppendUint64(heads, got)
		add(heads)
		c.acked.Store(got)
		w.ack = false
	}
	if size := int(min(c.out.end-c.sent, maxBody)); size > 0 {
		at := len(heads)
		heads = appendFrame(heads, frameData, size)
		add(heads[at:])
		for size > 0 {
			part := c.out.at(c.sent)
			part = part[:min(size, len(part))]
			add(part)
			c.sent += uint64(len(part))
			size -= len(part)
		}
		c.lingers = false
	}
	if c.sent == c.out.end && c.err == net.ErrClosed {
		at := len(heads)
		heads = appendFrame(heads, frameFin, 0)
		add(heads[at:])
		w.finSent = true
	}
	return vec, n
}
