package files

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// A stage is a step of starting the file server that can be refused.
type stage uint32

const (
	stageSpawn  stage = 1
	stageDevice stage = 2
	stageMount  stage = 3
	stageServe  stage = 4
)

func (s stage) String() string {
	switch s {
	case stageSpawn:
		if !mayMount() {
			return "making a user namespace"
		}
		return "starting its process"
	case stageDevice:
		return "opening /dev/fuse"
	case stageMount:
		return "mounting FUSE"
	}
	return "speaking FUSE with the kernel"
}

// hint tells what could be done about a refusal.
func (s stage) hint(err error) string {
	no, _ := err.(syscall.Errno)
	switch {
	case s == stageDevice && (no == unix.ENOENT || no == unix.ENODEV || no == unix.ENXIO):
		return "load the kernel's fuse module (modprobe fuse), or give the container the device /dev/fuse"
	case s == stageDevice:
		return fmt.Sprintf("let user %d read and write /dev/fuse", os.Geteuid())
	case s == stageSpawn && !mayMount():
		return "allow user namespaces (sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone; in a container also its seccomp profile)"
	case s == stageMount && no == unix.ENODEV:
		return "load the kernel's fuse module (modprobe fuse)"
	case s == stageMount && no == unix.ENOSYS:
		return "Linux 5.2 or newer is needed (fsmount)"
	case s == stageMount && !mayMount():
		return "allow user namespaces to mount (sysctl kernel.apparmor_restrict_unprivileged_userns=0)"
	case s == stageMount:
		return "allow mounting (in a container: CAP_SYS_ADMIN and its seccomp profile)"
	}
	return "see the daemon's log"
}

// An Error is why remote files cannot be shown here, and what to do.
type Error struct {
	Msg  string
	Hint string
	Err  error
}

func (e *Error) Error() string { return e.Msg + "; " + e.Hint }
func (e *Error) Unwrap() error { return e.Err }

// unavailable is why remote files cannot be shown here.
func unavailable(s stage, err error) error {
	if pe, ok := err.(*os.PathError); ok {
		err = pe.Err
	}
	reason := err.Error()
	if s == stageSpawn && errors.Is(err, unix.ENOSPC) { // no room below the limit
		reason = "none may be made"
	}
	return &Error{
		Msg:  fmt.Sprintf("starting the file server for remote files: %v: %s", s, reason),
		Hint: s.hint(err) + ", or go on with --fs-mode local",
		Err:  err,
	}
}

// Available tells whether remote files can be shown here, by doing it once. An
// error says what was refused and what to do.
func Available() error {
	s, err := Start(context.Background(), slog.New(slog.DiscardHandler), nil)
	if err != nil {
		return err
	}
	return s.Close()
}

// mayMount tells whether this process may mount FUSE without a user namespace
// of its own. Inside one, nobody but us could walk the mount, and owners
// that are not mapped could not be shown.
func mayMount() bool {
	var data [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	err := unix.Capget(&head, &data[0])
	return err == nil && os.Geteuid() == 0 && data[0].Effective&(1<<unix.CAP_SYS_ADMIN) != 0
}
