package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// Arm lets sessions that steal a single request steal one more: that one, or
// without an id all that do.
func (m *Manager) Arm(ctx context.Context, id string) error {
	all := m.all()
	if id != "" {
		s, err := m.session(id)
		if err != nil {
			return err
		}
		all = []*Session{s}
	}
	all = slices.DeleteFunc(all, func(s *Session) bool { return !s.rearm() })
	if len(all) > 0 {
		return known(ctx, all)
	}
	what := "session " + id + " does not steal"
	if id == "" {
		what = "no session steals"
	}
	return &ide.Error{
		Code: ide.CodeUsage, Msg: fmt.Sprintf("arming: %s a single request", what),
		Hint: `"feature": {"network": {"incoming": {"mode": "steal", "once": true}}} makes one that does`,
	}
}

// armTime is what an agent may take to learn of it: more where its link is cut, and
// comes back.
const armTime = 5 * time.Second

// known returns when the agents know that these were armed. One that does not learn
// of it in time holds up no other.
func known(ctx context.Context, all []*Session) error {
	ctx, cancel := context.WithTimeoutCause(ctx, armTime, fmt.Errorf("it does not answer for %v, and learns of it when it does", armTime))
	defer cancel()
	errs := make([]error, len(all))
	var asking sync.WaitGroup
	for i, s := range all {
		asking.Go(func() {
			if err := s.settled(ctx); err != nil {
				errs[i] = fmt.Errorf("arming session %s: telling the agent: %w", s.id, cmp.Or(context.Cause(ctx), err))
			}
		})
	}
	asking.Wait()
	return errors.Join(errs...)
}

// once tells whether the session steals a single request. s.mu is held.
func (s *Session) once() bool {
	for _, l := range s.listeners { // which a restart leaves as they are
		if l.once {
			return true
		}
	}
	return s.config.Incoming.Once && s.config.Incoming.Mode == "steal"
}

// rearm tells whether the session steals a single request, which it does once more.
func (s *Session) rearm() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.once() {
		return false
	}
	s.arm()
	return true
}

// arm has the session steal one more request. s.mu is held.
func (s *Session) arm() {
	s.spent = false
	for _, e := range s.onlyRequest() {
		s.event(e)
	}
	s.armings++
	s.settleAll()
}

// onlyRequest tells, where a session steals a single request, whether it has it.
// s.mu is held.
func (s *Session) onlyRequest() []ide.SessionEvent {
	switch {
	case !s.once():
		return nil
	case s.spent:
		return []ide.SessionEvent{{Kind: ide.EventCaught}}
	}
	return []ide.SessionEvent{{Kind: ide.EventArmed}}
}

// arming is the number of the present one, 0 for none. s.mu is held.
func (s *Session) arming() uint64 {
	if s.spent {
		return 0
	}
	return s.armings + 1
}

// spend takes the only request that there is to be, whichever port, and whichever
// agent, it comes from. s.mu is held.
func (s *Session) spend(port uint16) error {
	if s.spent {
		return fmt.Errorf("the session has had the one request: %w", unix.EALREADY)
	}
	s.spent = true
	s.event(ide.SessionEvent{Kind: ide.EventCaught, Port: port})
	s.settleAll()
	return nil
}

// unspend arms anew where what was taken did not reach the debuggee.
func (s *Session) unspend(err error) {
	if err == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spent && s.ctx.Err() == nil {
		s.arm()
	}
}
