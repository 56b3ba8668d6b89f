package files

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/agent/target"
)

// What changes files is done as the target's user, so that the kernel itself
// judges, by ACLs too, and what is made is that user's. To the kernel, ids are
// a thread's own: each function gets a thread, which becomes that user and
// never anybody else, and ends with the function.

// fileCaps are the capabilities that the kernel asks for when files are
// looked at or changed, with their names.
var fileCaps = []struct {
	bit  uint
	name string
}{
	{unix.CAP_CHOWN, "CHOWN"},
	{unix.CAP_DAC_OVERRIDE, "DAC_OVERRIDE"},
	{unix.CAP_DAC_READ_SEARCH, "DAC_READ_SEARCH"},
	{unix.CAP_FOWNER, "FOWNER"},
	{unix.CAP_FSETID, "FSETID"},
}

// An acting knows how a thread becomes the target's user.
type acting struct {
	user target.User
	caps uint64 // of the thread
	lack string // the capabilities that the user has for files and the agent has not
}

func newActing(u target.User) acting {
	a := acting{user: u}
	if u.Foreign {
		return a // its capabilities are for files of its own user namespace, which its ids own
	}
	var ours [2]unix.CapUserData
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_ = unix.Capget(&head, &ours[0]) // it fails for no process's own: none are permitted then
	var lack []string
	for _, c := range fileCaps {
		switch {
		case !u.Can(c.bit):
		case uint64(ours[0].Permitted)&(1<<c.bit) == 0:
			lack = append(lack, c.name)
		default:
			a.caps |= 1 << c.bit
		}
	}
	a.lack = strings.Join(lack, ", ")
	return a
}

// CanAct tells why what changes files is not done, or not all that the target
// itself could do.
func (t *Tree) CanAct() error {
	if err := t.act(0, func() error { return nil }); err != nil {
		return err
	}
	if t.acting.lack != "" {
		return fmt.Errorf("the target's process has capabilities that the agent lacks: %s", t.acting.lack)
	}
	return nil
}

// act calls f as the target's user, who masks the permissions of what he makes
// with umask. f must not start a goroutine, nor lock its own to a thread. The
// errors of a user with fewer capabilities than the target has say so.
func (t *Tree) act(umask uint32, f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with this function
		if err := t.acting.become(umask); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	err := <-done
	if t.acting.lack != "" && (errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM)) {
		err = fmt.Errorf("%w (the agent lacks capabilities of the target's: %s)", err, t.acting.lack)
	}
	return err
}

// become makes this thread the target's user.
func (a *acting) become(umask uint32) error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil { // or the mask were the whole process's
		return fmt.Errorf("giving a thread its own umask: %w", err)
	}
	unix.Umask(int(umask & 0o777))
	if err := a.setGroups(); err != nil {
		return err
	}
	// The effective ids, which those of the file system follow: by them /proc/sys
	// judges. The others stay ours, so that the user cannot send the thread a
	// signal. Raw: package unix changes all threads.
	const asIs = ^uint32(0)
	for _, id := range []struct {
		name string
		want uint32
		call uintptr
	}{{"gid", a.user.GID, unix.SYS_SETRESGID}, {"uid", a.user.UID, unix.SYS_SETRESUID}} {
		_, _, errno := unix.RawSyscall(id.call, uintptr(asIs), uintptr(id.want), uintptr(asIs))
		if id.want == asIs {
			errno = unix.EINVAL
		}
		if errno != 0 {
			return fmt.Errorf("becoming the target's %s %d (it needs CAP_SET%s): %w", id.name, id.want, strings.ToUpper(id.name), errno)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var caps [2]unix.CapUserData
	caps[0].Permitted = uint32(a.caps)
	caps[0].Effective = caps[0].Permitted
	if err := unix.Capset(&head, &caps[0]); err != nil {
		return fmt.Errorf("taking on the target's capabilities: %w", err)
	}
	return nil
}

func (a *acting) setGroups() error {
	want := make([]int, len(a.user.Groups))
	for i, g := range a.user.Groups {
		want[i] = int(g)
	}
	slices.Sort(want)
	if have, err := unix.Getgroups(); err == nil {
		if slices.Sort(have); slices.Equal(have, want) {
			return nil
		}
	}
	if err := unix.Setgroups(want); err != nil {
		return fmt.Errorf("taking on the target's groups %v (it needs CAP_SETGID): %w", want, err)
	}
	return nil
}
