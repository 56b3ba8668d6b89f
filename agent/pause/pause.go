// Package pause stops the target's processes for as long as somebody wants them to
// stand still.
//
// They are traced by one thread (PTRACE_SEIZE), and so are the children that they
// are just making. What is traced without PTRACE_O_EXITKILL goes on by itself when
// its tracer ends, whatever ends that: it takes nobody to undo a pause. A signal
// waits for the end of the pause, but SIGKILL, which kills; who had been stopped by
// SIGSTOP is so after it.
package pause

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// A Pauser stops and lets go on the processes that list names, and their threads.
//
// Goroutines: one from the first Hold on, which makes all ptrace calls; it is gone
// when Close returns.
type Pauser struct {
	log  *slog.Logger
	list func() ([]int, error)

	start    sync.Once
	life     context.Context // good until Close
	cancel   context.CancelFunc
	ended    chan struct{}
	commands chan func()
	changed  chan struct{} // of capacity 1
	children chan os.Signal

	// Of the tracing goroutine.
	threads map[int]bool   // that are traced; whether they have stopped
	holds   map[*Hold]bool // that want it now
}

// New makes a pauser of the processes that list names.
func New(log *slog.Logger, list func() ([]int, error)) *Pauser {
	p := &Pauser{
		log: log, list: list, ended: make(chan struct{}), commands: make(chan func()),
		changed: make(chan struct{}, 1), children: make(chan os.Signal, 1),
		threads: map[int]bool{}, holds: map[*Hold]bool{},
	}
	p.life, p.cancel = context.WithCancel(context.Background())
	return p
}

// Close lets all go on.
func (p *Pauser) Close() {
	p.cancel()
	p.start.Do(func() { close(p.ended) })
	<-p.ended
}

// Changed says that list may name others now, as after a container's restart: these
// are stopped, too. It does not wait.
func (p *Pauser) Changed() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// A Hold is somebody's wish that all stand still.
type Hold struct {
	p    *Pauser
	lost func(error)
}

// Hold returns when all have stopped, or with an error and nobody stopped. lost is
// called, and must not wait, when those that have come since cannot be stopped: then
// all go on.
func (p *Pauser) Hold(lost func(error)) (*Hold, error) {
	h := &Hold{p, lost}
	return h, h.Resume()
}

// Release lets all go on if nobody else wants them to stand still.
func (h *Hold) Release() {
	p := h.p
	_ = p.do(func() error {
		if p.holds[h] {
			delete(p.holds, h)
			p.settle()
		}
		return nil
	})
}

// Resume holds again what was released.
func (h *Hold) Resume() error {
	p := h.p
	return p.do(func() error {
		p.holds[h] = true
		err := p.freeze()
		if err != nil {
			delete(p.holds, h)
			p.settle()
		}
		return err
	})
}

// do has f run by the thread that traces.
func (p *Pauser) do(f func() error) error {
	p.start.Do(func() { go p.trace() })
	done := make(chan error, 1)
	select {
	case p.commands <- func() { done <- f() }:
		return <-done
	case <-p.ended:
		return context.Canceled
	}
}

// trace serves the commands. Its thread ends with it, and is no other goroutine's:
// what is traced still, as it waits within the kernel, then goes on as well.
func (p *Pauser) trace() {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() { // the first thread does not end
		go p.trace()
		<-p.ended
		runtime.UnlockOSThread()
		return
	}
	defer close(p.ended)
	signal.Notify(p.children, unix.SIGCHLD)
	defer signal.Stop(p.children)
	for {
		select {
		case f := <-p.commands:
			f()
		case <-p.children:
			p.reap()
		case <-p.changed:
			p.again()
		case <-p.life.Done():
			clear(p.holds)
			p.settle()
			return
		}
	}
}

// again stops those that are new. That there are some again is another change.
func (p *Pauser) again() {
	if len(p.holds) == 0 {
		return
	}
	if err := p.freeze(); err != nil && !errors.Is(err, errNobody) {
		p.log.Error("pausing again", "err", err)
		for h := range p.holds {
			h.lost(err)
		}
		clear(p.holds)
		p.settle()
	}
}

// settle lets all go on that have stopped, if nobody wants them to stand still. Those
// that have not yet, do when they stop.
func (p *Pauser) settle() {
	if len(p.holds) > 0 {
		return
	}
	p.reap()
	if len(p.threads) > 0 {
		p.log.Info("target goes on", "threads", len(p.threads))
	}
	for tid, stopped := range p.threads {
		if stopped {
			p.letGo(tid)
		}
	}
}

func (p *Pauser) letGo(tid int) {
	if err := unix.PtraceDetach(tid); err != nil && err != unix.ESRCH { // it was killed
		p.log.Error("letting thread go on", "tid", tid, "err", err)
	}
	delete(p.threads, tid)
}

// Limits of stopping.
const (
	maxScans = 100
	stopTime = time.Second
	stopEach = time.Millisecond
)

// freeze stops all that list names. A scan that finds nobody new has found all: what
// was found before makes no children that are not traced, too.
func (p *Pauser) freeze() error {
	began := time.Now()
	for scans := 1; ; scans++ {
		n, err := p.seizeAll()
		if err != nil {
			return err
		}
		p.reap()
		if n == 0 {
			break
		}
		if scans == maxScans {
			return fmt.Errorf("pausing the target: new processes come faster than they can be stopped: %w", unix.EAGAIN)
		}
	}
	p.await()
	p.log.Info("target paused", "threads", len(p.threads), "dur", time.Since(began))
	return nil
}

// await waits until all have stopped. Who waits within the kernel, as for a disk or
// for a child after vfork(2), stops before it comes out of there: that is not told
// of, so it is looked at.
func (p *Pauser) await() {
	timeout := time.After(stopTime)
	for {
		p.reap()
		running := 0
		for tid, stopped := range p.threads {
			if !stopped && !within(tid) {
				running++
			}
		}
		if running == 0 {
			return
		}
		select {
		case <-p.children:
		case <-time.After(stopEach):
		case <-timeout:
			p.log.Warn("threads have not stopped yet", "threads", running)
			return
		}
	}
}
