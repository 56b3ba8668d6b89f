package files

import (
	"context"
	"sync"
)

// A count of what has happened, which somebody may wait for.
type count struct {
	mu    sync.Mutex
	n     uint64        // guarded by mu
	ended bool          // guarded by mu; nothing more will happen
	moved chan struct{} // guarded by mu; closed, and nil, when the rest changes; nil: nobody waits
}

func (c *count) add() { c.change(1, false) }
func (c *count) end() { c.change(0, true) }

func (c *count) change(more uint64, end bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += more
	c.ended = c.ended || end
	if c.moved != nil {
		close(c.moved)
		c.moved = nil
	}
}

// reach waits for the n-th, for ctx's end or for that of all.
func (c *count) reach(ctx context.Context, n uint64) {
	for {
		c.mu.Lock()
		if c.n >= n || c.ended {
			c.mu.Unlock()
			return
		}
		if c.moved == nil {
			c.moved = make(chan struct{})
		}
		moved := c.moved
		c.mu.Unlock()
		select {
		case <-moved:
		case <-ctx.Done():
			return
		}
	}
}
