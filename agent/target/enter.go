package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strconv"
	"strings"
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

// Enter listens on the addresses, finds the chosen process and moves the agent into
// its namespaces. The listeners stay where they were made: in the agent's own pod.
//
// A namespace is entered by one thread. So that all threads are there, the
// agent then executes itself again; Enter returns in the second run, or in the
// first where the namespaces are the agent's already.
func Enter(c Choice, addresses ...string) (t *Target, all []net.Listener, err error) {
	defer func() {
		for _, l := range all {
			if err != nil {
				l.Close()
			}
		}
		if err == nil {
			t.contained = c.Container != ""
		}
	}()
	if kept, ok := os.LookupEnv(keptVar); ok {
		os.Unsetenv(keptVar)
		return resume(kept)
	}
	var lc net.ListenConfig
	lc.SetMultipathTCP(false)
	for _, address := range addresses {
		l, err := lc.Listen(context.Background(), "tcp", address)
		if err != nil {
			return nil, all, err
		}
		all = append(all, l)
	}
	t, err = enter(c, all)
	return t, all, err
}

func enter(c Choice, listeners []net.Listener) (*Target, error) {
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
	kept := []*os.File{proc}
	for _, l := range listeners {
		f, err := l.(*net.TCPListener).File()
		if err != nil {
			return nil, fmt.Errorf("keeping listener: %w", err)
		}
		kept = append(kept, f)
	}
	return nil, again(kept)
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

// again executes the agent once more with the descriptors kept. It only
// returns when that fails. The real path is used, and not /proc/self/exe,
// because the process is named after it.
func again(kept []*os.File) error {
	path, err := os.Executable()
	if err != nil {
		return fmt.Errorf("finding own executable: %w", err)
	}
	var numbers []string
	for _, f := range kept {
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return fmt.Errorf("keeping descriptor %d: %w", f.Fd(), err)
		}
		numbers = append(numbers, strconv.Itoa(int(f.Fd())))
	}
	args := append([]string{"mirrord-agent"}, os.Args[1:]...)
	err = syscall.Exec(path, args, append(os.Environ(), keptVar+"="+strings.Join(numbers, ",")))
	runtime.KeepAlive(kept) // or their finalizers may close them before
	return fmt.Errorf("executing %s again: %w", path, err)
}

// resume takes up what the first run kept: the target's process, and listeners.
func resume(kept string) (t *Target, all []net.Listener, err error) {
	var files []*os.File
	for number := range strings.SplitSeq(kept, ",") {
		fd, err := strconv.Atoi(number)
		if err != nil {
			return nil, nil, fmt.Errorf("reading %s=%q: %w", keptVar, kept, err)
		}
		unix.CloseOnExec(fd)
		files = append(files, os.NewFile(uintptr(fd), "kept"))
	}
	for _, f := range files[1:] {
		l, err := net.FileListener(f)
		f.Close() // FileListener has its own
		if err != nil {
			return nil, all, fmt.Errorf("taking up listener: %w", err)
		}
		all = append(all, l)
	}
	t, err = open(files[0])
	return t, all, err
}
