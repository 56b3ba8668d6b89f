package keeper

import (
	"os"
	"syscall"
)

// NestedEnv tells a launcher that it is itself a debuggee.
const NestedEnv = "MIRRORD_LAUNCHER"

// A Process is a keeper that was started.
type Process struct {
	PID    int
	Socket int   // to it; when it is closed the keeper ends
	Spare  []int // children that we had before
}

// early gives a keeper that is not yet asked for, or nil where it did not start.
var early chan *Process

// StartEarly starts the keeper that Start will return, if this is going to be
// a launcher: while the rest of our packages are initialised, so is it.
func StartEarly() {
	if len(os.Args) > 1 && os.Args[1] == "exec" && os.Getenv(NestedEnv) == "" {
		started := make(chan *Process, 1)
		early = started
		// Beside us: the thread that forks waits until the child has executed, and
		// then for a processor, on which the child is.
		go func() {
			p, _ := start() // Start tries again
			started <- p
		}()
	}
}

// Start starts the keeper of this process, which ends it before it ends itself.
func Start() (*Process, error) {
	if c := early; c != nil {
		early = nil
		if p := <-c; p != nil {
			return p, nil
		}
	}
	return start()
}

func start() (*Process, error) {
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
	// Not by package os, which first starts another process to try what the
	// kernel can. Without Env: the debuggee's GODEBUG is not the keeper's.
	p.PID, err = syscall.ForkExec(self, []string{Name}, &syscall.ProcAttr{
		Files: []uintptr{0, 1, 2, SocketFD: uintptr(pair[1])},
	})
	_ = syscall.Close(pair[1])
	if err != nil {
		_ = syscall.Close(pair[0])
		return nil, err
	}
	return p, nil
}
