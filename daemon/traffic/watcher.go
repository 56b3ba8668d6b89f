package traffic

import (
	"sync"
	"sync/atomic"
	"time"

	"mirrord/protocol/ide"
)

// Limits of what a watcher keeps; what is over them is missed.
const (
	maxQueued  = 4 << 20 // bytes of copies that wait to be looked at
	maxHeads   = 4 << 20 // bytes of heads that have come in part
	maxFlows   = 2048    // connections
	maxNotes   = 1024    // files and outgoing connections that wait to be told
	recordCost = 64      // of one piece, however small
)

// A watcher is what is known while somebody asks.
//
// Goroutines: run, until stop or finish.
type watcher struct {
	source *Source
	began  time.Time
	wake   chan struct{} // of capacity 1
	done   chan struct{} // closed by stop
	over   atomic.Bool   // set by finish

	queued atomic.Int64
	missed atomic.Bool

	queue sync.Mutex
	dirty []*flow        // guarded by queue; those with something to look at
	notes []func()       // guarded by queue; run in their order
	flows map[*flow]bool // guarded by queue

	// For run, but Source.Request reads.
	mu    sync.Mutex // lock order: mu, then queue, flow.mu or what tell locks
	store store      // guarded by mu
	heads int        // guarded by mu; bytes
	files joined     // run's own
}

func newWatcher(s *Source) *watcher {
	return &watcher{source: s, began: time.Now(), wake: make(chan struct{}, 1), done: make(chan struct{}), flows: map[*flow]bool{}}
}

// now is the time since the watcher began.
func (w *watcher) now() time.Duration { return time.Since(w.began) }

// stop ends it at once, finish when it has told what it knows.
func (w *watcher) stop() { close(w.done) }
func (w *watcher) finish() {
	w.over.Store(true)
	w.rouse()
}

func (w *watcher) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *watcher) run() {
	defer w.forget()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-w.done:
			return
		case <-w.wake:
		case <-timer.C:
		}
		over := w.over.Load() // what comes before is looked at below
		w.queue.Lock()
		dirty, notes := w.dirty, w.notes
		w.dirty, w.notes = nil, nil
		w.queue.Unlock()
		for _, note := range notes {
			note()
		}
		for _, f := range dirty {
			f.look()
		}
		if next := w.files.flush(w, over); next > 0 {
			timer.Reset(next)
		}
		if w.missed.Swap(false) {
			w.source.tell(ide.SessionEvent{Kind: ide.EventMissed})
		}
		if over {
			return
		}
	}
}

// miss notes that something is not told.
func (w *watcher) miss() {
	w.missed.Store(true)
	w.rouse()
}

// note runs do in the watcher's goroutine, if there is room.
func (w *watcher) note(do func()) {
	w.queue.Lock()
	room := len(w.notes) < maxNotes
	if room {
		w.notes = append(w.notes, do)
	}
	w.queue.Unlock()
	if !room {
		w.missed.Store(true)
	}
	w.rouse()
}

// look has f looked at.
func (w *watcher) look(f *flow) {
	w.queue.Lock()
	w.dirty = append(w.dirty, f)
	w.queue.Unlock()
	w.rouse()
}

// reserve makes room for n bytes of copies, if there is any.
func (w *watcher) reserve(n int) bool {
	if w.queued.Add(int64(n)) <= maxQueued {
		return true
	}
	w.queued.Add(int64(-n))
	return false
}

// enter makes room for one more connection, if there is any.
func (w *watcher) enter(f *flow) bool {
	w.queue.Lock()
	defer w.queue.Unlock()
	if w.flows == nil || len(w.flows) >= maxFlows { // nil: forgotten
		return false
	}
	w.flows[f] = true
	return true
}

func (w *watcher) leave(f *flow) {
	w.queue.Lock()
	defer w.queue.Unlock()
	delete(w.flows, f)
}

// forget lets go of what connections that go on would hold.
func (w *watcher) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.queue.Lock()
	defer w.queue.Unlock()
	w.store = store{closed: true}
	for f := range w.flows {
		f.talk = nil
	}
	w.flows, w.dirty, w.notes = nil, nil, nil
}

// A buffer holds what has come in part. Its watcher's mu is held.
type buffer struct {
	w *watcher
	b []byte
}

// add appends b; false: there is no room.
func (p *buffer) add(b []byte) bool {
	if len(p.b)+len(b) > maxHead || p.w.heads+len(b) > maxHeads {
		return false
	}
	p.w.heads += len(b)
	p.b = append(p.b, b...)
	return true
}

// drop takes the first n bytes away.
func (p *buffer) drop(n int) {
	p.w.heads -= n
	p.b = append(p.b[:0], p.b[n:]...)
	if len(p.b) == 0 {
		p.b = nil
	}
}

func (p *buffer) clear() { p.drop(len(p.b)) }

func ms(d time.Duration) float64 {
	return float64(d.Round(100*time.Microsecond)) / float64(time.Millisecond)
}
