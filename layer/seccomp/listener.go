package seccomp

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// A Notification is one trapped call, whose task waits. It is the kernel's
// struct seccomp_notif.
type Notification struct {
	ID    uint64
	TID   uint32 // of the thread, not of the process
	flags uint32
	NR    int32
	arch  uint32
	IP    uint64
	Args  [6]uint64
}

type response struct {
	id    uint64
	val   int64
	errno int32 // negative
	flags uint32
}

type addfd struct {
	id       uint64
	flags    uint32
	fd       uint32
	newfd    uint32
	newFlags uint32
}

// The kernel checks these sizes: they are part of the ioctl numbers.
var (
	_ = [1]byte{}[unsafe.Sizeof(Notification{})-80]
	_ = [1]byte{}[unsafe.Sizeof(response{})-24]
	_ = [1]byte{}[unsafe.Sizeof(addfd{})-24]
)

const (
	ioctlReceive  = 0xc0502100
	ioctlSend     = 0xc0182101
	ioctlValid    = 0x40082102
	ioctlAddFD    = 0x40182103
	ioctlSetFlags = 0x40082104

	respContinue = 1
	addfdSend    = 2
	syncWakeUp   = 1
)

// ErrGone: the call was interrupted or its task has died. A restarted call
// comes as a new notification.
var ErrGone = errors.New("the call is no longer waiting")

// A Listener receives the notifications of a program and answers them. Its
// methods may be called from any goroutine, Close but once.
type Listener struct {
	fd      int
	closed  atomic.Bool
	stop    atomic.Bool
	stopped chan struct{}

	task task

	mu      sync.Mutex
	threads []int // that receive; guarded by mu
}

// NewListener takes over fd. It asks for synchronous wake-ups, which make an
// answer five to ten times faster on an idle machine; kernels before 6.6
// cannot, and do without.
func NewListener(fd int) *Listener {
	_, _, _ = unix.Syscall(unix.SYS_IOCTL, uintptr(fd), ioctlSetFlags, syncWakeUp)
	return &Listener{fd: fd, stopped: make(chan struct{})}
}

// FD is the listener's descriptor, for passing it on.
func (l *Listener) FD() int { return l.fd }

// Close closes it: every trapped call is answered ENOSYS from then on. It must
// not run beside Receive.
func (l *Listener) Close() error {
	if l.closed.Swap(true) {
		return nil
	}
	l.task.mu.Lock()
	l.task.close()
	l.task.mu.Unlock()
	return unix.Close(l.fd)
}

// Join is called by each goroutine that is to call Receive, on a thread that it keeps.
func (l *Listener) Join() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.threads = append(l.threads, unix.Gettid())
}

// Receive waits for the next notification. One goroutine at a time calls it. soon: it
// is thought to come within soonTime, and no other goroutine waits for a processor.
// io.EOF: all tasks under the program have ended, or Interrupt was called; so it
// is from then on.
func (l *Listener) Receive(n *Notification, soon bool) error {
	for {
		select {
		case <-l.stopped:
			return io.EOF
		default:
		}
		if l.stop.Load() {
			close(l.stopped)
			return io.EOF
		}
		*n = Notification{}     // else EINVAL
		receive := unix.Syscall // it may wait for long, and the garbage collector need not wait for it
		if soon && l.soon() {
			receive = unix.RawSyscall
		}
		_, _, errno := receive(unix.SYS_IOCTL, uintptr(l.fd), ioctlReceive, uintptr(unsafe.Pointer(n)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOENT: // the task died between waking us and now, or all have
			poll := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
			if _, err := unix.Poll(poll, 0); err == nil && poll[0].Revents&unix.POLLHUP != 0 {
				close(l.stopped)
				return io.EOF
			}
		default:
			close(l.stopped)
			return fmt.Errorf("receiving a notification: %w", errno)
		}
	}
}

// soonTime is how long the next notification is waited for as if it came at once:
// who tells Go's scheduler of a wait (see package socket) has it wake its monitor
// thread before and after each, which then is in the way of who answers.
const soonTime = time.Millisecond

// soon waits for a notification for soonTime, and tells whether there is one.
func (l *Listener) soon() bool {
	return Poll(l.fd, soonTime)&unix.POLLIN != 0
}

// Poll is poll(2) of one descriptor that is to be read from, for so short a time that
// Go's scheduler need not be told; 0: nothing has happened to it.
func Poll(fd int, short time.Duration) (events int16) {
	poll := unix.PollFd{Fd: int32(fd), Events: unix.POLLIN}
	wait := unix.NsecToTimespec(int64(short))
	_, _, _ = unix.RawSyscall6(unix.SYS_PPOLL, uintptr(unsafe.Pointer(&poll)), 1, uintptr(unsafe.Pointer(&wait)), 0, 0, 0)
	return poll.Revents
}

// Interrupt makes Receive return, for kernels before 6.11, which do not wake it
// when the last task has ended. It returns when Receive has, or nobody has joined.
func (l *Listener) Interrupt() {
	l.stop.Store(true)
	l.mu.Lock()
	threads := l.threads
	l.mu.Unlock()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for len(threads) > 0 {
		for _, tid := range threads {
			// Go ignores this signal; the ioctl is interrupted by it.
			_ = unix.Tgkill(unix.Getpid(), tid, unix.SIGURG)
		}
		select {
		case <-l.stopped:
			return
		case <-tick.C: // it had not come to the ioctl yet
		}
	}
}

// Continue lets the kernel carry out call id as if it had not been trapped.
func (l *Listener) Continue(id uint64) error {
	return l.send(&response{id: id, flags: respContinue})
}

// Return makes call id return val.
func (l *Listener) Return(id uint64, val int64) error {
	return l.send(&response{id: id, val: val})
}

// Fail makes call id fail.
func (l *Listener) Fail(id uint64, errno unix.Errno) error {
	return l.send(&response{id: id, errno: -int32(errno)})
}

func (l *Listener) send(r *response) error {
	for {
		_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(l.fd), ioctlSend, uintptr(unsafe.Pointer(r)))
		switch errno {
		case 0:
			return nil
		case unix.EINTR:
		case unix.ENOENT, unix.EINPROGRESS: // gone, or answered
			return ErrGone
		default:
			return fmt.Errorf("answering a notification: %w", errno)
		}
	}
}

// Valid tells whether call id still waits. What was read from its task before
// a true answer was read from the right task.
func (l *Listener) Valid(id uint64) bool {
	_, _, errno := unix.RawSyscall(unix.SYS_IOCTL, uintptr(l.fd), ioctlValid, uintptr(unsafe.Pointer(&id)))
	return errno == 0
}

// Inject gives call id's task a duplicate of fd and makes the call return its
// number. An errno as error: the task could not take it (EMFILE), and still waits.
//
// Signals are masked meanwhile. A signal (Go's own preemption sends many)
// that interrupts this ioctl makes the kernel withdraw the descriptor after it
// has marked the call as answered, and the call returns 0: standard input.
func (l *Listener) Inject(id uint64, fd int, cloexec bool) error {
	a := addfd{id: id, flags: addfdSend, fd: uint32(fd)}
	if cloexec {
		a.newFlags = unix.O_CLOEXEC
	}
	_, err := l.add(&a)
	return err
}

// Add gives call id's task a duplicate of fd, to be closed at exec, and returns
// its number there. The call goes on waiting.
func (l *Listener) Add(id uint64, fd int) (int, error) {
	return l.add(&addfd{id: id, fd: uint32(fd), newFlags: unix.O_CLOEXEC})
}

func (l *Listener) add(a *addfd) (int, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var all, old unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = ^all.Val[i]
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &old); err != nil {
		return -1, fmt.Errorf("masking signals: %w", err)
	}
	defer unix.PthreadSigmask(unix.SIG_SETMASK, &old, nil)
	n, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(l.fd), ioctlAddFD, uintptr(unsafe.Pointer(a)))
	switch errno {
	case 0:
		return int(n), nil
	case unix.ENOENT, unix.EINPROGRESS, unix.ESRCH: // the last where it was interrupted meanwhile: kernel/seccomp.c
		return -1, ErrGone
	}
	return -1, errno
}
