package session

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"

	"mirrord/layer/launch"
	"mirrord/protocol/ide"
)

// stoppedEach is how often it is looked whether debuggees are stopped: the
// kernel tells nobody but the tracer. What a debugger does between two looks, as
// for a log point, is no stop.
const stoppedEach = 100 * time.Millisecond

// A debuggee is a process that a debugger traces, as its launcher has told.
type debuggee struct {
	pid     int
	start   string // when it began, which tells it from a later one of its number
	owner   *launcher
	kills   uint64 // launch.OutOfMemoryKills when it began
	stopped bool   // guarded by Session.mu
	seen    bool   // guarded by Session.mu; it stood still at the last look, too
}

// A pause is the time for which a session's debuggees are stopped.
type pause struct {
	long  context.Context // done when connections have waited long enough
	timer *time.Timer     // ends long
}

func newPause(limit time.Duration) *pause {
	ctx, cancel := context.WithCancel(context.Background())
	return &pause{ctx, time.AfterFunc(limit, cancel)}
}

// debug notes a debuggee.
func (s *Session) debug(pid int, owner *launcher) error {
	state, err := processState(pid)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return s.ctx.Err()
	}
	s.debuggees = slices.DeleteFunc(s.debuggees, func(d *debuggee) bool { return d.pid == pid })
	s.debuggees = append(s.debuggees, &debuggee{pid: pid, start: state.start, owner: owner, kills: launch.OutOfMemoryKills()})
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
	s.mu.Lock()
	defer s.mu.Unlock()
	stopped := false
	s.debuggees = slices.DeleteFunc(s.debuggees, func(d *debuggee) bool {
		now, err := processState(d.pid)
		if err != nil || now.start != d.start || now.ends { // as lives
			e := ide.SessionEvent{Kind: ide.EventExited, PID: d.pid}
			if launch.OutOfMemoryKills() > d.kills {
				e.Message = "while it ran the kernel killed a process for want of memory"
				d.owner.notices.say(fmt.Sprintf("process %d has ended: %s", d.pid, e.Message))
			}
			s.event(e)
			return true
		}
		still := now.stopped && d.seen
		d.seen = now.stopped
		if still != d.stopped {
			d.stopped = still
			kind := ide.EventContinued
			if still {
				kind = ide.EventStopped
			}
			s.event(ide.SessionEvent{Kind: kind, PID: d.pid})
		}
		stopped = stopped || still
		return false
	})
	switch {
	case stopped && s.pause == nil:
		s.pause = newPause(s.whileStopped)
	case !stopped:
		s.endPause()
	}
	s.watching = len(s.debuggees) > 0
	return s.watching
}

// endPause lets what waits go on. s.mu is held.
func (s *Session) endPause() {
	if s.pause != nil {
		s.pause.timer.Stop()
		s.pause = nil
	}
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

// processState reads proc_pid_stat(5): the name, in parentheses, may hold anything.
func processState(pid int) (processNow, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	stat, err := os.ReadFile(path)
	if err != nil {
		return processNow{}, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return processNow{}, fmt.Errorf("reading %s: %d fields", path, len(fields))
	}
	flags, err := strconv.ParseUint(string(fields[6]), 10, 64)
	if err != nil {
		return processNow{}, fmt.Errorf("reading %s: %w", path, err)
	}
	state := fields[0][0]
	return processNow{
		start: string(fields[19]), stopped: state == 't',
		ends: state == 'Z' || state == 'X' || flags&exiting != 0,
	}, nil
}
