// Package link is a byte stream between a client and an agent that survives
// the loss of the connection below it: both sides count what they received,
// keep what the other has not yet acknowledged, and send it again on the next
// connection. A yamux session runs on it, whose streams are the tunnel's.
//
//	yamux ─ Conn ═ connection 1 ✂ … connection 2 … ═ Conn ─ yamux
//
// Writes are coalesced: what queues while one write is under way, or about to
// be, leaves in the next; ends of streams wait a while for one. Whoever reads
// reads from the connection.
// ../PROTOCOL.md has the bytes.
package link

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"
)

// Times and sizes of a link.
const (
	Grace       = time.Minute     // how long a client may be without any connection
	keepAlive   = time.Second     // a side that has nothing to say says so this often
	silence     = 3 * time.Second // after so much of it a connection is lost
	openTimeout = 10 * time.Second
	closeFlush  = time.Second

	maxQueue = 512 << 10 // bytes queued and not sent: what another stream may have to wait behind
)

// ErrGrace: the link was down for longer than its grace.
var ErrGrace = errors.New("link was down for too long")

// replay is how many bytes are kept until they are acknowledged, at least
// bandwidth × round trip. An eighth of it received, the peer is told even if
// there is nothing else to say.
func (c Channel) replay() int {
	if c == Bulk {
		return 8 << 20
	}
	return 1 << 20
}

// A Conn is one side's end of the stream. Any goroutines may Close; one at a
// time may Read, and one Write: a write may wait for room part-way. yamux has
// one goroutine for each.
//
// Goroutines: one for each connection below it, which sends; it is gone when
// the function that made the Conn says so.
type Conn struct {
	log     *slog.Logger
	channel Channel
	done    chan struct{} // closed with err
	keeps   atomic.Int64  // Grace

	received atomic.Uint64 // bytes of the stream that Read returned
	acked    atomic.Uint64 // of them told to the peer
	ackEvery uint64
	frames   frames // of Read
	rests    rests  // of watch
	lingered *time.Timer

	mu      sync.Mutex
	cur     *wire         // guarded by mu; the connection in use, nil between two
	out     backlog       // guarded by mu; [acknowledged, written)
	teller  teller        // guarded by mu; of what is written
	sent    uint64        // guarded by mu; of out, on cur
	lingers bool          // guarded by mu; what is not sent may wait until lingered
	begun   bool          // guarded by mu; of what is not sent the last is a frame's head, and the rest, if any, lingered
	err     error         // guarded by mu; why the stream ended; set once
	changed chan struct{} // guarded by mu; closed when cur changes, where somebody asked
	toNext  sync.Cond     // cur or err changed
	toWrite sync.Cond     // out has room
}

func newConn(log *slog.Logger, ch Channel) *Conn {
	c := &Conn{
		log: log.With("channel", ch), channel: ch, done: make(chan struct{}),
		out: backlog{max: ch.replay()}, ackEvery: uint64(ch.replay() / 8),
	}
	c.toNext.L, c.toWrite.L = &c.mu, &c.mu
	c.lingered = time.AfterFunc(linger, c.hurry)
	return c
}

// SetGrace changes how long the server's end may be without a connection, from the
// next time on that it is.
func (c *Conn) SetGrace(d time.Duration) { c.keeps.Store(int64(d)) }

// Grace is how long the server's end may be without a connection.
func (c *Conn) Grace() time.Duration { return time.Duration(c.keeps.Load()) }

// Channel tells which of its client's links this is.
func (c *Conn) Channel() Channel { return c.channel }

// Done is closed when the stream has ended, by either side or by failure.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the stream ended: net.ErrClosed by Close, io.EOF by the peer.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Up tells whether there is a connection below; changed is closed when that changes.
func (c *Conn) Up() (up bool, changed <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.changed == nil {
		c.changed = make(chan struct{})
	}
	return c.cur != nil, c.changed
}

// Hears tells whether there is a connection below on which the peer is not silent, who
// says something each keepAlive.
func (c *Conn) Hears() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cur != nil && c.cur.err == nil && c.cur.quiet() < keepAlive+keepAlive/2
}

// use makes w the current connection, or none. Caller holds c.mu.
func (c *Conn) use(w *wire) {
	c.cur = w
	c.toNext.Broadcast()
	c.toWrite.Broadcast()
	if c.changed != nil {
		close(c.changed)
		c.changed = nil
	}
}

// attach makes nc the current connection; peer is how much the other side has
// received. There must be no other.
func (c *Conn) attach(nc net.Conn, peer uint64) (*wire, error) {
	w := newWire(nc, &c.mu)
	c.mu.Lock()
	defer c.mu.Unlock()
	if peer < c.out.start || peer > c.out.end {
		c.end(fmt.Errorf("resuming at %d of [%d,%d]: %w", peer, c.out.start, c.out.end, errFrame))
	}
	if c.err != nil {
		nc.Close()
		return nil, c.err
	}
	c.out.forget(peer)
	c.sent, c.lingers = peer, false
	c.acked.Store(c.received.Load())
	c.use(w)
	return w, nil
}

// serve keeps w until it is lost or the stream ends, and says why.
func (c *Conn) serve(w *wire) error {
	stop := c.watch(w)
	var sender sync.WaitGroup
	sender.Go(func() { c.send(w) })
	select {
	case <-w.lost:
	case <-c.done:
		select { // the goodbye goes out; who reads notices that it was heard
		case <-w.lost:
		case <-time.After(closeFlush):
			c.detach(w, net.ErrClosed)
		}
	}
	stop()
	sender.Wait()
	return w.err
}

// watch keeps w alive, and cuts it off when the peer is silent.
func (c *Conn) watch(w *wire) (stop func()) {
	var alive, silent *time.Timer
	c.mu.Lock()
	defer c.mu.Unlock()
	alive = time.AfterFunc(keepAlive, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if c.cur == w {
			w.ack = true
			w.toSend.Signal()
			alive.Reset(keepAlive)
			c.rest()
		}
	})
	silent = time.AfterFunc(silence, func() {
		quiet := w.quiet()
		c.mu.Lock()
		defer c.mu.Unlock()
		switch {
		case c.cur != w:
		case quiet >= silence:
			w.fail(errSilence)
		default:
			silent.Reset(silence - quiet)
		}
	})
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		alive.Stop()
		silent.Stop()
	}
}

// rests is when a link last gave memory back.
type rests struct {
	seen  uint64 // bytes moved either way, a keepAlive ago
	freed uint64 // when memory was given back
}

// muchMoved is so much that it has left buffers behind, here and above;
// hardlyMoves, in a keepAlive, does with small ones.
const (
	muchMoved   = 8 << 20
	hardlyMoves = 1 << 20
)

// rest gives memory back where much has moved and hardly anything does any more.
// It is called each keepAlive, with c.mu held.
func (c *Conn) rest() {
	moved, r := c.received.Load()+c.out.end, &c.rests
	if moved-r.seen <= hardlyMoves && moved-r.freed > muchMoved && c.out.used() == 0 {
		r.freed = moved
		c.out.shrink()
		go debug.FreeOSMemory()
	}
	r.seen = moved
}

// detach ends the use of w.
func (c *Conn) detach(w *wire, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != w {
		return
	}
	w.fail(err)
	c.use(nil)
	w.toSend.Broadcast()
	close(w.lost)
}

// end ends the stream with err unless it has ended. Caller holds c.mu.
func (c *Conn) end(err error) {
	if c.err == nil {
		c.err = err
		close(c.done)
	}
	c.toNext.Broadcast()
	c.toWrite.Broadcast()
	if c.cur != nil {
		c.cur.toSend.Broadcast()
	}
}

// fail ends the stream with err.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.end(err)
}

// drop closes the connection in use, if any.
func (c *Conn) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil {
		c.cur.fail(errReplaced)
	}
}

// Close ends the stream: what was written is still sent if there is a
// connection, for at most a second.
func (c *Conn) Close() error {
	c.fail(net.ErrClosed)
	return nil
}

// Read waits through any loss of the connection below.
func (c *Conn) Read(p []byte) (int, error) {
	for {
		c.mu.Lock()
		for c.cur == nil && c.err == nil {
			c.toNext.Wait()
		}
		w, ended := c.cur, c.err
		c.mu.Unlock()
		if w == nil {
			return 0, ended
		}
		n, err := w.read(c, p)
		if err != nil {
			if err == io.EOF && w.fin {
				c.fail(io.EOF)
			}
			c.detach(w, err)
			continue
		}
		if got := c.received.Add(uint64(n)); got-c.acked.Load() >= c.ackEvery {
			c.mu.Lock()
			w.ack = true
			w.toSend.Signal()
			c.mu.Unlock()
		}
		if ended == nil {
			return n, nil
		}
	}
}

func (c *Conn) acknowledged(off uint64) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if off < c.out.start || off > c.sent {
		return fmt.Errorf("acknowledging %d of [%d,%d]: %w", off, c.out.start, c.sent, errFrame)
	}
	c.out.forget(off)
	c.toWrite.Broadcast()
	return nil
}
