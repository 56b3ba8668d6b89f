package target

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// How often a restarted container is looked for: kubelet restarts one at once,
// and later waits up to five minutes.
const (
	searchSoon  = 100 * time.Millisecond
	searchLater = time.Second
	soon        = 10 * time.Second
)

// errRestarting is what the target's files and environment are meanwhile.
var errRestarting = fmt.Errorf("the target's container has ended or is restarting: %w", unix.EIO)

// errElsewhere: the whole pod was made anew, as after a node's restart.
var errElsewhere = errors.New("the target's pod has another network now")

// A Follower keeps a target up to date while its container is restarted.
//
// Goroutines: one, gone when Stop returns.
type Follower struct {
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// Follow begins to follow t, which must stay open until Stop. lost is called
// when the container came back elsewhere, so that nothing here is its any more.
func Follow(log *slog.Logger, t *Target, lost func(error)) *Follower {
	ctx, cancel := context.WithCancel(context.Background())
	f := &Follower{cancel: cancel}
	id, known := identify(t.proc) // of one that has ended nobody knows any more
	f.wg.Go(func() {
		if err := t.follow(ctx, log, id, known); err != nil && ctx.Err() == nil {
			lost(err)
		}
	})
	return f
}

// Stop ends the following.
func (f *Follower) Stop() {
	f.cancel()
	f.wg.Wait()
}

func (t *Target) follow(ctx context.Context, log *slog.Logger, id identity, known bool) error {
	for {
		if err := t.wait(ctx); err != nil {
			return fmt.Errorf("watching target's process: %w", err)
		}
		log.Info("target's container ended", "pid", t.PID())
		t.lose()
		if !known {
			log.Warn("restart of the target's container will not be noticed: kubelet mounts nothing into it")
			return nil
		}
		proc, err := search(ctx, id)
		if err != nil {
			return err
		}
		err = t.replace(proc)
		if errors.Is(err, errElsewhere) {
			proc.Close()
			return err
		}
		if err != nil {
			proc.Close()
			log.Error("entering restarted container", "err", err) // it may have ended again
			continue
		}
		log.Info("target's container restarted", "pid", t.PID())
	}
}

// wait returns when the process has ended.
func (t *Target) wait(ctx context.Context) error {
	fd, err := unix.PidfdOpen(t.PID(), unix.PIDFD_NONBLOCK)
	if err == nil {
		f := os.NewFile(uintptr(fd), "target's process")
		defer f.Close()
		if _, alive := t.read("stat", 4<<10); alive != nil {
			return nil // and its number may be another's
		}
		defer context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })()
		raw, err := f.SyscallConn()
		if err != nil {
			return err
		}
		err = raw.Read(func(fd uintptr) bool {
			poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
			n, err := unix.Poll(poll, 0)
			return n > 0 && err == nil
		})
		return errors.Join(err, ctx.Err())
	}
	if err == unix.ESRCH {
		return nil
	}
	return fmt.Errorf("opening pidfd of process %d: %w", t.PID(), err)
}

// joined reports whether a process is in the network namespace of this one.
func joined(proc *os.File) (bool, error) {
	return shares(proc, "net")
}

// foreign reports whether a process is in another user namespace.
func foreign(proc *os.File) (bool, error) {
	same, err := shares(proc, "user")
	return err == nil && !same, err
}

func shares(proc *os.File, namespace string) (bool, error) {
	var theirs, ours unix.Stat_t
	if err := errors.Join(unix.Fstatat(int(proc.Fd()), "ns/"+namespace, &theirs, 0), unix.Stat("/proc/self/ns/"+namespace, &ours)); err != nil {
		return false, wanting(err)
	}
	return theirs.Dev == ours.Dev && theirs.Ino == ours.Ino, nil
}

// search waits until the container runs again.
func search(ctx context.Context, id identity) (*os.File, error) {
	for began := time.Now(); ; {
		proc, err := id.find()
		if err == nil {
			return proc, nil
		}
		pause := searchLater
		if time.Since(began) < soon {
			pause = searchSoon
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// lose gives the ended container's root up, or its runtime could not remove it:
// Root is now the ended process's directory, where nothing is found.
func (t *Target) lose() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.gone = true
	_ = unix.Dup3(int(t.proc.Fd()), int(t.Root.Fd()), unix.O_CLOEXEC)
	t.changed()
}

// replace makes Root the restarted container's, under the same descriptor, so
// that whoever has it need not know.
func (t *Target) replace(proc *os.File) error {
	if same, err := joined(proc); err != nil || !same {
		return cmp.Or(err, errElsewhere)
	}
	next, err := open(proc)
	if err != nil {
		return err
	}
	defer next.Root.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := unix.Dup3(int(next.Root.Fd()), int(t.Root.Fd()), unix.O_CLOEXEC); err != nil {
		return fmt.Errorf("replacing target's root: %w", err)
	}
	t.proc.Close()
	t.proc, t.pid, t.gone = proc, next.pid, false
	t.changed()
	return nil
}

// changed tells whoever wants to know. The caller has mu.
func (t *Target) changed() {
	for _, f := range t.onChange {
		f()
	}
}

// Gone is an error while there is no container.
func (t *Target) Gone() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone {
		return errRestarting
	}
	return nil
}

// OnChange has f called whenever the container has ended, and when it is there
// again, with other files, until stopped. f must be quick and not use the target.
func (t *Target) OnChange(f func()) (stop func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.last++
	n := t.last
	t.onChange[n] = f
	return func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		delete(t.onChange, n)
	}
}
