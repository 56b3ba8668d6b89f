package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

const pidfdThread = unix.O_EXCL // PIDFD_THREAD: since 6.9 a pidfd can name a thread

// Duplicate returns a duplicate of task tid's descriptor fd: the same open
// file, so what is done to ours is done to the task's.
func Duplicate(tid uint32, fd int32) (int, error) {
	p, err := openPidfd(tid)
	if err != nil {
		return -1, err
	}
	defer func() { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(p), 0, 0) }()
	n, _, errno := unix.RawSyscall(unix.SYS_PIDFD_GETFD, uintptr(p), uintptr(fd), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

func openPidfd(tid uint32) (int, error) {
	p, _, errno := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(tid), pidfdThread, 0)
	switch errno {
	case 0:
		return int(p), nil
	case unix.EINVAL:
	default:
		return -1, errno
	}
	tgid, err := Process(tid)
	if err != nil {
		return -1, err
	}
	return unix.PidfdOpen(tgid, 0)
}

// Process returns the id of the process that thread tid belongs to.
func Process(tid uint32) (int, error) {
	// Its first thread, as nearly always, can be signalled as its own process's.
	if err := unix.Tgkill(int(tid), int(tid), 0); err == nil || err == unix.EPERM {
		return int(tid), nil
	}
	status, err := os.ReadFile("/proc/" + strconv.Itoa(int(tid)) + "/status")
	if err != nil {
		return 0, err
	}
	_, rest, _ := bytes.Cut(status, []byte("\nTgid:\t"))
	line, _, _ := bytes.Cut(rest, []byte("\n"))
	tgid, err := strconv.Atoi(string(line))
	if err != nil {
		return 0, fmt.Errorf("reading process of thread %d: %w", tid, err)
	}
	return tgid, nil
}
