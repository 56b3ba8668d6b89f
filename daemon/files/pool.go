package files

import (
	"cmp"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A pool reads from the daemon into the slots of an arena.
type pool struct {
	to      *client
	arena   arena
	timeout time.Duration
	free    chan uint32  // the slots that nobody uses
	used    atomic.Int32 // reads since the last trim

	// want is told when somebody begins (+1) and ends (-1) to wait for a slot.
	want func(int)
}

func newPool(to *client, shared arena, timeout time.Duration) *pool {
	p := &pool{to: to, arena: shared, timeout: timeout, free: make(chan uint32, slots)}
	for i := range uint32(slots) {
		p.free <- i
	}
	return p
}

// busy tells whether reads that nobody waits for had better not be begun.
func (p *pool) busy() bool { return len(p.free) < slots/2 }

// read reads as r asks, but waits no longer than the timeout. Without an error
// the slot with the data is the caller's, who puts it back into free.
func (p *pool) read(r request) (data []byte, slot uint32, errno syscall.Errno) {
	timer := time.NewTimer(p.timeout)
	defer timer.Stop()
	slot, ok := p.take(timer.C)
	if !ok {
		return nil, 0, syscall.EIO
	}
	p.used.Add(1)
	answer := p.to.ask(r, slot)
	select {
	case a := <-answer:
		if a.errno != 0 || a.n > int(r.n) {
			p.free <- slot
			return nil, 0, cmp.Or(a.errno, syscall.EIO)
		}
		return p.arena.slot(slot)[:a.n], slot, 0
	case <-timer.C:
		go func() { // until then the daemon may write to it
			<-answer
			p.free <- slot
		}()
		return nil, 0, syscall.EIO
	}
}

func (p *pool) take(timeout <-chan time.Time) (uint32, bool) {
	select {
	case slot := <-p.free:
		return slot, true
	default:
	}
	p.want(1)
	defer p.want(-1)
	select {
	case slot := <-p.free:
		return slot, true
	case <-timeout:
		return 0, false
	}
}

// trim gives the arena's memory back to the system if nobody uses it and it
// was used enough to be worth it.
func (p *pool) trim() {
	if p.used.Load() < slots/4 || len(p.free) < slots {
		return
	}
	var held []uint32 // so that nobody begins to use one
	for len(held) < slots && len(p.free) > 0 {
		select {
		case slot := <-p.free:
			held = append(held, slot)
		default:
		}
	}
	if len(held) == slots {
		unix.Madvise(p.arena, unix.MADV_REMOVE)
		p.used.Store(0)
	}
	for _, slot := range held {
		p.free <- slot
	}
}
