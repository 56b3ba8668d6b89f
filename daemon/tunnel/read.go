package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"mirrord/protocol"
)

// Read reads an opened file from offset off on into p, of at most
// protocol.MaxPayload bytes. Fewer come only at its end. Nobody writes to p once
// it has returned.
func (t *Tunnel) Read(ctx context.Context, handle uint64, off int64, p []byte) (int, error) {
	for ctx.Err() == nil {
		r := &reading{to: p, asking: true, done: make(chan struct{})}
		l, err := t.enter(laneOf(off, len(p)), r)
		if err != nil {
			return 0, err
		}
		stop := context.AfterFunc(ctx, func() { t.lanes.leave(l, r, context.Cause(ctx)) })
		request := protocol.Read{ID: r.id, Handle: handle, Offset: off, Len: len(p)}
		if err := protocol.WriteMessage(l.stream, protocol.KindRead, request, nil); err != nil {
			_ = l.stream.SetReadDeadline(time.Unix(1, 0)) // who reads it ends r
		}
		t.lanes.asked(r)
		<-r.done
		stop()
		if r.err != errGivenUp {
			return r.n, r.err
		}
	}
	return 0, context.Cause(ctx)
}

// Lanes: one for small reads, which do not wait behind big ones, and for these two,
// as one is filled while the other's window is opened.
const (
	lanesOpen   = 3
	bigRead     = protocol.MaxPayload / 4
	readersRest = 500 * time.Millisecond
)

func laneOf(off int64, size int) int {
	if size < bigRead {
		return 0
	}
	return 1 + int(off/protocol.MaxPayload%2)
}

// errGivenUp: a lane ended because somebody's context did.
var errGivenUp = errors.New("a read of the same stream was given up")

// lanes are the streams of reads, each open while it has some, and for a moment
// longer. They are few because what a stream receives is buffered, in memory that
// grows to what came at once.
type lanes struct {
	rest time.Duration // after the last read

	mu   sync.Mutex
	open [lanesOpen]*lane // guarded by mu; nil: is not
}

// A lane is a stream of reads.
//
// Goroutines: one puts the answers where they belong, and ends with the stream.
type lane struct {
	stream  net.Conn
	last    uint64              // guarded by lanes.mu; id
	under   map[uint64]*reading // guarded by lanes.mu; by id
	resting *time.Timer         // until it is closed
	gaveUp  bool                // guarded by lanes.mu
}

// A reading is a read under way.
type reading struct {
	to     []byte
	id     uint64
	asking bool          // guarded by lanes.mu; the request is not written yet
	filled bool          // guarded by lanes.mu; the answer is being put into to
	done   chan struct{} // closed with what follows
	n      int
	err    error
}

// enter adds r to a lane, which it opens if need be.
func (t *Tunnel) enter(i int, r *reading) (*lane, error) {
	ls := &t.lanes
	if l := ls.join(i, r, nil); l != nil {
		return l, nil
	}
	s, err := t.bulk.mux.OpenStream() // which may have to wait for the link
	if err != nil {
		return nil, fmt.Errorf("opening stream: %w", err)
	}
	l := &lane{stream: s, under: make(map[uint64]*reading)}
	joined := ls.join(i, r, l)
	if joined != l { // another reader was sooner
		s.Close()
	} else if !t.begin(func() { t.answers(l) }) {
		ls.lose(l, net.ErrClosed)
		s.Close()
	}
	return joined, nil
}

// join adds r to a lane: the open one, or else l, unless that is nil.
func (ls *lanes) join(i int, r *reading, l *lane) *lane {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case ls.open[i] != nil:
		l = ls.open[i]
	case l == nil:
		return nil
	default:
		ls.open[i] = l
		l.resting = time.AfterFunc(ls.rest, func() { ls.end(l) })
	}
	l.resting.Stop()
	l.last++
	r.id = l.last
	l.under[r.id] = r
	return l
}

// asked notes that a request is on its way.
func (ls *lanes) asked(r *reading) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	r.asking = false
}

// leave ends a reading that nobody waits for any more. While the stream is used for
// it that ends, too: the link may be cut.
func (ls *lanes) leave(l *lane, r *reading, why error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	switch {
	case l.under[r.id] != r:
	case r.asking || r.filled:
		l.gaveUp = true
		ls.forget(l)
		_ = l.stream.SetDeadline(time.Unix(1, 0))
	default:
		ls.finish(l, r, 0, why)
	}
}

// finish ends a reading. ls.mu is held.
func (ls *lanes) finish(l *lane, r *reading, n int, err error) {
	delete(l.under, r.id)
	if len(l.under) == 0 {
		l.resting.Reset(ls.rest)
	}
	r.n, r.err = n, err
	close(r.done)
}

// end closes a lane that rests.
func (ls *lanes) end(l *lane) {
	ls.mu.Lock()
	resting := len(l.under) == 0
	if resting {
		ls.forget(l)
	}
	ls.mu.Unlock()
	if resting {
		l.stream.Close()
	}
}

// forget has the next reads open another. ls.mu is held.
func (ls *lanes) forget(l *lane) {
	for i := range ls.open {
		if ls.open[i] == l {
			ls.open[i] = nil
		}
	}
}

// answers hands out answers until the stream ends, and then its error.
func (t *Tunnel) answers(l *lane) {
	var err error
	for err == nil {
		err = t.lanes.answer(l)
	}
	t.lanes.lose(l, err)
	l.stream.Close() // which may have to wait for the link
}

// lose ends a lane and its readings.
func (ls *lanes) lose(l *lane, err error) {
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.forget(l)
	if err == io.EOF { // which would be that of a file
		err = io.ErrUnexpectedEOF
	}
	err = fmt.Errorf("reading answer to %v: %w", protocol.KindRead, err)
	if l.gaveUp {
		err = errGivenUp
	}
	for _, r := range l.under {
		ls.finish(l, r, 0, err)
	}
	l.resting.Stop()
}

// answer reads one answer.
func (ls *lanes) answer(l *lane) error {
	kind, header, size, err := protocol.ReadHead(l.stream)
	if err != nil {
		return err
	}
	var reply protocol.ReadReply
	failure := new(protocol.Error)
	id := &reply.ID
	switch kind {
	case protocol.KindRead:
		err = json.Unmarshal(header, &reply)
	case protocol.KindError:
		err = json.Unmarshal(header, failure)
		id = &failure.ID
	default:
		err = fmt.Errorf("it is of kind %v", kind)
	}
	if err != nil {
		return err
	}
	ls.mu.Lock()
	r := l.under[*id]
	if r != nil && kind == protocol.KindError {
		ls.finish(l, r, 0, failure)
		r = nil
	}
	if r != nil {
		r.filled = true
	}
	ls.mu.Unlock()
	if r == nil {
		_, err := io.CopyN(io.Discard, l.stream, int64(size))
		return err
	}
	if size > len(r.to) {
		return protocol.ErrFrameSize
	}
	if _, err := io.ReadFull(l.stream, r.to[:size]); err != nil {
		return err
	}
	ls.mu.Lock()
	defer ls.mu.Unlock()
	ls.finish(l, r, size, nil)
	return nil
}
