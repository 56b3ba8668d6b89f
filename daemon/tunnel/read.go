package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"mirrord/protocol"
)

// Read reads an opened file from offset off on into p, of at most
// protocol.MaxPayload bytes. Fewer come only at its end.
func (t *Tunnel) Read(ctx context.Context, handle uint64, off int64, p []byte) (n int, err error) {
	exchange := func(s net.Conn) error {
		request := protocol.Read{Handle: handle, Offset: off, Len: len(p)}
		if err := protocol.WriteMessage(s, protocol.KindRead, request, nil); err != nil {
			return fmt.Errorf("sending %v: %w", protocol.KindRead, err)
		}
		n, err = protocol.ReadAnswerTo(p, s, protocol.KindRead, new(protocol.ReadReply))
		return err
	}
	if s := t.readers.take(); s != nil {
		err := do(ctx, s, exchange)
		if err == nil {
			t.readers.put(s)
			return n, nil
		}
		if _, answered := errors.AsType[*protocol.Error](err); answered || ctx.Err() != nil {
			return 0, err
		}
		// Else the agent has closed it, which it may.
	}
	s, err := t.bulk.use(ctx, exchange)
	if err != nil {
		return 0, err
	}
	t.readers.put(s)
	return n, nil
}

const (
	mostReaders = 8
	readersRest = 500 * time.Millisecond
)

// readers are streams of finished reads, kept for the next ones for a moment:
// a new stream would have to grow a buffer for what it receives first.
type readers struct {
	rest time.Duration // after the last one was put back

	mu     sync.Mutex
	idle   []net.Conn  // guarded by mu; the last one was used last
	ending *time.Timer // guarded by mu; closes them all; nil: none was kept yet
	closed bool        // guarded by mu
}

func (r *readers) take() net.Conn {
	r.mu.Lock()
	defer r.mu.Unlock()
	last := len(r.idle) - 1
	if last < 0 {
		return nil
	}
	s := r.idle[last]
	r.idle[last] = nil
	r.idle = r.idle[:last]
	return s
}

// put keeps s, unless there are enough. To close a stream may have to wait for
// the link, and is done without the mutex.
func (r *readers) put(s net.Conn) {
	if !r.keep(s) {
		s.Close()
	}
}

func (r *readers) keep(s net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed || len(r.idle) == mostReaders {
		return false
	}
	r.idle = append(r.idle, s)
	if r.ending == nil {
		r.ending = time.AfterFunc(r.rest, func() { r.end(false) })
	} else {
		r.ending.Reset(r.rest)
	}
	return true
}

// end closes those that are idle, and, if closed, those to come.
func (r *readers) end(closed bool) {
	r.mu.Lock()
	idle := r.idle
	r.idle = nil
	if closed {
		r.closed = true
		if r.ending != nil {
			r.ending.Stop()
		}
	}
	r.mu.Unlock()
	for _, s := range idle {
		s.Close()
	}
}
