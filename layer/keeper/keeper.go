// Package keeper is the process that starts a debuggee and reaps it, and what
// its launcher and it say to each other; see package launch.
//
// It is our own executable, with packages that take their time to initialise.
// The keeper does not wait for that: Go initialises packages by
// their imports and paths, and this one, which imports no more than it must,
// comes before. So: nothing beside os, os/signal, what they import, and package slack.
package keeper

import (
	"errors"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"syscall"
	"time"

	"mirrord/protocol/slack"
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
	if len(os.Args) == 0 || os.Args[0] != Name {
		return
	}
	err := errors.New("it is started by launchers only")
	if len(os.Args) == 2 { // anything else would start keepers of its own, and so on
		var socket int
		if socket, err = strconv.Atoi(os.Args[1]); err == nil {
			err = keep(socket)
		}
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
	did, sent, started := make(chan installed), make(chan struct{}), make(chan debuggee)
	go work(socket, did, sent, started)
	in, ok := <-did
	if !ok {
		return nil // the launcher has changed its mind
	}
	if in.err != nil {
		return in.err
	}
	defer func() {
		KillAll(nil)
		_ = Send(socket, DidEnd, 0) // the launcher may be gone
	}()
	if in.errno != 0 {
		_ = Send(socket, DidInstall, uint32(in.errno))
		return nil // the launcher tells the user
	}
	err := Send(socket, DidInstall, 0, in.listener)
	_ = syscall.Close(in.listener) // the launcher's copy is the only one: with it answers end
	if err != nil {
		return nil
	}
	close(sent)
	d, ok := <-started
	if !ok {
		return nil
	}
	closeAll(passed()) // the debuggee's now, to close when it likes
	return attend(socket, d, had)
}

// installed is what has come of a launcher's orders.
type installed struct {
	listener int
	errno    syscall.Errno
	err      error // of the orders
}

// A debuggee was started.
type debuggee struct {
	pid   int
	ended chan bool // true: what it leaves has no time to end
}

// work takes the orders, installs the program, starts the debuggee and reaps. Its
// thread stays under the program, and stays: the debuggee dies with it. It talks to
// the launcher itself, a change of threads less each time, but from the program on
// only by read(2) and write(2). What else it calls must not be among the hooks: it
// would be trapped here.
func work(socket int, did chan<- installed, sent <-chan struct{}, started chan<- debuggee) {
	runtime.LockOSThread()
	v, _, fd, err := Receive(socket)
	if err != nil || v != DoInstall || fd < 0 {
		close(did)
		select {}
	}
	var o Orders
	more, err := o.read(fd)
	if err == nil {
		err = prctl(prSetChildSubreaper, 1)
	}
	if err != nil {
		did <- installed{err: err}
		select {}
	}
	// The debuggee's directory is ours: its own chdir would be asked about.
	failed := syscall.Chdir(o.Dir)
	listener, errno := install(o.Program)
	did <- installed{listener: listener, errno: errno}
	<-sent
	if err := o.decode(more); err != nil { // while the launcher takes the listener over
		failed = err
	}
	if v := readVerb(socket); v != DoStart {
		close(started)
		select {}
	}
	pid, err := 0, failed
	if err == nil {
		err = slack.Spare(func() (err error) {
			pid, err = syscall.ForkExec(o.Path, o.Argv, &syscall.ProcAttr{
				Env: o.Env, Files: []uintptr{0, 1, 2}, Sys: &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL},
			})
			return err
		})
	}
	errno, ok := err.(syscall.Errno)
	if err != nil && !ok {
		errno = syscall.EIO
	}
	if err := write(socket, DidStart, uint32(errno)); err != nil || errno != 0 {
		close(started)
		select {}
	}
	d := debuggee{pid, make(chan bool, 1)}
	started <- d
	for {
		var ws syscall.WaitStatus
		ended, err := syscall.Wait4(-1, &ws, syscall.WUNTRACED, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil && HaveChildren(): // which are not to be waited for so (clone(2))
			select {}
		case err != nil: // nothing below us is left
			_ = write(socket, DidEnd, 0)
			os.Exit(0)
		case ended == pid && ws.Stopped():
			if s := ws.StopSignal(); s == syscall.SIGTSTP || s == syscall.SIGTTIN || s == syscall.SIGTTOU {
				_ = write(socket, DidStop, uint32(s))
			}
		case ended == pid: // who writes in vain will be told by the socket, too
			_ = write(socket, DidExit, uint32(ws))
			d.ended <- o.AtOnce && ws.Signaled()
		}
	}
}

// attend passes on signals and news until the debuggee has ended and its
// children had their time, or the launcher is gone.
//
// Goroutines: it starts one that reads the socket, which ends with the process.
func attend(socket int, d debuggee, had <-chan os.Signal) error {
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
			pass(s, d.pid, had, last)
		case atOnce := <-d.ended:
			if !atOnce {
				time.Sleep(leftoverTime) // work ends us before, if nothing is left
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
