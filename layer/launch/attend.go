package launch

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// keeperName is the keeper's argv[0], by which our executable knows what to be.
const keeperName = "mirrord-keeper"

// socketFD is what the keeper inherits beside the debuggee's three.
const socketFD = 3

// A keeper is the launcher's side of the keeper process.
type keeper struct {
	path   string // of the debuggee
	cmd    *exec.Cmd
	socket *os.File
	spare  []int // children of this process that are not the debuggee's
	exited bool  // the debuggee has
	ended  bool  // the keeper has
}

func startKeeper() (*keeper, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("starting the keeper: %w", err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("starting the keeper: %w", err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "keeper's socket")
	defer theirs.Close()
	k := &keeper{socket: os.NewFile(uintptr(pair[0]), "keeper"), cmd: &exec.Cmd{
		Path: self, Args: []string{keeperName}, Env: []string{}, // the debuggee's GODEBUG is not the keeper's
		Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr, ExtraFiles: []*os.File{theirs},
	}}
	if err := k.cmd.Start(); err != nil {
		k.socket.Close()
		return nil, fmt.Errorf("starting the keeper: %w", err)
	}
	return k, nil
}

func (k *keeper) fd() int { return int(k.socket.Fd()) }

// install gives the keeper its orders and takes over the listener of the
// program that it installs.
func (k *keeper) install(o orders) (*seccomp.Listener, error) {
	k.path = o.path
	var err error
	if k.spare, err = children(os.Getpid()); err != nil {
		return nil, fmt.Errorf("listing children: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("becoming subreaper: %w", err)
	}
	f, err := o.memfd()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if err := send(k.fd(), doInstall, 0, int(f.Fd())); err != nil {
		return nil, fmt.Errorf("instructing the keeper: %w", err)
	}
	v, n, fd, err := receive(k.fd())
	switch {
	case err != nil:
		return nil, fmt.Errorf("starting the keeper: %w", err)
	case v != didInstall || n == 0 && fd < 0:
		return nil, errors.New("starting the keeper: it answered out of turn")
	case n != 0:
		return nil, notInstalled(unix.Errno(n))
	}
	return seccomp.NewListener(fd), nil
}

// attend starts the debuggee and waits for its end.
func (k *keeper) attend(ctx context.Context, signals <-chan os.Signal) (Exit, error) {
	fd := k.fd()
	if err := send(fd, doStart, 0); err != nil {
		return Exit{}, fmt.Errorf("starting the debuggee: %w", err)
	}
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		done := ctx.Done()
		for {
			select {
			case s := <-signals:
				_ = send(fd, doSignal, uint32(s.(syscall.Signal))) // a dead keeper needs none
			case <-done:
				_ = send(fd, doSignal, uint32(unix.SIGTERM))
				done = nil
			case <-stop:
				return
			}
		}
	}()
	defer func() { close(stop); <-stopped }()
	for {
		v, n, _, err := receive(fd)
		if err != nil {
			return Exit{}, fmt.Errorf("the keeper has died, the debuggee with it: %w", err)
		}
		switch v {
		case didStart:
			if n != 0 {
				return Exit{}, notStarted(k.path, unix.Errno(n))
			}
		case didStop:
			// We stop too, so that the shell takes its terminal back. Continuing
			// comes to the whole process group.
			_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
		case didExit:
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

// end waits for the keeper, which ends what the debuggee left, and then for
// what the keeper left: nothing, unless it was killed.
func (k *keeper) end() {
	if k.ended {
		return
	}
	k.ended = true
	if !k.exited {
		_ = unix.Shutdown(k.fd(), unix.SHUT_RDWR) // the keeper's order to end now
	}
	_ = k.cmd.Wait()
	k.socket.Close()
	if k.path != "" {
		killAll(append(k.spare, strangers()...))
	}
}
