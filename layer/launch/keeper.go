package launch

import (
	"errors"
	"io"
	"os"
	"os/signal"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// groupSignals are passed on to the debuggee. A terminal, and a kill of the
// whole process group, sends them to launcher, keeper and debuggee alike.
var groupSignals = []os.Signal{
	unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGTERM, unix.SIGUSR1, unix.SIGUSR2,
	unix.SIGTSTP, unix.SIGCONT, unix.SIGWINCH,
}

// leftoverTime is what the debuggee's children have to end after it.
const leftoverTime = time.Second

// Keeper is to be called first in main: in the process that a launcher started
// as its keeper it does the keeper's work and does not return.
func Keeper() {
	if len(os.Args) != 1 || os.Args[0] != keeperName {
		return
	}
	if err := keep(); err != nil {
		os.Stderr.WriteString("mirrord: keeper: " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// keep is the keeper's work. It ends when the debuggee or the launcher has, and
// leaves no descendant.
func keep() error {
	unix.CloseOnExec(socketFD)
	had := make(chan os.Signal, 64)
	signal.Notify(had, forwarded()...) // before anything is started that could get them too
	v, _, fd, err := receive(socketFD)
	if err != nil || v != doInstall || fd < 0 {
		return nil // the launcher has changed its mind
	}
	file := os.NewFile(uintptr(fd), "orders")
	text, err := io.ReadAll(file)
	file.Close()
	if err != nil {
		return err
	}
	var o orders
	if err := o.decode(text); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	defer killAll(nil)
	installed, begin, started := make(chan installResult, 1), make(chan struct{}), make(chan startResult, 1)
	go start(o, installed, begin, started)
	in := <-installed
	if in.err != nil {
		_ = send(socketFD, didInstall, uint32(asErrno(in.err)))
		return nil // the launcher tells the user
	}
	err = send(socketFD, didInstall, 0, in.listener.FD())
	_ = in.listener.Close() // the launcher's copy is the only one: with it answers end
	if err != nil {
		return nil
	}
	if v, _, _, err := receive(socketFD); err != nil || v != doStart {
		return nil
	}
	close(begin)
	s := <-started
	if err := send(socketFD, didStart, uint32(s.errno)); err != nil || s.errno != 0 {
		return nil
	}
	return attendDebuggee(s.pid, had)
}

type installResult struct {
	listener *seccomp.Listener
	err      error
}

type startResult struct {
	pid   int
	errno unix.Errno
}

// start installs the program and starts the debuggee. Its thread stays under
// the program, and stays: the debuggee dies with it. What is said to the
// launcher is said by others, because it would be trapped here.
func start(o orders, installed chan<- installResult, begin <-chan struct{}, started chan<- startResult) {
	runtime.LockOSThread()
	l, err := seccomp.Install(o.program)
	installed <- installResult{l, err}
	<-begin
	pid, err := syscall.ForkExec(o.path, o.argv, &syscall.ProcAttr{
		Dir: o.dir, Env: o.env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		errno = unix.EIO
	}
	started <- startResult{pid, errno}
	select {}
}

// attendDebuggee passes on signals and news until the debuggee has ended and
// its children had their time, or the launcher is gone.
//
// Goroutines: it starts one that reaps and one that reads the socket; they end
// with the process.
func attendDebuggee(debuggee int, had <-chan os.Signal) error {
	ends := make(chan unix.WaitStatus)
	childless := make(chan struct{})
	go func() {
		defer close(childless)
		for {
			var ws unix.WaitStatus
			pid, err := unix.Wait4(-1, &ws, unix.WUNTRACED, nil)
			switch {
			case err == unix.EINTR:
			case err != nil:
				return
			case pid == debuggee:
				ends <- ws
			}
		}
	}()
	orders := make(chan unix.Signal)
	go func() {
		defer close(orders)
		for {
			v, n, _, err := receive(socketFD)
			if err != nil {
				return
			}
			if v == doSignal {
				orders <- unix.Signal(n)
			}
		}
	}()
	last := make(map[os.Signal]time.Time)
	for {
		select {
		case s := <-had:
			last[s] = time.Now()
		case s, ok := <-orders:
			if !ok {
				return nil
			}
			pass(s, debuggee, had, last)
		case ws := <-ends:
			if ws.Stopped() {
				if s := ws.StopSignal(); s == unix.SIGTSTP || s == unix.SIGTTIN || s == unix.SIGTTOU {
					_ = send(socketFD, didStop, uint32(s))
				}
				continue
			}
			if err := send(socketFD, didExit, uint32(ws)); err != nil {
				return nil
			}
			select {
			case <-childless:
			case <-time.After(leftoverTime):
			}
			return nil
		}
	}
}

// A signal to the process group comes to launcher and keeper at one moment, but
// the launcher's word of it may overtake it, or be late.
const (
	overtakeTime = 50 * time.Millisecond
	lateTime     = 500 * time.Millisecond
)

// pass gives the debuggee a signal that the launcher has had. If we have had it
// too it was sent to the process group, and the debuggee, if it is still in
// that, has it already.
func pass(s unix.Signal, debuggee int, had <-chan os.Signal, last map[os.Signal]time.Time) {
	if group, err := unix.Getpgid(debuggee); err == nil && group == unix.Getpgrp() {
		overtaken := time.After(overtakeTime)
		for waiting := true; waiting; {
			if at, ok := last[s]; ok && time.Since(at) < lateTime {
				delete(last, s)
				return
			}
			select {
			case got := <-had:
				last[got] = time.Now()
			case <-overtaken:
				waiting = false
			}
		}
	}
	_ = unix.Kill(debuggee, s)
}
