package keeper

import (
	"os"
	"slices"
	"strconv"
	"syscall"

	"mirrord/protocol/slack"
)

// NestedEnv tells a launcher that it is itself a debuggee.
const NestedEnv = "MIRRORD_LAUNCHER"

// A Process is a keeper that was started.
type Process struct {
	PID    int
	Socket int   // to it; when it is closed the keeper ends
	Spare  []int // children that we had before
}

// Start starts the keeper of this process, which ends it before it ends itself.
func Start() (*Process, error) {
	p := &Process{}
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if HaveChildren() {
		if p.Spare, err = Children(os.Getpid()); err != nil {
			return nil, err
		}
	}
	pair, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_SEQPACKET|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	p.Socket = pair[0]
	files, socket := handOn(pair[1])
	// Not by package os, which first starts another process to try what the
	// kernel can.
	err = slack.Spare(func() (err error) {
		p.PID, err = syscall.ForkExec(self, []string{Name, strconv.Itoa(socket)}, &syscall.ProcAttr{Env: environ, Files: files})
		return err
	})
	_ = syscall.Close(pair[1])
	if err != nil {
		_ = syscall.Close(pair[0])
		return nil, err
	}
	return p, nil
}

// inherited are the descriptors that this process was started with, beside
// standard input, output and error, in order.
var inherited []int

// NoteInherited finds them: the debuggee gets them at their numbers. It is to be
// called before anything else opens some.
func NoteInherited() { inherited = passed() }

// CloseInherited closes them, once the debuggee has its own: whoever waits for
// the end of one waits for the debuggee alone.
func CloseInherited() {
	closeAll(inherited)
	inherited = nil
}

// passed lists the descriptors that whatever is executed gets, beside the first
// three: what we open ourselves is close-on-exec.
func passed() []int {
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil // nobody can do better
	}
	var list []int
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		if err != nil || fd <= 2 {
			continue
		}
		if flags, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFD, 0); errno == 0 && flags&syscall.FD_CLOEXEC == 0 {
			list = append(list, fd)
		}
	}
	slices.Sort(list)
	return list
}

func closeAll(list []int) {
	for _, fd := range list {
		_ = syscall.Close(fd)
	}
}

// handOn says which descriptors a keeper gets, and at which number its socket:
// the first one free. The inherited ones beyond it need no word of ours, and
// could be at any number.
func handOn(socket int) (files []uintptr, at int) {
	files = []uintptr{0, 1, 2}
	for _, fd := range inherited {
		if fd != len(files) {
			break
		}
		files = append(files, uintptr(fd))
	}
	return append(files, uintptr(socket)), len(files)
}
