// Package link is a byte stream between a client and an agent that survives
// the loss of the connection below it: both sides count what they received,
// keep what the other has not yet acknowledged, and send it again on the next
// connection. The tunnel's yamux session runs on it.
//
//	yamux ─ Conn ═ connection 1 ✂ … connection 2 … ═ Conn ─ yamux
//
// Writes are coalesced: what queues while one write is under way leaves in the
// next, as one frame. ../PROTOCOL.md has the bytes.
package link

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
)

// Times and sizes of a link.
const (
	Grace       = time.Minute     // how long a client may be without any connection
	keepAlive   = time.Second     // a side that has nothing to say says so this often
	silence     = 3 * time.Second // after so much of it a connection is lost
	openTimeout = 10 * time.Second
	replay      = 8 << 20 // bytes kept until acknowledged
	receive     = 1 << 20 // bytes received and not yet read
	closeFlush  = time.Second
)

// ErrGrace: the link was down for longer than its grace.
var ErrGrace = errors.New("link was down for too long")

// A Conn is one side's end of the stream. Read, Write and Close may be called
// from different goroutines.
//
// Goroutines: for each connection below it two (writer, ticker) beside the one
// in serve; all are gone when the function that made the Conn says so.
type Conn struct {
	log  *slog.Logger
	done chan struct{} // closed with err

	mu    sync.Mutex
	cur   net.Conn // the connection in use, nil between two
	out   ring     // [acknowledged, written)
	sent  uint64   // of out, on cur
	in    ring     // [read, received)
	acked uint64   // of in, told to the peer
	tick  bool     // a keep-alive is due
	err   error    // why the stream ended; set once

	// What the fields above are waited for, each with one or few waiters: a
	// wake-up of somebody who has nothing to do costs as much as a small operation.
	toRead    sync.Cond // Read: in has bytes
	toWrite   sync.Cond // Write: out has room
	toSend    sync.Cond // send: out has bytes, an ack is due, or cur is another
	toReceive sync.Cond // receive: in has room
}

func newConn(log *slog.Logger) *Conn {
	c := &Conn{log: log, done: make(chan struct{}), out: newRing(replay), in: newRing(receive)}
	for _, cond := range []*sync.Cond{&c.toRead, &c.toWrite, &c.toSend, &c.toReceive} {
		cond.L = &c.mu
	}
	return c
}

// Done is closed when the stream has ended, by either side or by failure.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the stream ended: net.ErrClosed by Close, io.EOF by the peer.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

func (c *Conn) received() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.in.end
}

// serve uses nc until it is lost or the stream ends; peer is how much the
// other side has received. Only one serve may run at a time.
func (c *Conn) serve(nc net.Conn, peer uint64) error {
	c.mu.Lock()
	if peer < c.out.start || peer > c.out.end {
		c.end(fmt.Errorf("resuming at %d of [%d,%d]: %w", peer, c.out.start, c.out.end, errFrame))
	}
	if c.err != nil && c.err != net.ErrClosed {
		defer c.mu.Unlock()
		nc.Close()
		return c.err
	}
	if c.err != nil { // closed before it was ever connected: say so
		time.AfterFunc(closeFlush, func() { nc.Close() })
	}
	c.out.start, c.sent, c.acked = peer, peer, c.in.end
	c.cur = nc
	c.toWrite.Broadcast()
	c.mu.Unlock()

	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() { c.send(nc) })
	wg.Go(func() { c.ticks(stop) })
	err := c.receive(nc)
	c.mu.Lock()
	c.cur = nil
	c.toSend.Broadcast()
	c.mu.Unlock()
	nc.Close()
	close(stop)
	wg.Wait()
	return err
}

func (c *Conn) ticks(stop chan struct{}) {
	t := time.NewTicker(keepAlive)
	defer t.Stop()
	for {
		select {
		case <-stop:
			return
		case <-t.C:
			c.mu.Lock()
			c.tick = true
			c.toSend.Broadcast()
			c.mu.Unlock()
		}
	}
}

// send writes frames to nc for as long as it is the current connection.
func (c *Conn) send(nc net.Conn) {
	buf := make([]byte, 0, 2*frameHead+8+maxBody)
	for {
		buf, fin := c.next(nc, buf[:0])
		if len(buf) == 0 {
			return
		}
		if _, err := nc.Write(buf); err != nil || fin {
			nc.Close() // ends receive, which reports
			return
		}
	}
}

// next waits for something to send on nc and appends it to buf: an
// acknowledgement, queued data, or the end. Nothing: nc is no longer current.
func (c *Conn) next(nc net.Conn, buf []byte) (frames []byte, fin bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		if c.cur != nc {
			return nil, false
		}
		data := c.sent < c.out.end
		ack := c.tick || c.ackDue() || data && c.in.end > c.acked
		if ack {
			buf = appendFrame(buf, frameAck, 8)
			buf = binary.BigEndian.AppendUint64(buf, c.in.end)
			c.acked, c.tick = c.in.end, false
		}
		if data {
			n := int(min(c.out.end-c.sent, maxBody))
			buf = appendFrame(buf, frameData, n)
			for n > 0 {
				part := c.out.at(c.sent)
				part = part[:min(n, len(part))]
				buf = append(buf, part...)
				c.sent += uint64(len(part))
				n -= len(part)
			}
		} else if c.err == net.ErrClosed {
			return appendFrame(buf, frameFin, 0), true
		}
		if len(buf) > 0 {
			return buf, false
		}
		c.toSend.Wait()
	}
}

// A waiter fails a read that brings nothing for as long as silence.
type waiter struct{ net.Conn }

func (w waiter) Read(p []byte) (int, error) {
	w.SetReadDeadline(time.Now().Add(silence))
	return w.Conn.Read(p)
}

// receive reads frames from nc until it fails or the peer has closed.
func (c *Conn) receive(nc net.Conn) error {
	r := bufio.NewReaderSize(waiter{nc}, 64<<10)
	var head [frameHead]byte
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return fmt.Errorf("reading frame: %w", err)
		}
		n := int(binary.BigEndian.Uint32(head[1:]))
		switch {
		case head[0] == frameData && n <= maxBody:
			if err := c.receiveData(r, n); err != nil {
				return fmt.Errorf("reading data: %w", err)
			}
		case head[0] == frameAck && n == 8:
			var b [8]byte
			if _, err := io.ReadFull(r, b[:]); err != nil {
				return fmt.Errorf("reading acknowledgement: %w", err)
			}
			if err := c.acknowledged(binary.BigEndian.Uint64(b[:])); err != nil {
				return err
			}
		case head[0] == frameFin && n == 0:
			c.mu.Lock()
			defer c.mu.Unlock()
			c.end(io.EOF)
			return io.EOF
		default:
			return fmt.Errorf("reading frame type %d, length %d: %w", head[0], n, errFrame)
		}
	}
}

// receiveData puts n bytes of r into the ring, waiting for room. Only this
// goroutine writes behind in.end, so it reads without the lock.
func (c *Conn) receiveData(r io.Reader, n int) error {
	for n > 0 {
		c.mu.Lock()
		for c.in.full() && c.err == nil {
			c.toReceive.Wait()
		}
		if c.err != nil { // nobody will read it; what we still have to send goes on
			c.mu.Unlock()
			_, err := io.CopyN(io.Discard, r, int64(n))
			return err
		}
		part := c.in.space()
		c.mu.Unlock()
		part = part[:min(n, len(part))]
		got, err := io.ReadFull(r, part)
		c.mu.Lock()
		c.in.end += uint64(got)
		c.toRead.Broadcast()
		if c.ackDue() {
			c.toSend.Broadcast()
		}
		c.mu.Unlock()
		if err != nil {
			return err
		}
		n -= got
	}
	return nil
}

func (c *Conn) acknowledged(off uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off < c.out.start || off > c.sent {
		return fmt.Errorf("acknowledging %d of [%d,%d]: %w", off, c.out.start, c.sent, errFrame)
	}
	c.out.start = off
	c.toWrite.Broadcast()
	return nil
}

// end ends the stream with err unless it has ended. Caller holds c.mu.
func (c *Conn) end(err error) {
	if c.err == nil {
		c.err = err
		close(c.done)
	}
	c.toRead.Broadcast()
	c.toWrite.Broadcast()
	c.toSend.Broadcast()
	c.toReceive.Broadcast()
}

// ackDue reports whether so much was received that the peer must be told even
// if there is nothing else to say. Caller holds c.mu.
func (c *Conn) ackDue() bool { return c.in.end-c.acked >= receive/4 }

// Read returns bytes of the stream; it waits for some through any loss of the
// connection below.
func (c *Conn) Read(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for c.in.used() == 0 {
		if c.err != nil {
			return 0, c.err
		}
		c.toRead.Wait()
	}
	n := copy(p, c.in.at(c.in.start))
	c.in.start += uint64(n)
	c.toReceive.Broadcast()
	return n, nil
}

// Write queues p; it waits only while as much as the replay limit is unacknowledged.
func (c *Conn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	total := 0
	for len(p) > 0 {
		for c.err == nil && c.out.full() {
			c.toWrite.Wait()
		}
		if c.err != nil {
			return total, c.err
		}
		n := copy(c.out.space(), p)
		c.out.end += uint64(n)
		p, total = p[n:], total+n
		c.toSend.Broadcast()
	}
	return total, nil
}

// Close ends the stream: what was written is still sent if there is a
// connection, for at most a second.
func (c *Conn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(net.ErrClosed)
	if nc := c.cur; nc != nil {
		time.AfterFunc(closeFlush, func() { nc.Close() })
	}
	return nil
}

// Mux is the setting of the yamux session on a link. Keep-alive and deadlines
// are the link's own business; a write may have to wait as long as a link may
// be down.
func Mux() *yamux.Config {
	m := yamux.DefaultConfig()
	m.EnableKeepAlive = false
	m.ConnectionWriteTimeout = 2 * Grace
	m.StreamOpenTimeout = 0
	m.StreamCloseTimeout = 2 * Grace
	m.AcceptBacklog = 4096
	m.MaxStreamWindowSize = 1 << 20
	m.LogOutput = io.Discard
	return m
}
