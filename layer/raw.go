package layer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Calls that cannot wait are made here without Go's scheduler being told: where nothing
// else runs, it wakes its monitor thread up for the first that it is told of.

func rawFstat(fd int, st *unix.Stat_t) unix.Errno {
	_, _, errno := unix.RawSyscall(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0)
	return errno
}

func rawFlags(fd int) (int, unix.Errno) {
	flags, _, errno := unix.RawSyscall(unix.SYS_FCNTL, uintptr(fd), unix.F_GETFL, 0)
	return int(flags), errno
}

func rawOption(fd, level, name int) (int, unix.Errno) {
	var value int32
	size := uint32(unsafe.Sizeof(value))
	_, _, errno := unix.RawSyscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), uintptr(name),
		uintptr(unsafe.Pointer(&value)), uintptr(unsafe.Pointer(&size)), 0)
	return int(value), errno
}

// rawReadlink reads a link of /proc, which is as long as b takes.
func rawReadlink(path string, b []byte) (string, unix.Errno) {
	name, err := unix.BytePtrFromString(path)
	if err != nil {
		return "", unix.EINVAL
	}
	cwd := unix.AT_FDCWD
	n, _, errno := unix.RawSyscall6(unix.SYS_READLINKAT, uintptr(cwd), uintptr(unsafe.Pointer(name)),
		uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0)
	if errno != 0 {
		return "", errno
	}
	return string(b[:n]), 0
}
