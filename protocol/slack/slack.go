// Package slack gives a process timers that are not exact. Where work comes by small
// pieces, Go's scheduler otherwise has threads sleep for some 20 µs at a time, beside
// those that work and often in their way: its monitor, and who looks for work that
// another thread has. On a processor that is shared with other processes that is a
// quarter of what a new connection through all of ours takes.
package slack

import (
	"fmt"
	"os"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// late is by how much timers may be late: no timer of the daemon's or the agent's is
// so exact. The kernel's default is 50 µs.
const late = time.Millisecond

// Exec is execve(2) of a program that is to have such timers, or goes without. The
// monitor's thread is there before anything of a program is initialised, and what it is
// given lasts: so it takes an execve. Exec returns only an error.
func Exec(path string, args, env []string) error {
	runtime.LockOSThread() // timer slack is a thread's, and kept over execve(2), as prctl(2) says
	_ = unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(late), 0, 0, 0)
	return syscall.Exec(path, args, env)
}

// Again executes this program once more, if it has exact timers and can have others.
func Again() error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if isLate() || unix.Prctl(unix.PR_SET_TIMERSLACK, uintptr(late), 0, 0, 0) != nil || !isLate() {
		return nil
	}
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own executable: %w", err)
	}
	return fmt.Errorf("executing %s again: %w", path, Exec(path, os.Args, os.Environ()))
}

func isLate() bool {
	now, err := unix.PrctlRetInt(unix.PR_GET_TIMERSLACK, 0, 0, 0, 0)
	return err == nil && now >= int(late)
}
