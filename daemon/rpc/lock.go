package rpc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"syscall"
)

// A lock is a file locked by flock(2); it goes with the process that holds it.
type lock struct{ f *os.File }

var errLocked = errors.New("locked by another process")

// tryLock takes the lock or returns errLocked.
func tryLock(path string) (*lock, error) { return flock(path, syscall.LOCK_NB) }

// waitLock takes the lock when its holder lets go. When ctx ends first, the
// goroutine that waits lives on until it has the lock, which it then drops:
// flock(2) cannot be called off.
func waitLock(ctx context.Context, path string) (*lock, error) {
	if l, err := tryLock(path); !errors.Is(err, errLocked) {
		return l, err
	}
	type result struct {
		l   *lock
		err error
	}
	got, gone := make(chan result), make(chan struct{})
	defer close(gone)
	go func() {
		l, err := flock(path, 0)
		select {
		case got <- result{l, err}:
		case <-gone:
			l.unlock()
		}
	}()
	select {
	case r := <-got:
		return r.l, r.err
	case <-ctx.Done():
		return nil, fmt.Errorf("waiting for %s: %w", path, context.Cause(ctx))
	}
}

func flock(path string, how int) (*lock, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking: %w", err)
	}
	for {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|how)
		if err != syscall.EINTR {
			break
		}
	}
	if err == nil {
		return &lock{f}, nil
	}
	f.Close()
	if err == syscall.EWOULDBLOCK {
		return nil, errLocked
	}
	return nil, fmt.Errorf("locking %s: %w", path, err)
}

func (l *lock) unlock() {
	if l != nil {
		l.f.Close()
	}
}
