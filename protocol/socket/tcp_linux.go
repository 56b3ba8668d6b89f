package socket

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A TCP is a connection of which package net does not know, and so asks and sets
// nothing. Within a machine that was a good part of what a new connection costs.
type TCP struct {
	*os.File
	raw           syscall.RawConn
	local, remote netip.AddrPort
}

// Adopt makes a TCP of a socket that does not block, and owns it.
func Adopt(fd int, local, remote netip.AddrPort) (*TCP, error) {
	f := os.NewFile(uintptr(fd), "tcp")
	raw, err := f.SyscallConn()
	if err != nil {
		return nil, err
	}
	return &TCP{f, raw, local, remote}, nil
}

func (c *TCP) LocalAddr() net.Addr  { return net.TCPAddrFromAddrPort(c.local) }
func (c *TCP) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(c.remote) }

func (c *TCP) SyscallConn() (syscall.RawConn, error) { return c.raw, nil }

// Connected waits until connect(2) to an address is over, which was begun.
func (c *TCP) Connected(to unix.Sockaddr) error {
	var err error
	if wait := c.raw.Write(func(fd uintptr) bool {
		err = unix.Connect(int(fd), to)
		return err != unix.EALREADY && err != unix.EINPROGRESS && err != unix.EINTR
	}); wait != nil {
		return wait
	}
	if err == unix.EISCONN {
		return nil
	}
	return os.NewSyscallError("connect", err)
}

func (c *TCP) CloseWrite() error {
	return c.control(func(fd int) error { return os.NewSyscallError("shutdown", unix.Shutdown(fd, unix.SHUT_WR)) })
}

// SetLinger is as net.TCPConn's.
func (c *TCP) SetLinger(sec int) error {
	l := unix.Linger{Linger: int32(max(sec, 0))}
	if sec >= 0 {
		l.Onoff = 1
	}
	return c.control(func(fd int) error {
		return os.NewSyscallError("setsockopt", unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &l))
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
