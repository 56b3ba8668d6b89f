package httpfilter

import "sync/atomic"

// What one receiver does not take, as a debuggee at a breakpoint does not, must not hold
// up what its sender has for others. So a sender gets its connection's window back for
// what has come: that is kept on loan, and each stream's own window bounds it. Beyond
// these limits the sender gets it back only for what was passed on, and waits.
const (
	maxKept      = 8 << 20  // by one client's connection
	maxKeptByAll = 24 << 20 // by those of an agent
)

// keptByAll is on loan to this agent's connections.
var keptByAll atomic.Int64

// keep has n more bytes of a half kept. c.mu is held.
func (c *conn2) keep(h *half, from *side, n int64) {
	switch {
	case c.kept+n > maxKept:
	case keptByAll.Add(n) > maxKeptByAll:
		keptByAll.Add(-n)
	default:
		c.kept += n
		from.give(n)
		return
	}
	h.owed += n
}

// release has n bytes of a half kept no more. c.mu is held.
func (c *conn2) release(h *half, from *side, n int64) {
	owed := min(n, h.owed)
	h.owed -= owed
	from.give(owed)
	c.kept -= n - owed
	keptByAll.Add(owed - n)
}
