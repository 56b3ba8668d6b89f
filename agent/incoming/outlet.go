package incoming

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/protocol"
)

// Limits of what waits for the holders of mirrors, in bytes.
const (
	maxOutlet   = 16 << 20
	maxBuffered = 64 << 20 // of all outlets
	pieceCost   = 64       // of keeping a piece
)

// An outlet is one copy of a mirrored connection on its way to a holder. It
// buffers what the holder has not read, and ends where that is too much.
type outlet struct {
	steal  *Steal
	total  *atomic.Int64
	wake   chan struct{}   // holds one where there is something to do
	ctx    context.Context // good while the copy may be given
	cancel context.CancelCauseFunc

	record *record

	mu    sync.Mutex
	queue [][]byte // guarded by mu
	size  int      // of queue, with costs; guarded by mu
	ended bool     // nothing more comes; guarded by mu
	err   error    // why, nil for the connection's own end; guarded by mu
}

func newOutlet(s *Steal, r *record, total *atomic.Int64) *outlet {
	o := &outlet{steal: s, record: r, total: total, wake: make(chan struct{}, 1)}
	o.ctx, o.cancel = context.WithCancelCause(s.in.life)
	return o
}

// Push adds bytes. It never waits.
func (o *outlet) Push(b []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.ended {
		return
	}
	cost := len(b) + pieceCost
	if o.size+cost > maxOutlet || o.total.Load()+int64(cost) > maxBuffered {
		o.end(errSlow)
		return
	}
	o.queue = append(o.queue, b)
	o.record.Sends(b)
	o.size += cost
	o.total.Add(int64(cost))
	o.signal()
}

// End ends the copy; an error other than nil ends it as a reset does.
func (o *outlet) End(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !o.ended {
		o.end(err)
	}
}

func (o *outlet) end(err error) {
	o.ended, o.err = true, err
	if err != nil {
		o.steal.cut(err)
		o.drop()
		o.cancel(err) // also whoever is writing
	}
	o.signal()
}

// drop forgets what waits. The caller has mu.
func (o *outlet) drop() {
	o.total.Add(-int64(o.size))
	o.queue, o.size = nil, 0
}

func (o *outlet) signal() {
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// Over reports whether the copy is over.
func (o *outlet) Over() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended
}

// A chunk of bytes that wait, while it is written.
type chunk [64 << 10]byte

var chunks = sync.Pool{New: func() any { return new(chunk) }}

// write waits for bytes and writes a chunk of them. io.EOF: the connection's
// own end was written.
func (o *outlet) write(stream io.Writer) error {
	select {
	case <-o.wake:
	case <-o.ctx.Done():
		return context.Cause(o.ctx)
	}
	b := chunks.Get().(*chunk)
	defer chunks.Put(b)
	for {
		n, err := o.take(b[protocol.ChunkHead:])
		if n == 0 && err == nil {
			return nil
		}
		if err != nil && err != io.EOF {
			return err
		}
		binary.BigEndian.PutUint32(b[:], uint32(n)) // 0 is the end
		if _, failed := stream.Write(b[:protocol.ChunkHead+n]); failed != nil || err != nil {
			return cmp.Or(context.Cause(o.ctx), failed, err)
		}
	}
}

// take fills buf with what waits.
func (o *outlet) take(buf []byte) (n int, err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	freed := 0
	for n < len(buf) && len(o.queue) > 0 {
		m := copy(buf[n:], o.queue[0])
		n += m
		freed += m
		if o.queue[0] = o.queue[0][m:]; len(o.queue[0]) == 0 {
			o.queue[0] = nil
			o.queue = o.queue[1:]
			freed += pieceCost
		}
	}
	o.size -= freed
	o.total.Add(-int64(freed))
	switch {
	case o.err != nil:
		return 0, o.err
	case n == 0 && o.ended:
		return 0, io.EOF
	}
	return n, nil
}

// run offers the connection to its holder and gives him the copy. What his
// debuggee answers is read and dropped.
func (o *outlet) run(k flowKey) {
	o.record.begin()
	defer o.cancel(nil)
	err := o.give(protocol.Incoming{Port: k.pod.Port(), Client: k.client, Local: k.pod})
	o.End(err)
	o.record.end(err)
	o.mu.Lock()
	defer o.mu.Unlock()
	o.drop() // where the connection ended before its copy could
}

func (o *outlet) give(offer protocol.Incoming) error {
	if o.steal.filter != nil {
		return o.choose(offer)
	}
	stream, _, err := o.steal.offer(offer, said{})
	if err != nil {
		return err
	}
	o.record.had(o.steal)
	return o.copy(stream)
}

// copy returns when the debuggee has ended its side, or the copy has failed.
func (o *outlet) copy(stream net.Conn) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer o.cancel(nil)
	defer context.AfterFunc(o.steal.life, func() { o.cancel(context.Cause(o.steal.life)) })()
	context.AfterFunc(o.ctx, func() { // Close alone does not wake who reads or writes
		stream.Close()
		_ = stream.SetDeadline(time.Unix(1, 0))
	})
	wg.Go(func() {
		_, _ = io.Copy(io.Discard, stream)
		o.cancel(errHolderEnded)
	})
	for {
		switch err := o.write(stream); err {
		case nil:
		case io.EOF:
			<-o.ctx.Done() // the holder's end
			return nil
		default:
			return err
		}
	}
}

var errHolderEnded = errors.New("the holder has ended it")
