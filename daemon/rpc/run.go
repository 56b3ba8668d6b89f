package rpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A Daemon is the process that Run is the life of.
type Daemon struct {
	Dir   string        // the runtime directory
	Idle  time.Duration // without clients and sessions it ends
	Level slog.Level
	New   func(log *slog.Logger, dir string) (Manager, error)

	// Ready is told "ready", or else what went wrong; nil: the daemon runs in
	// a foreground and logs to Stderr.
	Ready  *os.File
	Stderr io.Writer
}

const readyWord = "ready"

var errDone = errors.New("done")

// Run is a daemon's life in its runtime directory, until ctx is done, a client
// ends it or nobody needs it any more. One that a client started waits for a
// predecessor to end; in the foreground a running one is an error.
func (d Daemon) Run(ctx context.Context) error {
	err := d.run(ctx)
	if err != nil && d.Ready != nil {
		fmt.Fprint(d.Ready, err) // who started us tells the user
	}
	return err
}

func (d Daemon) run(ctx context.Context) error {
	l, err := d.lock(ctx)
	if err != nil {
		return err
	}
	defer l.unlock()
	out := d.Stderr
	if d.Ready != nil {
		file, err := openLog(filepath.Join(d.Dir, logName))
		if err != nil {
			return err
		}
		defer file.close()
		out = file
	}
	log := slog.New(slog.NewTextHandler(out, &slog.HandlerOptions{Level: d.Level}))

	m, err := d.New(log, d.Dir)
	if err != nil {
		return err
	}
	defer m.Close()
	socket, err := listen(filepath.Join(d.Dir, socketName))
	if err != nil {
		return err
	}
	defer socket.Close()

	s := &server{log: log, sessions: m, layer: m.LayerSocket(), idle: d.Idle}
	log.Info("daemon starts", "pid", os.Getpid(), "build", protocol.Build, "dir", d.Dir)
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return cause(ctx, m.Serve(ctx)) })
	g.Go(func() error { return cause(ctx, s.serve(ctx, socket)) })
	if d.Ready != nil {
		fmt.Fprint(d.Ready, readyWord)
		d.Ready.Close()
	}
	if err := g.Wait(); !errors.Is(err, errDone) {
		log.Error("daemon fails", "err", err)
		return err
	}
	return nil
}

// cause turns an orderly end into errDone, so that the other half ends as well.
func cause(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return errDone
	}
	return err
}

// lock makes this the one daemon of its directory.
func (d Daemon) lock(ctx context.Context) (*lock, error) {
	path := filepath.Join(d.Dir, daemonLockName)
	if d.Ready != nil {
		// The client that started us holds start.lock and found no daemon, so
		// that whoever has this lock is about to end.
		ctx, stop := whileRead(ctx, d.Ready)
		defer stop()
		l, err := waitLock(ctx, path)
		return l, note(l, err)
	}
	start, err := waitLock(ctx, filepath.Join(d.Dir, startLockName))
	if err != nil {
		return nil, err
	}
	defer start.unlock()
	l, err := tryLock(path)
	if errors.Is(err, errLocked) {
		pid, _ := os.ReadFile(path)
		return nil, fmt.Errorf("a daemon runs already in %s (process %s)", d.Dir, strings.TrimSpace(string(pid)))
	}
	return l, note(l, err)
}

// errUnwanted: another client starts another daemon.
var errUnwanted = errors.New("the client that started this daemon is gone")

// whileRead is ctx until nobody reads from the other end of a pipe any more.
func whileRead(ctx context.Context, pipe *os.File) (_ context.Context, stop func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for ctx.Err() == nil {
			fds := []unix.PollFd{{Fd: int32(pipe.Fd())}} // POLLERR is always told
			n, err := unix.Poll(fds, 100)
			if n > 0 || err != nil && err != unix.EINTR {
				cancel(errUnwanted)
			}
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// note writes our pid into the lock's file.
func note(l *lock, err error) error {
	if err != nil {
		return err
	}
	if err := l.f.Truncate(0); err != nil {
		return err
	}
	_, err = fmt.Fprintln(l.f, os.Getpid())
	return err
}

// listen makes the socket; a file of that name is a dead daemon's, since we
// hold its lock.
func listen(path string) (*net.UnixListener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing an old socket: %w", err)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("making the daemon's socket: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("making the daemon's socket: %w", err)
	}
	return l, nil
}
