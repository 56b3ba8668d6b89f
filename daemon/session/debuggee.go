package session

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"syscall"
	"time"

	"mirrord/daemon/tunnel"
	"mirrord/layer"
	"mirrord/layer/launch"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// stoppedEach is how often it is looked whether debuggees are stopped: the
// kernel tells nobody but the tracer. What a debugger does between two looks, as
// for a log point, is no stop.
const stoppedEach = 100 * time.Millisecond

// knownTime is how long the agent may take to learn of it, before all others do.
const knownTime = time.Second

// A debuggee is a process that a debugger traces, as its launcher has told.
type debuggee struct {
	pid   int
	start string // when it began, which tells it from a later one of its number
	owner *launcher
	kills uint64 // launch.OutOfMemoryKills when it began
	pause *pause // guarded by Session.mu; nil: it runs
	seen  bool   // guarded by Session.mu; it stood still at the last look, too
}

// A pause is the time for which a debuggee is stopped.
type pause struct {
	over    chan struct{} // closed when it goes on, or has ended
	tooLong chan struct{} // closed when connections have waited long enough; under Session.mu
	timer   *time.Timer
	limit   time.Duration
}

// stop begins a debuggee's pause. s.mu is held.
func (s *Session) stop(d *debuggee) {
	p := &pause{over: make(chan struct{}), tooLong: make(chan struct{}), limit: s.whileStopped}
	d.pause = p
	if p.limit == 0 {
		close(p.tooLong)
		return
	}
	p.timer = time.AfterFunc(p.limit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if d.pause == p {
			close(p.tooLong)
			s.settleAll()
		}
	})
}

// passes tells whether connections do not wait any longer. Session.mu is held.
func (p *pause) passes() bool {
	select {
	case <-p.tooLong:
		return true
	default:
		return false
	}
}

// wait returns when the debuggee goes on or has ended. An error means that the
// connection is not to wait any longer.
func (p *pause) wait(ctx context.Context) error {
	select {
	case <-p.over:
		return nil
	case <-p.tooLong:
		return fmt.Errorf("the debuggee has been stopped for %v: %w", p.limit, syscall.EHOSTDOWN)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// resume ends a debuggee's pause. Session.mu is held.
func (d *debuggee) resume() {
	if d.pause != nil {
		if d.pause.timer != nil {
			d.pause.timer.Stop()
		}
		close(d.pause.over)
		d.pause = nil
	}
}

// debug notes a debuggee.
func (s *Session) debug(pid int, owner *launcher) error {
	state, err := processState(pid)
	if err != nil {
		return err
	}
	kills := launch.OutOfMemoryKills()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	if slices.ContainsFunc(s.debuggees, func(d *debuggee) bool { return d.pid == pid && d.start == state.start }) {
		return nil // it has executed another program
	}
	d := &debuggee{pid: pid, start: state.start, owner: owner, kills: kills}
	s.debuggees = append(s.debuggees, d)
	for _, l := range s.listeners {
		if l.owner == owner && len(l.by) == 0 { // that it listens was told first
			l.by = append(l.by, d)
		}
	}
	if !s.watching {
		s.watching = true
		s.wg.Go(s.watchDebuggees)
	}
	s.event(ide.SessionEvent{Kind: ide.EventDebuggee, PID: pid})
	return nil
}

// watchDebuggees tells of debuggees that stop, go on and end, while there are any.
func (s *Session) watchDebuggees() {
	tick := time.NewTicker(stoppedEach)
	defer tick.Stop()
	for s.lookAtDebuggees() {
		select {
		case <-tick.C:
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Session) lookAtDebuggees() (any bool) {
	kills := launch.OutOfMemoryKills()
	var tell []ide.SessionEvent // once it is true of connections, too
	s.mu.Lock()
	defer s.mu.Unlock()
	s.debuggees = slices.DeleteFunc(s.debuggees, func(d *debuggee) bool {
		now, err := processState(d.pid)
		if err != nil || now.start != d.start || now.ends { // as lives
			d.resume()
			e := ide.SessionEvent{Kind: ide.EventExited, PID: d.pid}
			if kills > d.kills {
				e.Message = "while it ran the kernel killed a process for want of memory"
				d.owner.notices.say(fmt.Sprintf("process %d has ended: %s", d.pid, e.Message))
			}
			s.event(e)
			return true
		}
		still := now.stopped && d.seen
		d.seen = now.stopped
		switch {
		case still && d.pause == nil:
			s.stop(d)
			tell = append(tell, ide.SessionEvent{Kind: ide.EventStopped, PID: d.pid})
		case !still && d.pause != nil:
			d.resume()
			tell = append(tell, ide.SessionEvent{Kind: ide.EventContinued, PID: d.pid})
		}
		return false
	})
	s.settleAll()
	if len(tell) > 0 {
		s.mu.Unlock()
		ctx, cancel := context.WithTimeout(s.ctx, knownTime)
		_ = s.settled(ctx) // a link that is cut delays nothing else
		cancel()
		s.mu.Lock()
	}
	for _, e := range tell {
		s.event(e)
	}
	s.watching = len(s.debuggees) > 0
	return s.watching
}

// pauseOf is the pause that connections to a listener wait for, nil for none.
// s.mu is held.
func (s *Session) pauseOf(l *listener) *pause {
	for _, d := range l.by {
		if d.pause != nil {
			return d.pause
		}
	}
	return nil
}

// settle has the agent offer what a listener is to get now: nothing new while its
// debuggee is stopped and none waits for it; and of one that is to get a single
// request, that one. s.mu is held.
func (s *Session) settle(l *listener) {
	p := s.pauseOf(l)
	state := protocol.StealState{Paused: p != nil && p.passes()}
	if l.once {
		state.Arm = s.arming()
	}
	for _, held := range l.held {
		held.Set(state)
	}
}

func (s *Session) settleAll() {
	for _, l := range s.listeners {
		s.settle(l)
	}
}

// settled returns when the agent knows.
func (s *Session) settled(ctx context.Context) error {
	var all []*tunnel.Held
	s.mu.Lock()
	for _, l := range s.listeners {
		all = slices.AppendSeq(all, maps.Values(l.held))
	}
	s.mu.Unlock()
	for _, held := range all {
		if err := held.Wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// restarts tells whether a listener that is gone may come again: its debugger
// starts another debuggee, or its client another launcher. s.mu is held.
func (s *Session) restarts(l *listener) bool {
	if s.whileRestarting == 0 {
		return false
	}
	if l.owner == nil {
		return s.holders > 0
	}
	return len(l.by) > 0 && !slices.ContainsFunc(l.by, (*debuggee).lives)
}

// debuggeesOf are a launcher's. s.mu is held.
func (s *Session) debuggeesOf(owner *launcher) []*debuggee {
	return slices.DeleteFunc(slices.Clone(s.debuggees), func(d *debuggee) bool { return d.owner != owner || !d.lives() })
}

func (d *debuggee) lives() bool {
	now, err := processState(d.pid)
	return err == nil && now.start == d.start && !now.ends
}

// A processNow is what /proc tells of a process.
type processNow struct {
	start   string
	stopped bool // by its tracer
	ends    bool // it has ended, or is about to and closes what it has
}

// exiting is PF_EXITING of the kernel's include/linux/sched.h.
const exiting = 0x4

func processState(pid int) (processNow, error) {
	stat, err := layer.ProcessStat(pid)
	if err != nil {
		return processNow{}, err
	}
	flags, err := strconv.ParseUint(string(stat[layer.StatFlags]), 10, 64)
	if err != nil {
		return processNow{}, fmt.Errorf("reading the flags of process %d: %w", pid, err)
	}
	state := stat[layer.StatState][0]
	return processNow{
		start: string(stat[layer.StatStart]), stopped: state == 't',
		ends: state == 'Z' || state == 'X' || flags&exiting != 0,
	}, nil
}
