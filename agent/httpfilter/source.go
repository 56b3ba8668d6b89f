package httpfilter

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"mirrord/protocol/socket"
)

// A source is a connection's incoming bytes. It keeps what was read and is not
// passed on yet, at most maxHead or, while a filter looks at a body, more.
type source struct {
	conn net.Conn
	buf  []byte
	from int // of what is kept
	to   int
}

var (
	buffers = sync.Pool{New: func() any { return new([firstBuffer]byte) }}
	copies  = sync.Pool{New: func() any { return new([copyBuffer]byte) }}
)

func newSource(c net.Conn) source {
	return source{conn: c, buf: buffers.Get().(*[firstBuffer]byte)[:]}
}

// free gives the buffer back. Nobody may use the source any more.
func (s *source) free() {
	switch len(s.buf) {
	case firstBuffer:
		buffers.Put((*[firstBuffer]byte)(s.buf))
	case copyBuffer:
		copies.Put((*[copyBuffer]byte)(s.buf))
	}
	s.buf = nil
}

// wide has a big buffer for a body, and narrow a small one for who waits.
func (s *source) wide() {
	if len(s.buf) == firstBuffer && s.from == s.to {
		s.free()
		s.buf = copies.Get().(*[copyBuffer]byte)[:]
	}
}

func (s *source) narrow() {
	if len(s.buf) != firstBuffer && s.from == s.to {
		s.free()
		s.buf = buffers.Get().(*[firstBuffer]byte)[:]
	}
}

// kept is what was read and not passed on.
func (s *source) kept() []byte { return s.buf[s.from:s.to] }

func (s *source) drop(n int) {
	if s.from += n; s.from == s.to {
		s.from, s.to = 0, 0
	}
}

// replace has other bytes, not more, in place of the first n that are kept.
func (s *source) replace(n int, other []byte) {
	s.from += n - len(other)
	copy(s.buf[s.from:], other)
}

// fill reads more, at least a byte unless there is an error.
func (s *source) fill() error {
	if s.to == len(s.buf) && s.from > 0 {
		s.to = copy(s.buf, s.kept())
		s.from = 0
	} else if s.to == len(s.buf) {
		bigger := make([]byte, 4*len(s.buf))
		copy(bigger, s.buf)
		s.free()
		s.buf = bigger
	}
	n, err := s.conn.Read(s.buf[s.to:])
	s.to += n
	if n > 0 {
		return nil
	}
	if err == nil {
		return io.ErrNoProgress
	}
	return err
}

// A writeError is the receiver's, not the sender's.
type writeError struct{ error }

func (e writeError) Unwrap() error { return e.error }

// ahead is what pass will write first.
func (s *source) ahead(n int, f framing) []byte {
	m, _, _ := f.take(s.kept()[n:])
	return s.kept()[:n+m]
}

// pass writes the next n bytes and the body that follows them as f has it.
func (s *source) pass(to net.Conn, n int, f *framing) error {
	for {
		m, done, err := f.take(s.kept()[n:])
		if n+m > 0 {
			if _, err := to.Write(s.kept()[:n+m]); err != nil {
				return writeError{err}
			}
			s.drop(n + m)
			n = 0
		}
		if err == nil && !done && f.long() {
			if err = s.long(to, f); err == nil {
				done = f.kind != chunked
			}
		}
		if err != nil || done {
			return err
		}
		if f.kind == chunked && f.state == atEnd {
			return nil
		}
		s.wide()
		if err := s.fill(); err != nil {
			switch {
			case err == io.EOF && f.kind == untilEnd:
				return nil
			case err == io.EOF:
				return io.ErrUnexpectedEOF
			}
			return err
		}
	}
}

// passHead writes the next n bytes as change makes them.
func (s *source) passHead(to net.Conn, n int, change func([]byte) []byte) error {
	if _, err := to.Write(change(s.kept()[:n])); err != nil {
		return writeError{err}
	}
	s.drop(n)
	return nil
}

// longBody is worth system calls of its own for the way between two sockets.
const longBody = 64 << 10

// long tells whether so much is left of a body, or a chunk.
func (f *framing) long() bool {
	switch f.kind {
	case length:
		return f.left >= longBody
	case chunked:
		return f.state == inChunk && f.left >= longBody
	}
	return f.kind == untilEnd
}

// long passes all that is left of it. Of such nothing is kept, and it is the
// kernel that moves the bytes where it can.
func (s *source) long(to net.Conn, f *framing) error {
	var err error
	if f.kind == untilEnd {
		_, err = socket.Copy(below(to), below(s.conn), -1)
	} else {
		var n int64
		n, err = socket.Copy(below(to), below(s.conn), f.left)
		f.left -= n
	}
	switch {
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	case err != nil && s.works():
		return writeError{err}
	case f.kind == chunked:
		f.state = afterChunk
	}
	return err
}

// works tells whether the connection can be read from, at once or later.
func (s *source) works() bool {
	_ = s.conn.SetReadDeadline(time.Unix(1, 0))
	defer s.conn.SetReadDeadline(time.Time{})
	err := s.fill()
	return err == nil || err == io.EOF || errors.Is(err, os.ErrDeadlineExceeded)
}

// below is the connection itself below c, which may do more when it is closed.
func below(c net.Conn) net.Conn {
	if w, ok := c.(interface{ NetConn() net.Conn }); ok {
		return w.NetConn()
	}
	return c
}
