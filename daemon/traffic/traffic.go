// Package traffic tells who asks what goes through a session: requests on its
// stolen and mirrored ports, outgoing connections, remote files that are opened.
//
//	relay ── Incoming ─┐ copies                    ┌─ conversation: HTTP/1, HTTP/2 or neither
//	relay ── Outgoing ─┼─────────▶ watcher ────────┤
//	launcher's calls ──┘ (bounded) one goroutine   └─ store: the last exchanges ── session/request
//
// Its rule: the data path never waits for it. While nobody asks it costs an
// atomic load for each piece that is relayed and a small record for each
// connection, and what DNS answers is read: the names of what is open must be
// known when somebody asks. While somebody does, pieces are copied and looked at
// elsewhere; what there is no room for is missed, which is told.
package traffic

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"

	"mirrord/protocol/ide"
)

// A Source is what a session has to tell.
//
// Goroutines: one watcher's, while somebody asks; Close waits for it.
type Source struct {
	tell    func(ide.SessionEvent) // does not wait
	current atomic.Pointer[watcher]
	last    atomic.Uint64 // id
	names   names

	mu     sync.Mutex
	closed bool           // guarded by mu
	wg     sync.WaitGroup // of watchers
}

// New makes a source that nobody asks. tell gets its events, and does not wait.
func New(tell func(ide.SessionEvent)) *Source { return &Source{tell: tell} }

// Watch sets whether somebody asks, and reports whether that is new. What was
// seen is forgotten with the last who asks.
func (s *Source) Watch(on bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || on == (s.current.Load() != nil) {
		return false
	}
	if !on {
		s.current.Swap(nil).stop()
		return true
	}
	w := newWatcher(s)
	s.current.Store(w)
	s.wg.Go(w.run)
	return true
}

// Watched tells whether somebody asks.
func (s *Source) Watched() bool { return s.current.Load() != nil }

// Close ends the telling. Whatever ends later is not told.
func (s *Source) Close() {
	s.mu.Lock()
	s.closed = true
	if w := s.current.Swap(nil); w != nil {
		w.finish()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

// Request returns what is known of a request. False: nobody asks, or it is not
// among the last.
func (s *Source) Request(id uint64, reveal bool) (ide.RequestResult, bool) {
	w := s.current.Load()
	if w == nil {
		return ide.RequestResult{}, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.store.get(id)
	if x == nil {
		return ide.RequestResult{}, false
	}
	return x.result(w.now(), reveal), true
}

// Serving returns the request that a debuggee serves which has told nobody but a
// connection's peer, and the stream where it is HTTP/2 (else 0). False: there is
// none that was seen, or ctx has ended.
func (s *Source) Serving(ctx context.Context, peer netip.AddrPort, stream uint32) (id uint64, r ide.RequestResult, ok bool) {
	w := s.current.Load()
	if w == nil {
		return 0, r, false
	}
	// What came before the question is looked at before the second of two notes is run.
	looked := make(chan struct{})
	w.note(func() { w.note(func() { close(looked) }) })
	select {
	case <-looked:
	case <-w.done:
	case <-ctx.Done():
		return 0, r, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	x := w.store.unanswered(peer, stream)
	if x == nil {
		return 0, r, false
	}
	return x.id, x.result(w.now(), false), true
}

// Incoming watches a connection to a debuggee.
func (s *Source) Incoming(port uint16, mirror bool, peer netip.AddrPort) *Incoming {
	return &Incoming{source: s, port: port, mirror: mirror, peer: peer}
}

func (s *Source) id() uint64 { return s.last.Add(1) }
