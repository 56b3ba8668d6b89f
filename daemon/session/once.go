package session

import (
	"context"
	"fmt"

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
	some := false
	for _, s := range all {
		once, err := s.rearm(ctx)
		if err != nil {
			return err
		}
		some = once || some
	}
	if some {
		return nil
	}
	what := "session " + id + " steals"
	if id == "" {
		what = "no session steals"
	}
	return &ide.Error{
		Code: ide.CodeUsage, Msg: fmt.Sprintf("arming: %s a single request only", what),
		Hint: `"feature": {"network": {"incoming": {"mode": "steal", "once": true}}} makes one that does`,
	}
}

// rearm returns when the agent knows, and tells whether the session steals a
// single request.
func (s *Session) rearm(ctx context.Context) (once bool, err error) {
	s.mu.Lock()
	if s.config.Incoming.Once {
		once = true
		s.arm()
	}
	s.mu.Unlock()
	if err := s.settled(ctx); err != nil {
		return once, fmt.Errorf("arming session %s: telling the agent: %w", s.id, err)
	}
	return once, nil
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
	case !s.config.Incoming.Once || s.config.Incoming.Mode != "steal":
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
