package launch

import (
	"bufio"
	"bytes"
	"math"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// End ends this process as the debuggee ended: with its exit code, or by the
// same signal, without a core of ours. It does not return.
func (e Exit) End() {
	if e.Signal != 0 {
		runtime.LockOSThread()
		_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
		// Go's own handlers would print stacks: the kernel's default, by hand.
		var def struct {
			handler, flags, restorer uintptr
			mask                     uint64
		}
		_, _, _ = unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(e.Signal), uintptr(unsafe.Pointer(&def)), 0, unsafe.Sizeof(def.mask), 0, 0)
		var set unix.Sigset_t
		_ = unix.PthreadSigmask(unix.SIG_SETMASK, &set, nil)
		_ = unix.Tgkill(unix.Getpid(), unix.Gettid(), e.Signal)
	}
	os.Exit(e.Code)
}

// Crashed tells whether it ended by a signal that nobody sends to end a program.
func (e Exit) Crashed() bool {
	switch e.Signal {
	case unix.SIGSEGV, unix.SIGBUS, unix.SIGILL, unix.SIGFPE, unix.SIGABRT, unix.SIGSYS, unix.SIGTRAP, unix.SIGKILL:
		return true
	}
	return false
}

// OutOfMemoryKills is how many processes the kernel has killed for want of
// memory, as proc_vmstat(5) tells, or more than any where it does not.
func OutOfMemoryKills() uint64 {
	text, err := os.ReadFile("/proc/vmstat")
	for lines := bufio.NewScanner(bytes.NewReader(text)); err == nil && lines.Scan(); {
		if count, ok := bytes.CutPrefix(lines.Bytes(), []byte("oom_kill ")); ok {
			n, err := strconv.ParseUint(string(count), 10, 64)
			if err == nil {
				return n
			}
		}
	}
	return math.MaxUint64
}
