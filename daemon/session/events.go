package session

import (
	"context"
	"sync"
	"time"

	"mirrord/protocol/ide"
)

// What waits for a client that reads slowly is bounded.
const (
	maxEvents  = 1024
	maxTraffic = maxEvents / 2
)

// events are told to who has asked for them.
type events struct {
	mu  sync.Mutex           // lock order: Manager.mu, Session.mu, then mu
	all map[*subscriber]bool // guarded by mu
}

// A subscriber hears of one session, or of all.
type subscriber struct {
	session string        // "": of all
	traffic bool          // also of what goes through it
	wake    chan struct{} // of capacity 1

	queue  []ide.SessionEvent // guarded by events.mu
	missed bool               // guarded by events.mu; there was no room
	later  map[string]bool    // guarded by events.mu; sessions whose state it has not yet
}

// tell never waits. Of traffic hears who has asked for it.
func (e *events) tell(ev ide.SessionEvent, traffic bool) {
	ev.Time = time.Now().Format(time.RFC3339Nano)
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.all {
		if s.hears(ev.Session) && !s.later[ev.Session] && (s.traffic || !traffic) {
			s.put(ev, traffic)
		}
	}
}

func (s *subscriber) hears(session string) bool { return s.session == "" || s.session == session }

// watched tells whether somebody asks what goes through a session.
func (e *events) watched(session string) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.all {
		if s.traffic && s.hears(session) {
			return true
		}
	}
	return false
}

// put is called with events.mu held. That a session has ended there is always
// room for: nothing follows it. Traffic leaves room for the rest.
func (s *subscriber) put(ev ide.SessionEvent, traffic bool) {
	most := maxEvents
	if traffic {
		most = maxTraffic
	}
	switch {
	case len(s.queue) < most || ev.Kind == ide.EventEnded:
		s.queue = append(s.queue, ev)
	case !s.missed:
		s.missed = true
		s.queue = append(s.queue, ide.SessionEvent{Session: ev.Session, Time: ev.Time, Kind: ide.EventMissed})
	}
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (e *events) subscribe(p ide.SessionEventsParams, later map[string]bool) *subscriber {
	s := &subscriber{session: p.ID, traffic: p.Traffic, wake: make(chan struct{}, 1), later: later}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.all == nil {
		e.all = map[*subscriber]bool{}
	}
	e.all[s] = true
	return s
}

func (e *events) unsubscribe(s *subscriber) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.all, s)
}

// take returns what waits.
func (e *events) take(s *subscriber) []ide.SessionEvent {
	e.mu.Lock()
	defer e.mu.Unlock()
	list := s.queue
	s.queue, s.missed = nil, false
	return list
}

// begin gives a subscriber a session's state, which its events follow.
func (e *events) begin(s *subscriber, session string, state []ide.SessionEvent) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(s.later, session)
	for _, ev := range state {
		s.put(ev, false)
	}
}

// Events hands what happens in a session, or without its ID in all of them, to
// tell, first what is the case, until the session has ended or ctx is done.
func (m *Manager) Events(ctx context.Context, p ide.SessionEventsParams, tell func(ide.SessionEvent)) error {
	sub, sessions, err := m.subscribe(p)
	if err != nil {
		return err
	}
	defer m.unsubscribe(sub)
	for _, s := range sessions {
		s.mu.Lock()
		m.events.begin(sub, s.id, s.state())
		s.mu.Unlock()
	}
	for over := false; ; {
		for _, ev := range m.events.take(sub) {
			tell(ev)
			if ev.Kind == ide.EventEnded && p.ID != "" {
				return nil
			}
		}
		if over {
			return context.Cause(ctx)
		}
		select {
		case <-sub.wake:
		case <-ctx.Done():
			over = true // what has happened before is told yet
		}
	}
}

// subscribe finds the sessions in question, to whose events the subscriber does
// not listen yet.
func (m *Manager) subscribe(p ide.SessionEventsParams) (*subscriber, []*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var list []*Session
	later := map[string]bool{}
	for _, s := range m.sessions {
		if p.ID == "" || p.ID == s.id {
			list = append(list, s)
			later[s.id] = true
		}
	}
	if p.ID != "" && len(list) == 0 {
		return nil, nil, noSession(p.ID)
	}
	sub := m.events.subscribe(p, later)
	m.watchTraffic()
	return sub, list, nil
}

func (m *Manager) unsubscribe(s *subscriber) {
	m.events.unsubscribe(s)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.watchTraffic()
}

// event tells of something that happened in the session.
func (s *Session) event(ev ide.SessionEvent) {
	ev.Session = s.id
	s.events.tell(ev, false)
}

// state is what a client that comes now has missed. s.mu is held.
func (s *Session) state() []ide.SessionEvent {
	now := time.Now().Format(time.RFC3339Nano)
	list := []ide.SessionEvent{{Kind: ide.EventStarted, Message: s.main.Load().target.name}}
	for range s.launchers {
		list = append(list, ide.SessionEvent{Kind: ide.EventLaunched})
	}
	for port, l := range s.listeners {
		list = append(list, l.taken(port))
		if l.lost != nil {
			list = append(list, ide.SessionEvent{Kind: ide.EventWaiting, Port: port})
		}
	}
	list = append(list, s.onlyRequest()...)
	for _, d := range s.debuggees {
		list = append(list, ide.SessionEvent{Kind: ide.EventDebuggee, PID: d.pid})
		if d.pause != nil {
			list = append(list, ide.SessionEvent{Kind: ide.EventStopped, PID: d.pid})
		}
	}
	if s.ended != "" {
		list = append(list, ide.SessionEvent{Kind: ide.EventEnded, Message: s.ended})
	}
	for i := range list {
		list[i].Session, list[i].Time = s.id, now
	}
	return list
}
