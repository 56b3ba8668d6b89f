package layer

import (
	"encoding/binary"
	"math"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// Limits of what is kept of the target's files.
const (
	maxKept     = 1 << 14
	maxKeptSize = 64 << 20 // bytes of content
)

// A cache keeps answers about files for as long as the agent's leases on them
// last, so that what was asked once costs no more than a trap. It is as true as
// the agent's word is quick.
type cache struct {
	mu    sync.Mutex
	heard uint64              // guarded by mu; protocol.Expired's Seq
	kept  map[question]*kept  // guarded by mu
	by    map[uint64]question // guarded by mu; by lease
	size  int                 // guarded by mu; of all content
}

type question struct {
	path     string
	noFollow bool
}

// kept is an answer to OpStat, and to OpOpen where whole is set.
type kept struct {
	lease   uint64
	errno   unix.Errno // ENOENT, or 0
	attr    protocol.Attr
	path    string // resolved
	content []byte
	whole   bool // path and content are known
}

// get returns what is known, nil if nothing is.
func (c *cache) get(q question) *kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.kept[q]
}

// ahead keeps the answer to a question that was not asked.
func (c *cache) ahead(r *wire.Reply) {
	var a wire.Ahead
	if a.Decode(r.Data) != nil {
		return
	}
	q := question{a.Path, r.Node&wire.OpenNoFollow != 0}
	k := &kept{attr: r.Attr}
	if r.Node&wire.AheadContent != 0 {
		k.path, k.content, k.whole = a.Resolved, a.Content, true
	} else if old := c.get(q); old != nil {
		return // may know more, and is as true
	}
	c.put(q, r.Lease, k)
}

// put keeps an answer, if it may be kept.
func (c *cache) put(q question, lease protocol.Lease, k *kept) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lease.ID == 0 || lease.Seq < c.heard || len(k.content) > maxKeptSize {
		return
	}
	if c.kept == nil {
		c.kept, c.by = make(map[question]*kept), make(map[uint64]question)
	}
	if old := c.kept[q]; old != nil {
		c.drop(old.lease)
	}
	for id := range c.by { // any: which will be asked for again is not known
		if len(c.kept) < maxKept && c.size+len(k.content) <= maxKeptSize {
			break
		}
		c.drop(id)
	}
	k.lease = lease.ID
	c.kept[q], c.by[lease.ID] = k, q
	c.size += len(k.content)
}

// drop forgets what rests on a lease; mu is held.
func (c *cache) drop(lease uint64) {
	q, ok := c.by[lease]
	if !ok {
		return
	}
	c.size -= len(c.kept[q].content)
	delete(c.kept, q)
	delete(c.by, lease)
}

// end forgets all, for good: nobody says any more what expires.
func (c *cache) end() { c.expired(&wire.Reply{Lease: protocol.Lease{Seq: math.MaxUint64}}) }

// expired takes the daemon's notice of leases.
func (c *cache) expired(r *wire.Reply) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = r.Lease.Seq
	if len(r.Data) == 0 {
		clear(c.kept)
		clear(c.by)
		c.size = 0
	}
	for b := r.Data; len(b) >= 8; b = b[8:] {
		c.drop(binary.LittleEndian.Uint64(b))
	}
}
