// Package keeper is the process that starts a debuggee and reaps it, and what
// its launcher and it say to each other; see package launch.
//
// It is our own executable, with packages that take their time to initialise.
// The keeper does not wait for that: Go initialises packages by
// their imports and paths, and this one, which imports no more than it must,
// comes before. So: nothing beside os, os/signal and what they import.
package keeper

import (
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"
)

// Name is the keeper's argv[0], by which our executable knows what to be.
const Name = "mirrord-keeper"

// groupSignals are passed on to the debuggee. A terminal, and a kill of the
// whole process group, sends them to launcher, keeper and debuggee alike.
var groupSignals = []os.Signal{
	syscall.SIGHUP, syscall.SIGINT, syscall.SIGQUIT, syscall.SIGTERM, syscall.SIGUSR1, syscall.SIGUSR2,
	syscall.SIGTSTP, syscall.SIGCONT, syscall.SIGWINCH,
}

// leftoverTime is what the debuggee's children have to end after it.
const leftoverTime = time.Second

// Main is to be called first: in the process that a launcher started as its
// keeper it does the keeper's work and does not return.
func Main() {
	if len(os.Args) != 2 || os.Args[0] != Name {
		return
	}
	socket, err := strconv.Atoi(os.Args[1])
	if err == nil {
		err = keep(socket)
	}
	if err != nil {
		os.Stderr.WriteString("mirrord: keeper: " + err.Error() + "\n")
		os.Exit(1)
	}
	os.Exit(0)
}

// Forwarded lists the signals that are meant for the debuggee. Those that were
// ignored when we started (nohup) stay so, for both.
func Forwarded() []os.Signal {
	var list []os.Signal
	for _, s := range groupSignals {
		if !signal.Ignored(s) {
			list = append(list, s)
		}
	}
	return list
}

// keep is the keeper's work. It ends when the debuggee or the launcher has, and
// leaves no descendant. Of what it inherits socket is its own; the rest is the
// debuggee's.
func keep(socket int) error {
	syscall.CloseOnExec(socket)
	had := make(chan os.Signal, 64)
	signal.Notify(had, Forwarded()...) // before anything is started that could get them too
	v, _, fd, err := Receive(socket)
	if err != nil || v != DoInstall || fd < 0 {
		return nil // the launcher has changed its mind
	}
	file := os.NewFile(uintptr(fd), "orders")
	text, err := io.ReadAll(file)
	file.Close()
	if err != nil {
		return err
	}
	var o Orders
	if err := o.decode(text); err != nil {
		return err
	}
	if err := prctl(prSetChildSubreaper, 1); err != nil {
		return err
	}
	defer func() {
		KillAll(nil)
		_ = Send(socket, DidEnd, 0) // the launcher may be gone
	}()
	installed, begin, started := make(chan installResult, 1), make(chan struct{}), make(chan startResult, 1)
	go work(o, installed, begin, started)
	in := <-installed
	if in.errno != 0 {
		_ = Send(socket, DidInstall, uint32(in.errno))
		return nil // the launcher tells the user
	}
	err = Send(socket, DidInstall, 0, in.listener)
	_ = syscall.Close(in.listener) // the launcher's copy is the only one: with it answers end
	if err != nil {
		return nil
	}
	if v, _, _, err := Receive(socket); err != nil || v != DoStart {
		return nil
	}
	close(begin)
	s := <-started
	if err := Send(socket, DidStart, uint32(s.errno)); err != nil || s.errno != 0 {
		return nil
	}
	closeAll(passed()) // the debuggee's now, to close when it likes
	return attend(socket, s.pid, o.AtOnce, had)
}

type installResult struct {
	listener int
	errno    syscall.Errno
}

type startResult struct {
	pid   int
	errno syscall.Errno
}

// work installs the program and starts the debuggee. Its thread stays under
// the program, and stays: the debuggee dies with it. What is said to the
// launcher is said by others, because it would be trapped here.
func work(o Orders, installed chan<- installResult, begin <-chan struct{}, started chan<- startResult) {
	runtime.LockOSThread()
	listener, errno := install(o.Program)
	installed <- installResult{listener, errno}
	<-begin
	pid, err := syscall.ForkExec(o.Path, o.Argv, &syscall.ProcAttr{
		Dir: o.Dir, Env: o.Env, Files: []uintptr{0, 1, 2},
		Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
	})
	errno, ok := err.(syscall.Errno)
	if err != nil && !ok {
		errno = syscall.EIO
	}
	started <- startResult{pid, errno}
	select {}
}

// attend passes on signals and news until the debuggee has ended and its
// children had their time, or the launcher is gone.
//
// Goroutines: it starts one that reaps and one that reads the socket; they end
// with the process.
func attend(socket, debuggee int, atOnce bool, had <-chan os.Signal) error {
	ends := make(chan syscall.WaitStatus)
	childless := make(chan struct{})
	go func() {
		defer close(childless)
		for {
			var ws syscall.WaitStatus
			pid, err := syscall.Wait4(-1, &ws, syscall.WUNTRACED, nil)
			switch {
			case err == syscall.EINTR:
			case err != nil:
				return
			case pid == debuggee:
				ends <- ws
			}
		}
	}()
	orders := make(chan syscall.Signal)
	go func() {
		defer close(orders)
		for {
			v, n, _, err := Receive(socket)
			if err != nil {
				return
			}
			if v == DoSignal {
				orders <- syscall.Signal(n)
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
				if s := ws.StopSignal(); s == syscall.SIGTSTP || s == syscall.SIGTTIN || s == syscall.SIGTTOU {
					_ = Send(socket, DidStop, uint32(s))
				}
				continue
			}
			if err := Send(socket, DidExit, uint32(ws)); err != nil {
				return nil
			}
			if atOnce && ws.Signaled() {
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
func pass(s syscall.Signal, debuggee int, had <-chan os.Signal, last map[os.Signal]time.Time) {
	if group, err := syscall.Getpgid(debuggee); err == nil && group == syscall.Getpgrp() {
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
	_ = syscall.Kill(debuggee, s)
}
