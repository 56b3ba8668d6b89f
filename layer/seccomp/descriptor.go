package seccomp

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

const pidfdThread = unix.O_EXCL // PIDFD_THREAD: since 6.9 a pidfd can name a thread

// A task is the thread that called last. Its pidfd is never another's that has its
// number after it.
type task struct {
	mu    sync.Mutex
	tid   uint32 // guarded by mu; 0: none
	pidfd int    // guarded by mu
}

// Duplicate returns a duplicate of task tid's descriptor fd: the same open
// file, so what is done to ours is done to the task's.
func (l *Listener) Duplicate(tid uint32, fd int32) (int, error) {
	t := &l.task
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.tid == tid {
		if n, err := getfd(t.pidfd, fd); err != unix.ESRCH {
			return n, err
		}
	}
	p, thread, err := openPidfd(tid)
	if err != nil {
		return -1, err
	}
	n, err := getfd(p, fd)
	if thread {
		t.close()
		t.tid, t.pidfd = tid, p
	} else {
		Close(p)
	}
	return n, err
}

// close closes the pidfd; mu is held.
func (t *task) close() {
	if t.tid != 0 {
		Close(t.pidfd)
		t.tid = 0
	}
}

func getfd(pidfd int, fd int32) (int, error) {
	n, _, errno := unix.RawSyscall(unix.SYS_PIDFD_GETFD, uintptr(pidfd), uintptr(fd), 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), nil
}

// Close is close(2) of what does not wait, of which Go's scheduler need not be told.
func Close(fd int) { _, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(fd), 0, 0) }

// openPidfd opens a pidfd of a thread or, where the kernel knows none of these, of its process.
func openPidfd(tid uint32) (fd int, thread bool, err error) {
	p, _, errno := unix.RawSyscall(unix.SYS_PIDFD_OPEN, uintptr(tid), pidfdThread, 0)
	switch errno {
	case 0:
		return int(p), true, nil
	case unix.EINVAL:
	default:
		return -1, false, errno
	}
	tgid, err := Process(tid)
	if err != nil {
		return -1, false, err
	}
	fd, err = unix.PidfdOpen(tgid, 0)
	return fd, false, err
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
