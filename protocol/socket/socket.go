// Package socket makes, reads and writes connections with less ado than package net.
//
// Go tells its scheduler of each system call that may block; the first after an
// idle moment wakes the scheduler's monitor thread, which then looks around
// every 20 µs until all is idle again. Where each message is such a moment, as
// in a request that waits for its answer, that was a fifth of a round trip.
// Sockets are non-blocking: what is done with them need not be told, but for close(2).
package socket

import (
	"io"
	"net"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Conn is a connection whose reads and writes are made so. All else, such as
// deadlines and Close, is the connection's own, and works on these, too.
type Conn struct {
	net.Conn
	raw        syscall.RawConn
	in, out    transfer
	outVector  []unix.Iovec // of WriteBuffers
	outMessage unix.Msghdr  // of WriteLast
}

// New makes a Conn of c. One that has no descriptor of its own, such as a
// net.Pipe, is returned as it is.
func New(c net.Conn) net.Conn {
	s, ok := c.(syscall.Conn)
	if !ok {
		return c
	}
	raw, err := s.SyscallConn()
	if err != nil {
		return c
	}
	conn := &Conn{Conn: c, raw: raw}
	conn.in.try, conn.out.try = conn.in.call, conn.out.call
	return conn
}

func (c *Conn) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	n, err := c.in.do(c.raw.Read, unix.SYS_READ, unsafe.Pointer(&p[0]), len(p))
	if n == 0 && err == nil {
		err = io.EOF
	}
	return n, err
}

// ReadNow reads what has come. No bytes and no error: nothing has.
func (c *Conn) ReadNow(p []byte) (int, error) {
	c.in.mu.Lock()
	defer c.in.mu.Unlock()
	c.in.now = true
	defer func() { c.in.now = false }()
	n, err := c.in.do(c.raw.Read, unix.SYS_READ, unsafe.Pointer(&p[0]), len(p))
	switch {
	case err == unix.EAGAIN:
		return 0, nil
	case n == 0 && err == nil:
		err = io.EOF
	}
	return n, err
}

func (c *Conn) Write(p []byte) (total int, err error) {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	for total < len(p) && err == nil {
		var n int
		n, err = c.out.do(c.raw.Write, unix.SYS_WRITE, unsafe.Pointer(&p[total]), len(p)-total)
		total += n
	}
	return total, err
}

// WriteNow writes what can be written at once. No bytes and no error: nothing can.
func (c *Conn) WriteNow(p []byte) (int, error) {
	if !c.out.mu.TryLock() { // somebody waits
		return 0, nil
	}
	defer c.out.mu.Unlock()
	c.out.now = true
	defer func() { c.out.now = false }()
	n, err := c.out.do(c.raw.Write, unix.SYS_WRITE, unsafe.Pointer(&p[0]), len(p))
	if err == unix.EAGAIN {
		return 0, nil
	}
	return n, err
}

// WriteBuffers writes all of v, as far as it can in one call. None of v is empty.
func (c *Conn) WriteBuffers(v [][]byte) error {
	return c.writeAll(v, func(v []unix.Iovec) (int, error) {
		return c.out.do(c.raw.Write, unix.SYS_WRITEV, unsafe.Pointer(&v[0]), len(v))
	})
}

// WriteLast is WriteBuffers of what is the last: of TCP it leaves with the end of the
// direction, which is to follow at once, in one segment.
func (c *Conn) WriteLast(v [][]byte) error {
	return c.writeAll(v, func(v []unix.Iovec) (int, error) {
		c.outMessage.Iov = &v[0]
		c.outMessage.SetIovlen(len(v))
		n, err := c.out.do(c.raw.Write, unix.SYS_SENDMSG, unsafe.Pointer(&c.outMessage), unix.MSG_MORE|unix.MSG_NOSIGNAL)
		c.outMessage.Iov = nil
		return n, err
	})
}

func (c *Conn) writeAll(v [][]byte, write func([]unix.Iovec) (int, error)) error {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	left := c.outVector[:0]
	for _, b := range v {
		left = append(left, unix.Iovec{Base: &b[0], Len: uint64(len(b))})
	}
	defer clear(left) // keeps no buffer
	c.outVector = left
	for len(left) > 0 {
		n, err := write(left[:min(len(left), maxVector)])
		if err != nil {
			return err
		}
		for len(left) > 0 && n >= int(left[0].Len) {
			n -= int(left[0].Len)
			left = left[1:]
		}
		if n > 0 {
			left[0].Base = (*byte)(unsafe.Add(unsafe.Pointer(left[0].Base), n))
			left[0].Len -= uint64(n)
		}
	}
	return nil
}

// maxVector is the kernel's UIO_MAXIOV.
const maxVector = 1024

// A transfer is a system call under way, and what came of it.
type transfer struct {
	mu    sync.Mutex // held meanwhile
	try   func(fd uintptr) bool
	trap  uintptr
	first unsafe.Pointer // of the buffer, or of the vector
	size  int
	now   bool // whether the socket is ready or not
	n     int
	errno unix.Errno
}

// do makes the call when the socket is ready; ready is a method of its RawConn.
func (t *transfer) do(ready func(func(uintptr) bool) error, trap uintptr, first unsafe.Pointer, size int) (int, error) {
	t.trap, t.first, t.size = trap, first, size
	err := ready(t.try)
	t.first = nil
	switch {
	case err != nil:
		return 0, err
	case t.errno != 0:
		return 0, t.errno
	}
	return t.n, nil
}

// call reports whether there is a result: the socket was ready.
func (t *transfer) call(fd uintptr) bool {
	for {
		t.n, t.errno = call(t.trap, fd, t.first, t.size)
		if t.errno != unix.EINTR {
			return t.errno != unix.EAGAIN || t.now
		}
	}
}
