package capture

import (
	"errors"
	"slices"
	"time"
)

// Limits of what an assembly keeps that came before its turn.
const (
	maxEarly     = 1 << 20 // bytes, each segment counted with what it costs
	earlyCost    = 64
	earlyAllowed = 3 * time.Second // a sender repeats sooner what its receiver lacks
)

// ErrGap: bytes were missed that their receiver has got.
var ErrGap = errors.New("packets were missed")

// An Assembly puts one direction of a connection together again.
type Assembly struct {
	first uint32 // its first byte's sequence number
	next  uint32 // the one that is due
	early []piece
	size  int       // of early, with costs
	since time.Time // when the present gap was seen

	end   uint32 // good if ended
	ended bool
}

// A piece is what came before its turn.
type piece struct {
	seq   uint32
	bytes []byte
}

// NewAssembly begins a direction with the segment that asked for the connection.
func NewAssembly(syn Segment) *Assembly {
	return &Assembly{first: syn.Seq + 1, next: syn.Seq + 1}
}

// before compares sequence numbers, which start over at 0.
func before(a, b uint32) bool { return int32(a-b) < 0 }

// Add takes a segment, and gives what is in order by it to emit, which must
// not keep it. done: that was all.
func (a *Assembly) Add(s Segment, now time.Time, emit func([]byte)) (done bool, err error) {
	seq := s.Seq
	if s.Begins() {
		seq++ // the request itself counts
	}
	if s.Ends() {
		a.end, a.ended = seq+uint32(len(s.Payload)), true
	}
	if before(a.next, seq) && len(s.Payload) > 0 {
		if err := a.keep(piece{seq, s.Payload}, now); err != nil {
			return false, err
		}
	} else {
		a.take(piece{seq, s.Payload}, emit)
	}
	for len(a.early) > 0 && !before(a.next, a.early[0].seq) {
		p := a.early[0]
		a.early = slices.Delete(a.early, 0, 1)
		a.size -= len(p.bytes) + earlyCost
		a.take(p, emit)
		a.since = now
	}
	return a.ended && !before(a.next, a.end), nil
}

// take emits what is new of a piece whose turn it is.
func (a *Assembly) take(p piece, emit func([]byte)) {
	old := a.next - p.seq
	if int64(old) >= int64(len(p.bytes)) {
		return
	}
	emit(p.bytes[old:])
	a.next += uint32(len(p.bytes)) - old
}

// keep copies a piece until its turn.
func (a *Assembly) keep(p piece, now time.Time) error {
	if len(a.early) == 0 {
		a.since = now
	}
	at, found := slices.BinarySearchFunc(a.early, p, func(x, y piece) int { return int(int32(x.seq - y.seq)) })
	if found && len(a.early[at].bytes) >= len(p.bytes) {
		return nil
	}
	a.size += len(p.bytes) + earlyCost
	if a.size > maxEarly {
		return ErrGap
	}
	p.bytes = slices.Clone(p.bytes)
	a.early = slices.Insert(a.early, at, p)
	return nil
}

// Stale reports whether bytes are overdue for so long that they will not come.
func (a *Assembly) Stale(now time.Time) bool {
	return len(a.early) > 0 && now.Sub(a.since) > earlyAllowed
}

// Lacks reports whether some of the bytes that the receiver has are still to come, less
// than 2 GiB of them.
func (a *Assembly) Lacks(received uint64) bool { return before(a.next, a.first+uint32(received)) }
