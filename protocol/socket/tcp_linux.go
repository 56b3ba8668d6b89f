package socket

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A TCP is a connection of which package net does not know, and so asks and sets
// nothing. Within a machine that was a good part of what a new connection costs.
type TCP struct {
	*os.File
	raw           syscall.RawConn
	local, remote netip.AddrPort
	resets        atomic.Bool // closing resets it
	late          bool        // its descriptor is closed late
	closed        atomic.Bool // and late, if its descriptor is open
}

// Adopt makes a TCP of a socket that does not block, and owns it.
func Adopt(fd int, local, remote netip.AddrPort) (*TCP, error) {
	f := os.NewFile(uintptr(fd), "tcp")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	c := &TCP{File: f, local: local, remote: remote}
	c.raw = rawTCP{raw, c}
	return c, nil
}

// A rawTCP knows that its connection is closed.
type rawTCP struct {
	syscall.RawConn
	c *TCP
}

func (r rawTCP) Read(f func(fd uintptr) bool) error  { return r.c.orClosed(r.RawConn.Read(f)) }
func (r rawTCP) Write(f func(fd uintptr) bool) error { return r.c.orClosed(r.RawConn.Write(f)) }

func (c *TCP) orClosed(err error) error {
	if err != nil && c.closed.Load() {
		return net.ErrClosed
	}
	return err
}

// CloseLate makes Close leave the descriptor to be closed with others' within
// lateTime; the connection itself is ended, or reset, at once. close(2) is the one
// call that Go's scheduler is told of still, and it costs those who wait for us a tenth
// of a new connection. It is called before the connection is used.
func (c *TCP) CloseLate() *TCP {
	c.late = true
	return c
}

// Close ends the connection.
func (c *TCP) Close() error {
	if c.closed.Swap(true) {
		return net.ErrClosed
	}
	if !c.late {
		return c.File.Close()
	}
	err := c.control(func(fd int) error {
		if c.resets.Load() {
			disconnect(fd)
			return nil
		}
		_, _, _ = unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_RDWR, 0) // its peer may have ended it
		return nil
	})
	_ = c.SetDeadline(time.Unix(1, 0)) // for who waits
	late.close(c.File)
	return err
}

// lateTime is how long descriptors wait to be closed together.
const lateTime = 10 * time.Millisecond

var late lateFiles

type lateFiles struct {
	mu    sync.Mutex
	files []*os.File // guarded by mu
}

func (l *lateFiles) close(f *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.files = append(l.files, f)
	if len(l.files) == 1 {
		time.AfterFunc(lateTime, l.closeAll)
	}
}

func (l *lateFiles) closeAll() {
	l.mu.Lock()
	files := l.files
	l.files = nil
	l.mu.Unlock()
	for _, f := range files {
		f.Close()
	}
}

// Local is its own address.
func (c *TCP) Local() netip.AddrPort { return c.local }

// Remote is its peer's.
func (c *TCP) Remote() netip.AddrPort { return c.remote }

func (c *TCP) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *TCP) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *TCP) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

func (c *TCP) CloseWrite() error {
	return c.control(func(fd int) error {
		if _, _, errno := unix.RawSyscall(unix.SYS_SHUTDOWN, uintptr(fd), unix.SHUT_WR, 0); errno != 0 {
			return os.NewSyscallError("shutdown", errno)
		}
		return nil
	})
}

// SetLinger is as net.TCPConn's.
func (c *TCP) SetLinger(sec int) error {
	return c.control(func(fd int) error {
		c.resets.Store(sec == 0)
		return setLinger(fd, sec)
	})
}

// KeepAlive has an end that vanishes be missed, after the time that package net takes.
func (c *TCP) KeepAlive() error {
	return c.control(func(fd int) error {
		return errors.Join(
			setOption(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1),
			setOption(fd, unix.SOL_TCP, unix.TCP_KEEPIDLE, 15),
			setOption(fd, unix.SOL_TCP, unix.TCP_KEEPINTVL, 15),
			setOption(fd, unix.SOL_TCP, unix.TCP_KEEPCNT, 9))
	})
}

func (c *TCP) control(f func(fd int) error) error {
	var err error
	if ctl := c.raw.Control(func(fd uintptr) { err = f(int(fd)) }); ctl != nil {
		return ctl
	}
	return err
}

// Copy copies n bytes, or, where n is negative, all to the end. Between two sockets it
// is splice(2) that moves them.
func Copy(to, from net.Conn, n int64) (int64, error) {
	t, ok := to.(syscall.Conn)
	f, both := from.(syscall.Conn)
	if ok && both {
		done, err := splice(t, f, n)
		if err != unix.EINVAL || done > 0 {
			return done, err
		}
	}
	if n < 0 {
		return io.Copy(to, from)
	}
	return io.CopyN(to, from, n)
}

// A pipe is what splice(2) moves bytes through. It is empty between uses.
type pipe struct{ read, write *os.File }

// pipeSize is what goes through a pipe at one time, where the kernel lets it.
const pipeSize = 1 << 20

var pipes sync.Pool // of *pipe, each closed by the collector

func newPipe() (*pipe, error) {
	if p, ok := pipes.Get().(*pipe); ok {
		return p, nil
	}
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil { // splice itself does not wait
		return nil, os.NewSyscallError("pipe2", err)
	}
	_, _ = unix.FcntlInt(uintptr(fds[1]), unix.F_SETPIPE_SZ, pipeSize) // less does
	return &pipe{os.NewFile(uintptr(fds[0]), "pipe"), os.NewFile(uintptr(fds[1]), "pipe")}, nil
}

func splice(to, from syscall.Conn, n int64) (total int64, err error) {
	in, err := from.SyscallConn()
	if err != nil {
		return 0, err
	}
	out, err := to.SyscallConn()
	if err != nil {
		return 0, err
	}
	p, err := newPipe()
	if err != nil {
		return 0, err
	}
	inside := int64(0) // bytes in the pipe
	defer func() {
		if inside == 0 {
			pipes.Put(p)
			return
		}
		p.read.Close()
		p.write.Close()
	}()
	read, write := int(p.read.Fd()), int(p.write.Fd())
	for n < 0 || total < n {
		most := pipeSize
		if n >= 0 {
			most = int(min(n-total, pipeSize))
		}
		got, err := move(in.Read, most, func(fd, size int) (int64, error) {
			return unix.Splice(fd, nil, write, nil, size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
		})
		switch {
		case err != nil:
			return total, err
		case got == 0 && n >= 0:
			return total, io.EOF
		case got == 0:
			return total, nil
		}
		for inside = got; inside > 0; {
			put, err := move(out.Write, int(inside), func(fd, size int) (int64, error) {
				return unix.Splice(read, nil, fd, nil, size, unix.SPLICE_F_NONBLOCK|unix.SPLICE_F_MOVE)
			})
			if err == nil && put == 0 {
				err = io.ErrNoProgress
			}
			if err != nil {
				return total, os.NewSyscallError("splice", err)
			}
			inside -= put
			total += put
		}
	}
	return total, nil
}

// move makes a call when the socket is ready; ready is a method of its RawConn.
func move(ready func(func(uintptr) bool) error, size int, call func(fd, size int) (int64, error)) (n int64, err error) {
	if wait := ready(func(fd uintptr) bool {
		for {
			if n, err = call(int(fd), size); err != unix.EINTR {
				return err != unix.EAGAIN
			}
		}
	}); wait != nil {
		return 0, wait
	}
	return n, err
}
