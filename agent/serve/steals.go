package serve

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"mirrord/agent/incoming"
	"mirrord/protocol"
	"mirrord/protocol/link"
)

// away is how long a client may be without any link before its ports' new
// connections go to the pod.
const away = time.Second

// errGone: nothing is stolen for a client that has ended.
var errGone = errors.New("the client has ended")

// A hold is an incoming.Steal, or a pause, as far as its client's absence is concerned.
type hold interface {
	Suspend(incoming.Why)
	Resume(incoming.Why) error
	Holder() protocol.Holder
}

// steals are the ports that a client holds, and pauses.
type steals struct {
	log *slog.Logger

	mu     sync.Mutex
	held   map[hold]func(error) // guarded by mu; each ends its stream
	absent bool                 // guarded by mu
	over   bool                 // guarded by mu; no port is taken any more
	ports  sync.WaitGroup
}

// begin is called before a port is taken, and done when it is given back.
func (s *steals) begin() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.over {
		return errGone
	}
	s.ports.Add(1)
	return nil
}

func (s *steals) done() { s.ports.Done() }

// wait returns when all ports are given back, and no other is taken. The
// client is at its end.
func (s *steals) wait() {
	s.mu.Lock()
	s.over = true
	s.mu.Unlock()
	s.ports.Wait()
}

// add begins to watch over h; end is called if it cannot be resumed.
func (s *steals) add(h hold, end func(error)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held[h] = end
	if s.absent {
		h.Suspend(incoming.Absent)
	}
}

func (s *steals) remove(h hold) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.held, h)
}

// holders tells of all.
func (s *steals) holders() (list []protocol.Holder) {
	s.mu.Lock()
	held := slices.Collect(maps.Keys(s.held))
	s.mu.Unlock()
	for _, h := range held {
		list = append(list, h.Holder())
	}
	return list
}

// set suspends all steals, or resumes them.
func (s *steals) set(absent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.absent == absent {
		return
	}
	s.absent = absent
	for h, end := range s.held {
		if absent {
			h.Suspend(incoming.Absent)
		} else if err := h.Resume(incoming.Absent); err != nil {
			s.log.Error("resuming steal", "err", err)
			end(err) // the client is to know
		}
	}
}

// watch suspends the steals while the client has neither link, until ctx ends.
func (s *steals) watch(ctx context.Context, control *link.Conn, joined <-chan *link.Conn) {
	var bulk *link.Conn
	timer := time.NewTimer(away)
	defer timer.Stop()
	present := false
	for {
		up, changed := control.Up()
		var bulkChanged <-chan struct{}
		if bulk != nil {
			var too bool
			too, bulkChanged = bulk.Up()
			up = up || too
		}
		if up {
			timer.Stop()
			s.set(false)
		} else if present {
			timer.Reset(away)
		}
		present = up
		select {
		case <-changed:
		case <-bulkChanged:
		case bulk = <-joined:
		case <-timer.C:
			s.set(true)
		case <-ctx.Done():
			return
		}
	}
}
