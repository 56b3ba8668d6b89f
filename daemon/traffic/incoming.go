package traffic

import (
	"math"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/protocol/ide"
)

// A direction is whose bytes they are.
type direction uint8

const (
	client direction = iota
	server           // the debuggee
)

// forever is an offset that is never reached.
const forever = math.MaxInt64

// An Incoming watches one connection to a debuggee: Answered, then Receives and
// Sends by one goroutine each, then Ended.
type Incoming struct {
	source *Source
	port   uint16
	mirror bool
	peer   netip.AddrPort
	begun  time.Time
	sides  [2]side // each used by one goroutine of the relay

	mu   sync.Mutex
	flow *flow // guarded by mu; of the watcher that was the latest
}

type side struct {
	flow   *flow
	offset int64 // of the next byte, from when flow began
}

// Answered begins the watching: the connection is about to be relayed.
func (t *Incoming) Answered(error) {
	t.begun = time.Now()
	if w := t.source.current.Load(); w != nil {
		t.join(w, false)
	}
}

// Receives takes what the client says.
func (t *Incoming) Receives(b []byte) { t.moves(client, b) }

// Sends takes what the debuggee says.
func (t *Incoming) Sends(b []byte) { t.moves(server, b) }

func (t *Incoming) moves(d direction, b []byte) {
	w := t.source.current.Load()
	if w == nil {
		return
	}
	s := &t.sides[d]
	if s.flow == nil || s.flow.w != w {
		*s = side{flow: t.join(w, true)}
	}
	if s.flow.left {
		return
	}
	if b == nil {
		s.flow.ends(d)
		return
	}
	s.flow.add(d, b, s.offset)
	s.offset += int64(len(b))
}

// join finds the connection's flow for w, or begins one.
func (t *Incoming) join(w *watcher, midway bool) *flow {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.flow == nil || t.flow.w != w {
		t.flow = &flow{w: w}
		t.flow.talk = newConversation(t.flow, t, midway)
		if t.flow.left = !w.enter(t.flow); t.flow.left {
			w.miss()
		}
	}
	return t.flow
}

// Ended tells of the connection's end, once its relay has ended.
func (t *Incoming) Ended(err error) {
	w := t.source.current.Load()
	t.mu.Lock()
	f := t.flow
	t.mu.Unlock()
	if w == nil || f == nil || f.w != w || f.left {
		return
	}
	f.push(record{kind: ended, at: w.now(), err: err})
}

func (t *Incoming) connection(id uint64) *ide.Connection {
	return &ide.Connection{ID: id, Port: t.port, Mirror: t.mirror, Peer: t.peer.String()}
}

// A flow is a watched connection's copies on their way to who looks at them.
type flow struct {
	w    *watcher
	left bool          // there was no room: it is not watched
	talk *conversation // the watcher's own

	// Bytes before these offsets are not needed, as the watcher has said.
	needless [2]atomic.Int64
	passed   [2]atomic.Int64 // bytes that are counted only, since none will be needed

	mu      sync.Mutex
	records []record // guarded by mu
	bytes   []byte   // guarded by mu; of the records of data
	queued  bool     // guarded by mu; the watcher knows that it has something
}

type recordKind uint8

const (
	data    recordKind = iota
	skipped            // n bytes that were not copied
	lost               // bytes that nobody knows the order of
	ending             // a direction's orderly end
	ended              // of the connection
)

type record struct {
	kind recordKind
	d    direction
	n    int
	both [2]int        // of lost, by direction
	at   time.Duration // since the watcher began
	err  error
}

// maxRecords of a flow have an order; of what is skipped after them only the
// number of bytes is known.
const maxRecords = 4096

// add copies what is needed of b.
func (f *flow) add(d direction, b []byte, offset int64) {
	needless := f.needless[d].Load()
	if needless == forever {
		f.passed[d].Add(int64(len(b)))
		return
	}
	at := f.w.now()
	if n := min(needless-offset, int64(len(b))); n > 0 {
		f.push(record{kind: skipped, d: d, n: int(n), at: at})
		b = b[n:]
	}
	switch {
	case len(b) == 0:
	case f.w.reserve(len(b) + recordCost):
		f.push(record{kind: data, d: d, n: len(b), at: at}, b...)
	default:
		f.push(record{kind: skipped, d: d, n: len(b), at: at})
	}
}

func (f *flow) ends(d direction) { f.push(record{kind: ending, d: d, at: f.w.now()}) }

func (f *flow) push(r record, b ...byte) {
	f.mu.Lock()
	var last record
	end := len(f.records) - 1
	if end >= 0 {
		last = f.records[end]
	}
	switch {
	case r.kind == skipped && last.kind == skipped && last.d == r.d:
		f.records[end].n += r.n
	case r.kind == skipped && last.kind == lost:
		f.records[end].both[r.d] += r.n
	case r.kind == skipped && end >= maxRecords:
		r.kind, r.both[r.d] = lost, r.n
		f.records = append(f.records, r)
	default:
		f.records = append(f.records, r)
		f.bytes = append(f.bytes, b...)
	}
	first := !f.queued
	f.queued = true
	f.mu.Unlock()
	if first {
		f.w.look(f)
	}
}

// look has the conversation take what has come.
func (f *flow) look() {
	f.mu.Lock()
	records, bytes := f.records, f.bytes
	f.records, f.bytes, f.queued = nil, nil, false
	f.mu.Unlock()
	f.w.mu.Lock()
	defer f.w.mu.Unlock()
	if f.w.store.closed {
		return
	}
	for _, r := range records {
		switch r.kind {
		case data:
			f.talk.data(r.d, bytes[:r.n], r.at)
			bytes = bytes[r.n:]
			f.w.queued.Add(int64(-r.n - recordCost))
		case skipped:
			f.talk.skip(r.d, r.n, r.at)
		case lost:
			f.talk.lost(r.both, r.at)
		case ending:
			f.talk.end(r.d, r.at)
		case ended:
			f.talk.ended(r.err, r.at)
			f.w.leave(f)
		}
	}
}
