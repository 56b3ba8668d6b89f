// Package slack gives a process timers that are not exact. Where work comes by small
// pieces, Go's scheduler otherwise has threads sleep for some 20 µs at a time, beside
// those that work and often in their way: its monitor, and who looks for work that
// another thread has. On a processor that is shared with other processes that is a
// quarter of what a new connection through all of ours takes.
//
// Timer slack is a thread's, and of those it starts (prctl(2), PR_SET_TIMERSLACK). The
// monitor's thread is there before anything of a program is initialised: so it is said
// where the program begins. It is linked to begin there by the flag -E _rt0_mirrord;
// without the flag its timers are as exact as they were, and all else is the same.
//
// It imports no more than runtime and syscall: the keeper does without what must be
// initialised.
package slack

import (
	"runtime"
	"syscall"
)

const prSetTimerSlack = 29 // PR_SET_TIMERSLACK; the kernel's include/uapi/linux/prctl.h

// late is by how much timers may be late, in ns, where _rt0_mirrord has said so: none
// of ours is so exact. The kernel's default is 50 µs.
const late = 1_000_000

// first is the slack that this process was started with, in ns. _rt0_mirrord sets it;
// not positive: that was not there, or the kernel has none to tell of.
var first int

// Spare calls start, which starts or executes a debuggee, or what will: that has the timers
// that it would have without us.
func Spare(start func() error) error {
	if first <= 0 {
		return start()
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	set(first)
	defer set(late)
	return start()
}

// set is about the calling thread. It has worked before, on the same kernel.
func set(ns int) { _, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, prSetTimerSlack, uintptr(ns), 0) }
