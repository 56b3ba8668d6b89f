package session

import (
	"context"
	"sync"
	"time"

	"mirrord/protocol/ide"
)

// maxEvents bounds what waits for a client that reads slowly.
const maxEvents = 1024

// events are told to who has asked for them.
type events struct {
	mu  sync.Mutex           // lock order: Session.mu, then mu
	all map[*subscriber]bool // guarded by mu
}

// A subscriber hears of one session, or of all.
type subscriber struct {
	session string
	queue   chan ide.SessionEvent
	missed  bool // guarded by events.mu
}

// tell never waits.
func (e *events) tell(ev ide.SessionEvent) {
	ev.Time = time.Now().Format(time.RFC3339Nano)
	e.mu.Lock()
	defer e.mu.Unlock()
	for s := range e.all {
		if s.session == "" || s.session == ev.Session {
			s.put(ev)
		}
	}
}

// put is called with events.mu held.
func (s *subscriber) put(ev ide.SessionEvent) {
	if s.missed && len(s.queue) < cap(s.queue)-1 {
		s.missed = false
		s.queue <- ide.SessionEvent{Session: ev.Session, Time: ev.Time, Kind: ide.EventMissed}
	}
	select {
	case s.queue <- ev:
	default:
		s.missed = true
	}
}

func (e *events) subscribe(session string) *subscriber {
	s := &subscriber{session: session, queue: make(chan ide.SessionEvent, maxEvents)}
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

// Events hands what happens in a session, or with id "" in all of them, to
// tell, first what is the case, until the session has ended or ctx is done.
func (m *Manager) Events(ctx context.Context, id string, tell func(ide.SessionEvent)) error {
	sub := m.events.subscribe(id)
	defer m.events.unsubscribe(sub)
	sessions := m.all()
	if id != "" {
		s, err := m.session(id)
		if err != nil {
			return err
		}
		sessions = []*Session{s}
	}
	for _, s := range sessions {
		for _, ev := range s.state() {
			tell(ev)
		}
	}
	for {
		select {
		case ev := <-sub.queue:
			tell(ev)
			if ev.Kind == ide.EventEnded && id != "" {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// event tells of something that happened in the session.
func (s *Session) event(ev ide.SessionEvent) {
	ev.Session = s.id
	s.events.tell(ev)
}

// state is what a client that comes now has missed.
func (s *Session) state() []ide.SessionEvent {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now().Format(time.RFC3339Nano)
	list := []ide.SessionEvent{{Kind: ide.EventStarted, Message: s.target.name}}
	for range s.launchers {
		list = append(list, ide.SessionEvent{Kind: ide.EventLaunched})
	}
	for port, l := range s.listeners {
		list = append(list, ide.SessionEvent{Kind: ide.EventTaken, Port: port, Mirror: l.mirror})
		if l.lost != nil {
			list = append(list, ide.SessionEvent{Kind: ide.EventWaiting, Port: port})
		}
	}
	for _, d := range s.debuggees {
		list = append(list, ide.SessionEvent{Kind: ide.EventDebuggee, PID: d.pid})
		if d.stopped {
			list = append(list, ide.SessionEvent{Kind: ide.EventStopped, PID: d.pid})
		}
	}
	for i := range list {
		list[i].Session, list[i].Time = s.id, now
	}
	return list
}
