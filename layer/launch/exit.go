package launch

import (
	"os"
	"runtime"
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
