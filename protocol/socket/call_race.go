//go:build race

package socket

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The race detector knows from package syscall, and only from there, that what
// is read was written before.
func call(trap, fd uintptr, first unsafe.Pointer, size int) (n int, _ unix.Errno) {
	var err error
	switch trap {
	case unix.SYS_READ:
		n, err = syscall.Read(int(fd), unsafe.Slice((*byte)(first), size))
	case unix.SYS_WRITE:
		n, err = syscall.Write(int(fd), unsafe.Slice((*byte)(first), size))
	case unix.SYS_RECVMSG: // size is its flags
		h := (*unix.Msghdr)(first)
		var oobn int
		n, oobn, _, _, err = syscall.Recvmsg(int(fd), unsafe.Slice(h.Iov.Base, h.Iov.Len), unsafe.Slice(h.Control, h.Controllen), size)
		if err == nil {
			h.SetControllen(oobn)
		}
	case unix.SYS_SENDMSG: // as a vector, and size is its flags
		v := (*unix.Msghdr)(first).Iov
		n, err = syscall.SendmsgN(int(fd), unsafe.Slice(v.Base, v.Len), nil, nil, size)
	default: // a vector: its first buffer
		v := (*unix.Iovec)(first)
		n, err = syscall.Write(int(fd), unsafe.Slice(v.Base, v.Len))
	}
	errno, _ := err.(unix.Errno)
	return n, errno
}
