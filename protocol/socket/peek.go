package socket

import (
	"fmt"
	"io"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Peek copies what has come of a connection, which stays to be read; wait: until
// there is something. No bytes and no error: there is nothing yet.
func Peek(c syscall.Conn, p []byte, wait bool) (n int, err error) {
	n, err = receive(c, unsafe.Pointer(&p[0]), len(p), unix.MSG_PEEK, wait)
	if err != nil {
		err = fmt.Errorf("looking at connection: %w", err)
	}
	return n, err
}

// Discard takes n bytes of a connection of TCP, which have come.
func Discard(c syscall.Conn, n int) error {
	for n > 0 {
		taken, err := receive(c, nil, n, unix.MSG_TRUNC, true) // tcp(7): they are not copied
		if err != nil {
			return fmt.Errorf("taking what was looked at: %w", err)
		}
		n -= taken
	}
	return nil
}

func receive(c syscall.Conn, first unsafe.Pointer, size, flags int, wait bool) (n int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var errno unix.Errno
	err = raw.Read(func(fd uintptr) bool {
		for {
			var r uintptr
			r, _, errno = unix.RawSyscall6(unix.SYS_RECVFROM, fd, uintptr(first), uintptr(size), uintptr(flags|unix.MSG_DONTWAIT), 0, 0)
			if errno != unix.EINTR {
				n = int(r)
				return errno != unix.EAGAIN || !wait
			}
		}
	})
	switch {
	case err != nil:
		return 0, err
	case errno == unix.EAGAIN:
		return 0, nil
	case errno != 0:
		return 0, errno
	case n == 0:
		return 0, io.EOF
	}
	return n, nil
}
