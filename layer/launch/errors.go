package launch

import (
	"fmt"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// Exit codes of shells, for a command that does not start.
const (
	CodeNotExecutable = 126
	CodeNotFound      = 127
)

// An Error is a debuggee that was not started: what was tried and why not, the
// way out, and the exit code to end with.
type Error struct {
	Msg  string
	Hint string
	Code int
	Err  error
}

func (e *Error) Error() string { return e.Msg }
func (e *Error) Unwrap() error { return e.Err }

func nested(by string) error {
	return &Error{
		Msg:  "mirrord exec inside mirrord exec (launcher " + by + ")",
		Hint: "run the command itself: it is in the session already",
		Code: 1, Err: seccomp.ErrNested,
	}
}

// notInstalled explains why the program could not be put on the keeper.
func notInstalled(errno unix.Errno) error {
	e := &Error{Msg: fmt.Sprintf("installing the seccomp program: %v", errno), Code: 1, Err: errno}
	switch errno {
	case unix.EBUSY:
		e.Msg = "this process is under a seccomp program with a listener already"
		e.Hint = "start mirrord outside of what supervises it (another mirrord, a container runtime's seccomp agent)"
		e.Err = seccomp.ErrNested
	case unix.ENOSYS, unix.EINVAL:
		e.Msg = "this kernel does not offer seccomp notification"
		e.Hint = "Linux 5.14 or later is needed, and gVisor and WSL 1 have it not; in a container allow the seccomp system call"
		e.Err = seccomp.ErrUnsupported
	case unix.EACCES, unix.EPERM:
		e.Hint = "the process may neither set no_new_privs nor has it CAP_SYS_ADMIN: a seccomp profile of the container forbids it"
	}
	return e
}

// notStarted explains why the kernel would not execute path.
func notStarted(path string, errno unix.Errno) error {
	e := &Error{Msg: fmt.Sprintf("%s: %v", path, errno), Code: CodeNotExecutable, Err: errno}
	switch errno {
	case unix.ENOENT:
		e.Code = CodeNotFound
		e.Hint = "the file is there, its interpreter is not (a #! line, or the dynamic loader of another C library)"
	case unix.ENOEXEC:
		e.Hint = "it is neither a program of this machine nor does it begin with #!"
	}
	return e
}
