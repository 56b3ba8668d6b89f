package seccomp

import (
	"bytes"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	pageSize = 4096 // the smallest there is: a bound for one read, not the machine's
	MaxPath  = 4096 // PATH_MAX, with the NUL
	piece    = 256  // most paths are shorter
)

// Read fills b from task tid's memory at addr. A short or impossible read is EFAULT.
func Read(tid uint32, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := processVM(unix.SYS_PROCESS_VM_READV, tid, addr, b)
	if err == nil && n != len(b) {
		return unix.EFAULT
	}
	return err
}

// Write copies b to task tid's memory at addr. EFAULT: not all of it is writable there.
func Write(tid uint32, addr uint64, b []byte) error {
	if len(b) == 0 {
		return nil
	}
	n, err := processVM(unix.SYS_PROCESS_VM_WRITEV, tid, addr, b)
	if err == nil && n != len(b) {
		return unix.EFAULT
	}
	return err
}

// ReadString reads the string at addr of task tid into buf, which holds
// MaxPath bytes, and returns the part of buf before the NUL. No read crosses a
// page, so that a string at the end of a mapping is read whole.
func ReadString(tid uint32, addr uint64, buf *[MaxPath]byte) ([]byte, error) {
	for n := 0; n < len(buf); {
		size := pageSize - int((addr+uint64(n))%pageSize)
		size = min(size, piece, len(buf)-n)
		if err := Read(tid, addr+uint64(n), buf[n:n+size]); err != nil {
			return nil, err
		}
		if i := bytes.IndexByte(buf[n:n+size], 0); i >= 0 {
			return buf[:n+i], nil
		}
		n += size
	}
	return nil, unix.ENAMETOOLONG
}

// processVM makes one transfer without allocating: it runs for every trapped path.
func processVM(call uintptr, tid uint32, addr uint64, b []byte) (int, error) {
	local := unix.Iovec{Base: &b[0]}
	local.SetLen(len(b))
	remote := unix.RemoteIovec{Base: uintptr(addr), Len: len(b)}
	n, _, errno := unix.RawSyscall6(call, uintptr(tid), uintptr(unsafe.Pointer(&local)), 1,
		uintptr(unsafe.Pointer(&remote)), 1, 0)
	if errno != 0 {
		return 0, errno
	}
	return int(n), nil
}
