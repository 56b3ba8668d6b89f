package seccomp

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	setModeFilter   = 1
	flagNewListener = 1 << 3
)

// ErrNested: the thread is already under a program that notifies, and the
// kernel allows one in a line of descent.
var ErrNested = errors.New("a seccomp program with a listener is already installed")

// ErrUnsupported: the kernel has no notification, or something forbids it.
var ErrUnsupported = errors.New("the kernel does not offer seccomp notification")

// Install puts program on the calling thread and what it starts, and returns
// the listener. The caller has locked the thread and never unlocks it: the
// thread cannot be rid of the program. Nothing may be trapped on it before
// somebody receives from the listener.
//
// TSYNC is left out, so that the rest of our process stays free, and so is
// WAIT_KILLABLE_RECV: with it a signal, and so a debugger's stop, waits for
// our answer.
func Install(program []bpf.RawInstruction) (*Listener, error) {
	privileged, err := hasSysAdmin()
	if err != nil {
		return nil, err
	}
	if !privileged { // sudo and ping lose their rights by it, so only where it is needed
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return nil, fmt.Errorf("setting no_new_privs: %w", err)
		}
	}
	filter := make([]unix.SockFilter, len(program))
	for i, in := range program {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, flagNewListener, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	switch errno {
	case 0:
		return NewListener(int(fd)), nil // the kernel made it close-on-exec
	case unix.EBUSY:
		return nil, ErrNested
	case unix.ENOSYS, unix.EINVAL:
		return nil, fmt.Errorf("%w: %w", ErrUnsupported, errno)
	}
	return nil, fmt.Errorf("installing the seccomp program: %w", errno)
}

func hasSysAdmin() (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false, fmt.Errorf("reading capabilities: %w", err)
	}
	return data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0, nil
}
