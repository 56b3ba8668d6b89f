package link

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/protocol/socket"
)

// Why a connection is given up, beside its own errors.
var (
	errSilence  = fmt.Errorf("nothing received for %v", silence)
	errReplaced = errors.New("the client opened another")
)

const (
	firstRead = 16 << 10
	mostRead  = 64 << 10
	aroundBig = 4 << 10  // is read at a time where big frames follow each other
	fewBytes  = 16 << 10 // are copied into one buffer rather than sent from where they are
)

// A wire is one connection below a link.
type wire struct {
	nc   net.Conn
	sock *socket.Conn  // nc, where writes of several buffers need no copy
	lost chan struct{} // closed when it is no longer the link's
	born time.Time

	heard atomic.Int64 // when something came, since born

	// Of read.
	buf  []byte
	r, w int // buf[r:w] is received and not looked at
	left int // bytes of the current data frame
	fin  bool

	// Of send.
	heads [3*frameHead + 8]byte
	vec   [5][]byte
	out   []byte

	// Guarded by the link's mutex.
	err     error // why it is lost; set once
	ack     bool  // the peer is to be told what was received
	finSent bool
	sending bool          // somebody flushes
	sentAt  time.Duration // when that last ended, since born
	toSend  sync.Cond     // send: something is to be sent, or this wire is no longer the link's
}

func newWire(nc net.Conn, mu *sync.Mutex) *wire {
	nc = socket.New(nc)
	sock, _ := nc.(*socket.Conn)
	w := &wire{nc: nc, sock: sock, lost: make(chan struct{}), born: time.Now(), buf: make([]byte, firstRead)}
	w.toSend.L = mu
	return w
}

// quiet is for how long nothing has come.
func (w *wire) quiet() time.Duration { return time.Since(w.born) - time.Duration(w.heard.Load()) }

// fail closes the connection; who reads will notice and say why. Caller holds
// the link's mutex.
func (w *wire) fail(err error) {
	if w.err == nil {
		w.err = err
		w.nc.Close()
	}
}

// read reads the next bytes of data frames, at least one: those of a big frame
// of yamux from the connection to where they belong.
func (w *wire) read(c *Conn, p []byte) (n int, err error) {
	for {
		have := w.w - w.r
		switch {
		case w.left > 0 && have > 0:
			n = c.frames.part(w.buf[w.r : w.r+min(have, w.left, len(p))])
			copy(p, w.buf[w.r:w.r+n])
			w.r += n
			w.left -= n
			return n, nil
		case w.left > 0 && c.frames.inBig():
			n, err = w.fetch(p[:min(w.left, c.frames.body, len(p))])
			w.left -= n
			c.frames.part(p[:n])
			return n, err
		case w.left > 0 || have < frameHead || !w.parse(have):
			err = w.fill(c.frames.big)
		default:
			err = w.frame(c)
		}
		if err != nil {
			return 0, err
		}
	}
}

// parse reports whether the frame at hand can be worked on: acknowledgements whole.
func (w *wire) parse(have int) bool {
	return w.buf[w.r] != frameAck || have >= frameHead+8
}

// frame takes the head of a frame, or all of it where it is not data.
func (w *wire) frame(c *Conn) error {
	head := w.buf[w.r:w.w]
	n := int(binary.BigEndian.Uint32(head[1:]))
	w.r += frameHead
	switch {
	case head[0] == frameData && n <= maxBody:
		w.left = n
		return nil
	case head[0] == frameAck && n == 8:
		w.r += 8
		return c.acknowledged(binary.BigEndian.Uint64(head[frameHead:]))
	case head[0] == frameFin && n == 0:
		w.fin = true
		return io.EOF
	}
	return fmt.Errorf("reading frame type %d, length %d: %w", head[0], n, errFrame)
}

// fill reads what there is to read, and little where it is likely to be the
// beginning of a big frame. The buffer grows when it was all used.
func (w *wire) fill(big bool) error {
	if w.r > 0 && w.w == len(w.buf) && len(w.buf) < mostRead {
		bigger := make([]byte, 2*len(w.buf))
		copy(bigger, w.buf[w.r:w.w])
		w.buf, w.r, w.w = bigger, 0, w.w-w.r
	} else if w.r > 0 {
		w.r, w.w = 0, copy(w.buf, w.buf[w.r:w.w])
	}
	room := w.buf[w.w:]
	if big {
		room = room[:min(len(room), aroundBig)]
	}
	n, err := w.fetch(room)
	w.w += n
	return err
}

func (w *wire) fetch(p []byte) (int, error) {
	n, err := w.nc.Read(p)
	if n == 0 {
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		return 0, fmt.Errorf("reading frame: %w", err)
	}
	w.heard.Store(int64(time.Since(w.born)))
	return n, nil
}
