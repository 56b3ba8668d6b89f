//go:build !race

package socket

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func call(trap, fd uintptr, first unsafe.Pointer, size int) (int, unix.Errno) {
	n, _, errno := unix.RawSyscall(trap, fd, uintptr(first), uintptr(size))
	return int(n), errno
}
