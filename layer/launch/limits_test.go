package launch

import (
	"os"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const forbidEnv = "TEST_FORBID"

// forbid puts a program on the launcher, which makes the named system call fail:
// a kernel without it, or a profile against it. It is called before the launcher
// starts its keeper, for what is the keeper's to call, and after.
func forbid(name string, keepers bool) error {
	call, ok := map[string]struct {
		nr      uint32
		errno   unix.Errno
		arg     uint32 // with args[1]'s low half: only then, if not 0
		keepers bool
	}{
		"pidfd_getfd":  {unix.SYS_PIDFD_GETFD, unix.EPERM, 0, false},
		"pidfd_thread": {unix.SYS_PIDFD_OPEN, unix.EINVAL, unix.O_EXCL, false},
		"seccomp":      {unix.SYS_SECCOMP, unix.ENOSYS, 0, true},
		"flag":         {unix.SYS_SECCOMP, unix.EINVAL, 0, true},
		"memory":       {unix.SYS_PROCESS_VM_READV, unix.EPERM, 0, false},
		"descriptors":  {unix.SYS_READLINKAT, unix.EACCES, 0, false},
	}[name]
	if !ok || call.keepers != keepers {
		return nil
	}
	ret := bpf.RetConstant{Val: 0x00050000 | uint32(call.errno)}
	allow := bpf.RetConstant{Val: 0x7fff0000}
	const number, argument1 = 0, 24
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: number, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: call.nr, SkipTrue: 1}, allow,
		bpf.LoadAbsolute{Off: argument1, Size: 4},
		bpf.ALUOpConstant{Op: bpf.ALUOpAnd, Val: call.arg},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: call.arg, SkipTrue: 1}, allow,
		ret,
	}
	raw, err := bpf.Assemble(p)
	if err != nil {
		return err
	}
	filter := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		filter[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	const setModeFilter, allThreads = 1, 1
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, allThreads, uintptr(unsafe.Pointer(&prog))); errno != 0 {
		return errno
	}
	return nil
}

func TestPitfall16To18Limits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: a program without no_new_privs")
	}
	w := newWorld(t)
	serveHTTP(t, w)
	if err := os.WriteFile(w.dir+"/rel", []byte("of this machine"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		forbidden string
		argv      []string
		out, err  string
		code      int
	}{
		{"pidfd_getfd", []string{"python3", "-c", "import socket\ntry: socket.create_connection(('10.96.1.1', 80))\nexcept OSError as e: print(e.errno)"}, "5\n", "pidfd_getfd: operation not permitted", 0},
		{"pidfd_thread", []string{"python3", "-c", "import socket; print(socket.create_connection(('10.96.1.1', 80)).getpeername())"}, "('10.96.1.1', 80)\n", "", 0},
		{"seccomp", []string{"true"}, "", "does not offer seccomp notification", 1},
		{"flag", []string{"true"}, "", "does not offer seccomp notification", 1},
		// what cannot be seen is in doubt, and fails: not even a directory is entered
		{"memory", []string{"true"}, "", "input/output error", 126},
		{"descriptors", []string{"cat", "rel"}, "", "", 1},
	} {
		cmd := w.launcher(t, tt.argv...)
		cmd.Env = append(cmd.Env, forbidEnv+"="+tt.forbidden)
		var out, words strings.Builder
		cmd.Stdout, cmd.Stderr = &out, &words
		_ = cmd.Run()
		if cmd.ProcessState.ExitCode() != tt.code || out.String() != tt.out || !strings.Contains(words.String(), tt.err) {
			t.Errorf("%s: %v, %q, %q", tt.forbidden, cmd.ProcessState, out.String(), words.String())
		}
	}
}
