package files

import (
	"cmp"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// A pool reads from the daemon into the slots of an arena.
type pool struct {
	to      *client
	arena   arena
	timeout time.Duration
	used    atomic.Int32 // reads since the last trim
	resting *time.Timer  // until memory is given back

	mu    sync.Mutex
	free  []uint32      // guarded by mu; the slots that nobody uses
	count chan struct{} // as many as there are in free, or on their way there

	// want is told when somebody begins (+1) and ends (-1) to wait for a slot.
	want func(int)
}

func newPool(to *client, shared arena, timeout time.Duration) *pool {
	p := &pool{to: to, arena: shared, timeout: timeout, count: make(chan struct{}, slots)}
	p.resting = time.AfterFunc(rest, p.trim)
	for i := range uint32(slots) {
		p.put(i)
	}
	return p
}

// put gives a slot back. The last one is the next to be used: few of them, which
// the processor's cache holds, do for a reader.
func (p *pool) put(slot uint32) {
	p.mu.Lock()
	p.free = append(p.free, slot)
	p.mu.Unlock()
	p.count <- struct{}{}
}

// pop is for whoever has received from count.
func (p *pool) pop() uint32 {
	p.mu.Lock()
	defer p.mu.Unlock()
	last := len(p.free) - 1
	slot := p.free[last]
	p.free = p.free[:last]
	return slot
}

// busy tells whether reads that nobody waits for had better not be begun.
func (p *pool) busy() bool { return len(p.count) < slots/2 }

// read reads as r asks, but waits no longer than the timeout. Without an error
// the slot with the data is the caller's, who puts it back into free.
func (p *pool) read(r request) (data []byte, slot uint32, errno syscall.Errno) {
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	if slot, errno = p.take(timer.C, nil); errno != 0 {
		return nil, 0, errno
	}
	answer := p.to.ask(r, slot)
	select {
	case a := <-answer:
		if a.errno != 0 || a.n > int(r.n) {
			p.put(slot)
			return nil, 0, cmp.Or(a.errno, syscall.EIO)
		}
		return p.arena.slot(slot)[:a.n], slot, 0
	case <-timer.C:
		go func() { // until then the daemon may write to it
			<-answer
			p.put(slot)
		}()
		return nil, 0, syscall.EIO
	}
}

// take waits for a slot. EINTR: until the caller was interrupted.
func (p *pool) take(timeout <-chan time.Time, interrupt <-chan struct{}) (uint32, syscall.Errno) {
	p.used.Add(1)
	select {
	case <-p.count:
		return p.pop(), 0
	default:
	}
	p.want(1)
	defer p.want(-1)
	select {
	case <-p.count:
		return p.pop(), 0
	case <-timeout:
		return 0, syscall.EIO
	case <-interrupt:
		return 0, syscall.EINTR
	}
}

// rest is how long after a file was closed memory is still kept for the next one.
const rest = time.Second

// closed tells that a file was closed.
func (p *pool) closed() { p.resting.Reset(rest) }

// trim gives the arena's memory back to the system if nobody uses it and it
// was used enough to be worth it.
func (p *pool) trim() {
	if p.used.Load() < slots/4 || len(p.count) < slots {
		return
	}
	held := 0 // so that nobody begins to use one
	for held < slots && len(p.count) > 0 {
		select {
		case <-p.count:
			held++
		default:
		}
	}
	if held == slots {
		p.arena.trim()
		p.used.Store(0)
	}
	for range held {
		p.count <- struct{}{}
	}
}
