package mirrord_test

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// under starts a command as the child of a thread that prepare has changed for
// good, and which ends with the start.
func under(prepare func() error) func(*exec.Cmd) error {
	return func(cmd *exec.Cmd) error {
		done := make(chan error)
		go func() {
			runtime.LockOSThread() // never unlocked
			err := prepare()
			if err == nil {
				err = cmd.Start()
			}
			done <- err
		}()
		return <-done
	}
}

// refuseListener makes seccomp(2) with a flag, as it takes to be notified, fail.
func refuseListener(errno unix.Errno) error {
	raw, err := bpf.Assemble([]bpf.Instruction{
		bpf.LoadAbsolute{Off: 0, Size: 4}, // the call's number
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_SECCOMP, SkipTrue: 3},
		bpf.LoadAbsolute{Off: 16 + 8, Size: 4}, // its second argument
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		bpf.RetConstant{Val: unix.SECCOMP_RET_ALLOW},
	})
	if err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("setting no_new_privs: %w", err)
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, no := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&prog)))
	runtime.KeepAlive(filter)
	if no != 0 {
		return fmt.Errorf("installing a seccomp program: %w", no)
	}
	return nil
}

// Without seccomp notification nothing runs.
func TestKernelWithoutNotification(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	for errno, words := range map[unix.Errno][]string{
		unix.EINVAL: {"this kernel does not offer seccomp notification", "Linux 5.14 or later"},
		unix.ENOSYS: {"this kernel does not offer seccomp notification", "allow the seccomp system call"},
		unix.EPERM:  {"installing the seccomp program: operation not permitted", "seccomp profile"},
	} {
		t.Run(unix.ErrnoName(errno), func(t *testing.T) {
			cmd := mirrord(t, onTarget(namespace, "--", "echo", "it runs")...)
			finish(t, cmd, under(func() error { return refuseListener(errno) })).fails(t, 125, words...)
		})
	}
}

// Without FUSE remote files are copied; --fs-mode local has none of them.
func TestNoFUSE(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("hides /dev/fuse in a mount namespace: needs root")
	}
	namespace := ownTarget(t)
	for name, hide := range map[string]func() error{
		"no device": emptyDev,
		"no driver": func() error { return unix.Mount("/dev/null", "/dev/fuse", "", unix.MS_BIND, "") },
	} {
		t.Run(name, func(t *testing.T) {
			ownDaemon(t)
			hidden := under(func() error {
				if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
					return fmt.Errorf("making a mount namespace: %w", err)
				}
				if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
					return fmt.Errorf("making mounts private: %w", err)
				}
				return hide()
			})
			// The daemon that this starts is in there, too.
			o := finish(t, mirrord(t, onTarget(namespace, "--", "head", "-c", "4", "/shop")...), hidden)
			if o.code != 0 || o.stdout != "\x7fELF" { // the target's program is large enough to be a node elsewhere
				t.Errorf("reading a large file: exit code %d: %s%s", o.code, o.stdout, o.stderr)
			}
			for _, words := range []string{"mirrord: warning:", "starting the file server for remote files", "--fs-mode local"} {
				if !strings.Contains(o.stderr, words) {
					t.Errorf("not told: %q in %s", words, o.stderr)
				}
			}
			o = finish(t, mirrord(t, onTarget(namespace, "--fs-mode", "local", "--", "hostname")...), hidden)
			if o.code != 0 || o.stdout != "web\n" || strings.Contains(o.stderr, "warning") {
				t.Errorf("with --fs-mode local: exit code %d: %s%s", o.code, o.stdout, o.stderr)
			}
			kubectl(t, "delete", "job", "-n", namespace, "-l", agentLabel)
			noAgentLeft(t, namespace)
		})
	}
}

// emptyDev leaves /dev with nothing but null.
func emptyDev() error {
	null, err := unix.Open("/dev/null", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("opening /dev/null: %w", err)
	}
	defer unix.Close(null)
	if err := unix.Mount("none", "/dev", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("hiding /dev: %w", err)
	}
	file, err := unix.Open("/dev/null", unix.O_CREAT|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return fmt.Errorf("making /dev/null: %w", err)
	}
	unix.Close(file)
	return unix.Mount(fmt.Sprintf("/proc/thread-self/fd/%d", null), "/dev/null", "", unix.MS_BIND, "")
}
