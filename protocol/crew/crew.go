// Package crew keeps goroutines for what is to be done next: one that has worked before
// has its stack already. A new one begins with 2 KiB, and each time that is too little
// Go copies it, which takes as long as a system call or two; a short connection pays that
// several times.
package crew

import (
	"sync"
	"sync/atomic"
)

// maxIdle is how many goroutines a crew keeps that have nothing to do.
const maxIdle = 32

// A Crew is a WaitGroup that runs functions in goroutines it keeps. A nil one runs them,
// too, and nobody waits.
type Crew struct {
	sync.WaitGroup
	next chan func()
	idle atomic.Int32
	once sync.Once
	over chan struct{} // closed by Wait
}

// New makes a crew that nobody belongs to yet.
func New() *Crew { return &Crew{next: make(chan func()), over: make(chan struct{})} }

// Go runs f in another goroutine. Beside Wait only what it waits for may call it.
func (c *Crew) Go(f func()) {
	if c == nil {
		go f()
		return
	}
	select {
	case c.next <- f:
	default:
		c.WaitGroup.Go(func() { c.work(f) })
	}
}

func (c *Crew) work(f func()) {
	for {
		f()
		if c.idle.Add(1) > maxIdle {
			c.idle.Add(-1)
			return
		}
		select {
		case f = <-c.next:
			c.idle.Add(-1)
		case <-c.over:
			return
		}
	}
}

// Wait waits until everything has been done. It is the crew's end.
func (c *Crew) Wait() {
	c.once.Do(func() { close(c.over) })
	c.WaitGroup.Wait()
}
