package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/keeper"
	"mirrord/layer/seccomp"
)

// A keeperProcess is the launcher's side of the keeper process.
type keeperProcess struct {
	*keeper.Process
	path   string // of the debuggee
	socket *os.File
	exited bool // the debuggee has
	ended  bool // the keeper has
}

func startKeeper() (*keeperProcess, error) {
	p, err := keeper.Start()
	if err != nil {
		return nil, fmt.Errorf("starting the keeper: %w", err)
	}
	return &keeperProcess{Process: p, socket: os.NewFile(uintptr(p.Socket), "keeper")}, nil
}

func (k *keeperProcess) fd() int { return int(k.socket.Fd()) }

// install gives the keeper its orders: it installs the program.
func (k *keeperProcess) install(o keeper.Orders) error {
	k.path = o.Path
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("becoming subreaper: %w", err)
	}
	f, err := memfd(o)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := keeper.Send(k.fd(), keeper.DoInstall, 0, int(f.Fd())); err != nil {
		return fmt.Errorf("instructing the keeper: %w", err)
	}
	return nil
}

// installed takes over the listener of the program.
func (k *keeperProcess) installed() (*seccomp.Listener, error) {
	v, n, fd, err := keeper.Receive(k.fd())
	switch {
	case err != nil:
		return nil, fmt.Errorf("starting the keeper: %w", err)
	case v != keeper.DidInstall || n == 0 && fd < 0:
		return nil, errors.New("starting the keeper: it answered out of turn")
	case n != 0:
		return nil, notInstalled(unix.Errno(n))
	}
	return seccomp.NewListener(fd), nil
}

// stopTime is how long a debuggee may take to end when its session has.
const stopTime = 10 * time.Second

// attend starts the debuggee and waits for its end, which that of ctx asks for by
// SIGTERM, and where this is of no avail brings about by SIGKILL.
func (k *keeperProcess) attend(ctx context.Context, signals <-chan os.Signal, say func(string)) (Exit, error) {
	fd := k.fd()
	if err := keeper.Send(fd, keeper.DoStart, 0); err != nil {
		return Exit{}, fmt.Errorf("starting the debuggee: %w", err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		done := ctx.Done()
		var late <-chan time.Time
		for {
			select {
			case s := <-signals:
				_ = keeper.Send(fd, keeper.DoSignal, uint32(s.(syscall.Signal))) // a dead keeper needs none
			case <-done:
				_ = keeper.Send(fd, keeper.DoSignal, uint32(unix.SIGTERM))
				_ = keeper.Send(fd, keeper.DoSignal, uint32(unix.SIGCONT)) // a stopped one hears of it
				done, late = nil, time.After(stopTime)
			case <-late:
				say(fmt.Sprintf("the debuggee has not ended %v after SIGTERM: it is killed", stopTime))
				_ = keeper.Send(fd, keeper.DoSignal, uint32(unix.SIGKILL))
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for {
		v, n, _, err := keeper.Receive(fd)
		if err != nil {
			return Exit{}, fmt.Errorf("the keeper has died, the debuggee with it: %w", err)
		}
		switch v {
		case keeper.DidStart:
			if n != 0 {
				return Exit{}, notStarted(k.path, unix.Errno(n))
			}
			keeper.CloseInherited()
		case keeper.DidStop:
			// We stop too, so that the shell takes its terminal back. Continuing
			// comes to the whole process group.
			_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		case keeper.DidExit:
			k.exited = true
			return exitOf(unix.WaitStatus(n)), nil
		}
	}
}

func exitOf(ws unix.WaitStatus) Exit {
	if ws.Signaled() {
		return Exit{Code: 128 + int(ws.Signal()), Signal: ws.Signal()}
	}
	return Exit{Code: ws.ExitStatus()}
}

// finish returns when nothing of the debuggee is left that could be trapped.
func (k *keeperProcess) finish() {
	if k.exited {
		for {
			v, _, _, err := keeper.Receive(k.fd())
			if err == nil && v == keeper.DidEnd {
				return
			}
			if err != nil {
				break
			}
		}
	}
	k.end()
}

// end waits for the keeper, which ends what the debuggee left, and then for
// what the keeper left: nothing, unless it was killed.
func (k *keeperProcess) end() {
	if k.ended {
		return
	}
	k.ended = true
	if !k.exited {
		_ = unix.Shutdown(k.fd(), unix.SHUT_RDWR) // the keeper's order to end now
	}
	keeper.Reap(k.PID)
	k.socket.Close()
	if k.path != "" && keeper.HaveChildren() {
		keeper.KillAll(append(k.Spare, strangers()...))
	}
}
