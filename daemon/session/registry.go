package session

import (
	"fmt"
	"slices"
	"time"

	"mirrord/protocol/ide"
)

// hold finds a session that is already there, for one more who starts it.
func (m *Manager) hold(id string) *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s != nil {
		s.hold()
	}
	return s
}

// register makes s known, unless somebody else was quicker: then it holds and
// returns that one.
func (m *Manager) register(s *Session) *Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	if other := m.sessions[s.id]; other != nil {
		other.hold()
		return other
	}
	m.sessions[s.id] = s
	s.watchTraffic(m.events.watched(s.id))
	s.log.Info("session started", "target", s.main.Load().target.name)
	s.event(ide.SessionEvent{Kind: ide.EventStarted, Message: s.main.Load().target.name})
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.onlyRequest() {
		s.event(e)
	}
	return s
}

// attach binds a launcher to a session.
func (m *Manager) attach(id string, l *launcher) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s == nil {
		return nil, noSession(id)
	}
	s.attach(l)
	return s, nil
}

func (m *Manager) session(id string) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s == nil {
		return nil, noSession(id)
	}
	return s, nil
}

func noSession(id string) error {
	return &ide.Error{Code: ide.CodeSession, Msg: fmt.Sprintf("no session %q", id), Hint: "mirrord session ls shows those that run"}
}

func (m *Manager) all() []*Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Session, 0, len(m.sessions))
	for _, s := range m.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *Session) int { return a.started.Compare(b.started) })
	return list
}

// end undoes the session, once.
func (m *Manager) end(s *Session, why string) {
	if m.forget(s, func() bool { return true }) {
		m.undo(s, why)
	}
}

// endUnused ends the session if nobody has a use for it.
func (m *Manager) endUnused(s *Session, why string) {
	if m.forget(s, s.unused) {
		m.undo(s, why)
	}
}

func (m *Manager) undo(s *Session, why string) {
	s.log.Info("session ended", "why", why, "dur", time.Since(s.started))
	s.over("the session has ended: " + why)
	s.close()
	m.agents.putAll(s)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = why
	s.event(ide.SessionEvent{Kind: ide.EventEnded, Message: why})
}

// forget makes the session unknown, under the lock that everybody needs to
// come to it.
func (m *Manager) forget(s *Session, condition func() bool) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[s.id] != s || !condition() {
		return false
	}
	delete(m.sessions, s.id)
	return true
}
