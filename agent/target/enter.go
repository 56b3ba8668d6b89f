package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// keptVar tells the second run of the agent which descriptors the first one left it.
const keptVar = "MIRRORD_AGENT_KEPT"

// The target's namespaces that the agent lives in.
var namespaces = []struct {
	name string
	flag int
}{
	{"net", unix.CLONE_NEWNET},
	{"uts", unix.CLONE_NEWUTS},
}

// Enter listens on address, finds the chosen process and moves the agent into
// its namespaces. The listener stays where it was made: on the loopback of the
// agent's own pod.
//
// A namespace is entered by one thread. So that all threads are there, the
// agent then executes itself again; Enter returns in the second run, or in the
// first where the namespaces are the agent's already.
func Enter(c Choice, address string) (*Target, net.Listener, error) {
	if kept, ok := os.LookupEnv(keptVar); ok {
		os.Unsetenv(keptVar)
		return resume(kept)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(context.Background(), "tcp", address)
	if err != nil {
		return nil, nil, err
	}
	t, err := enter(c, l.(*net.TCPListener))
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return t, l, nil
}

func enter(c Choice, l *net.TCPListener) (*Target, error) {
	proc, err := c.find()
	if err != nil {
		return nil, fmt.Errorf("finding %v: %w", c, err)
	}
	// Nothing runs yet but this goroutine: its thread stays locked, since it
	// is either the new process's first or dies with an error.
	runtime.LockOSThread()
	moved := false
	for _, ns := range namespaces {
		other, err := join(proc, ns.name, ns.flag)
		if err != nil {
			return nil, fmt.Errorf("entering %s namespace of %v: %w", ns.name, c, err)
		}
		moved = moved || other
	}
	if !moved {
		runtime.UnlockOSThread()
		return open(proc)
	}
	lf, err := l.File()
	if err != nil {
		return nil, fmt.Errorf("keeping listener: %w", err)
	}
	return nil, again(lf, proc)
}

// join moves this thread into a namespace of the process, or reports false
// where it is in it.
func join(proc *os.File, name string, flag int) (bool, error) {
	fd, err := unix.Openat(int(proc.Fd()), "ns/"+name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return false, wanting(err)
	}
	defer unix.Close(fd)
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstat(fd, &theirs), unix.Stat("/proc/thread-self/ns/"+name, &ours)); err != nil {
		return false, err
	}
	if theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		return false, nil
	}
	if err := unix.Setns(fd, flag); err != nil {
		return false, wanting(err)
	}
	return true, nil
}

// again executes the agent once more with the two descriptors kept. It only
// returns when that fails. The real path is used, and not /proc/self/exe,
// because the process is named after it.
func again(listener, proc *os.File) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own executable: %w", err)
	}
	for _, f := range []*os.File{listener, proc} {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keeping descriptor %d: %w", f.Fd(), err)
		}
	}
	kept := fmt.Sprintf("%s=%d,%d", keptVar, listener.Fd(), proc.Fd())
	args := append([]string{"mirrord-agent"}, os.Args[1:]...)
	err = syscall.Exec(path, args, append(os.Environ(), kept))
	runtime.KeepAlive(listener) // or its finalizer may close it before
	runtime.KeepAlive(proc)
	return fmt.Errorf("executing %s again: %w", path, err)
}

// resume takes up what the first run kept.
func resume(kept string) (*Target, net.Listener, error) {
	var listener, proc int
	if _, err := fmt.Sscanf(kept, "%d,%d", &listener, &proc); err != nil {
		return nil, nil, fmt.Errorf("reading %s=%q: %w", keptVar, kept, err)
	}
	unix.CloseOnExec(listener)
	unix.CloseOnExec(proc)
	f := os.NewFile(uintptr(listener), "listener")
	defer f.Close() // FileListener has its own
	l, err := net.FileListener(f)
	if err != nil {
		return nil, nil, fmt.Errorf("taking up listener: %w", err)
	}
	t, err := open(os.NewFile(uintptr(proc), "target's process"))
	if err != nil {
		l.Close()
		return nil, nil, err
	}
	return t, l, nil
}
