package layer

import (
	"encoding/binary"
	"math"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// Limits of what is kept of the target's files.
const (
	maxKept     = 1 << 14
	maxKeptSize = 64 << 20 // bytes of content
	maxMemfds   = 1 << 10  // at most a quarter of what may be open
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

	limited bool          // guarded by mu; what is kept is kept for limit at most
	limit   time.Duration // guarded by mu

	absent map[attribute]unix.Errno // guarded by mu; what is said of a file that has it not

	memfds map[*kept]int // guarded by mu; of what was opened
	files  *injected     // guarded by mu; those that were given
}

type question struct {
	path     string
	noFollow bool
}

// kept is an answer to OpStat, and to OpOpen where whole is set.
type kept struct {
	lease   uint64
	asked   question
	errno   unix.Errno // ENOENT, or 0
	attr    protocol.Attr
	path    string // resolved
	content []byte
	whole   bool    // path and content are known
	beside  *beside // nil: not known
	since   time.Time
}

// either tells whether the answer is the same whether or not a last link is followed.
func (k *kept) either() bool {
	switch {
	case k.errno != 0:
		return k.asked.noFollow
	case k.asked.noFollow:
		return k.attr.Mode&unix.S_IFMT != unix.S_IFLNK
	}
	return k.whole && k.path == k.asked.path
}

// keep sets how long what is known is kept at most.
func (c *cache) keep(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limited, c.limit = true, limit
}

// get returns what is known, nil if nothing is.
func (c *cache) get(q question) *kept {
	c.mu.Lock()
	defer c.mu.Unlock()
	if k := c.fresh(q); k != nil {
		return k
	}
	q.noFollow = !q.noFollow
	if k := c.fresh(q); k != nil && k.either() {
		return k
	}
	return nil
}

// fresh is called with mu held.
func (c *cache) fresh(q question) *kept {
	k := c.kept[q]
	if k != nil && c.limited && time.Since(k.since) >= c.limit {
		c.drop(k.lease)
		return nil
	}
	return k
}

// ahead keeps the answer to a question that was not asked.
func (c *cache) ahead(r *wire.Reply) {
	var a wire.Ahead
	if a.Decode(r.Data) != nil {
		return
	}
	q := question{a.Path, r.Node&wire.OpenNoFollow != 0}
	k := &kept{attr: r.Attr}
	text := k.told(r.Flags, []byte(a.Resolved))
	if r.Node&wire.AheadContent != 0 {
		k.path, k.content, k.whole = text, a.Content, true
	} else if old := c.get(q); old != nil {
		return // may know more, and is as true
	}
	c.put(q, r.Lease, k)
}

// open opens k's content anew. It is made a file once, not each time.
func (c *cache) open(k *kept, t *injected) (int, error) {
	f := &file{path: k.path, attr: k.attr}
	c.mu.Lock()
	defer c.mu.Unlock()
	if memfd, ok := c.memfds[k]; ok {
		return t.openMemfd(memfd, f)
	}
	memfd, err := newFollowable(k.content)
	if err != nil {
		return -1, err
	}
	fd, err := t.openMemfd(memfd, f)
	if err != nil {
		unix.Close(memfd)
		return fd, err
	}
	c.files = t
	if c.kept[k.asked] != k {
		c.files.leave(k, memfd)
		return fd, nil
	}
	c.addMemfd(k, memfd)
	return fd, nil
}

// adopt puts a followed file into the cache, under a lease. False: it may not be kept.
func (c *cache) adopt(k *kept, asked question, lease protocol.Lease, memfd int, t *injected) bool {
	c.put(asked, lease, k)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.kept[asked] != k {
		return false
	}
	c.files = t
	c.addMemfd(k, memfd)
	return true
}

// addMemfd is called with mu held.
func (c *cache) addMemfd(k *kept, memfd int) {
	for old := range c.memfds { // any, as in put
		if len(c.memfds) < memfdsHere() {
			break
		}
		c.closeMemfd(old)
	}
	if c.memfds == nil {
		c.memfds = make(map[*kept]int)
	}
	c.memfds[k] = memfd
}

// memfdsHere is how many a cache may have.
var memfdsHere = sync.OnceValue(func() int {
	var limit unix.Rlimit
	if unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) != nil {
		return 1
	}
	return int(min(maxMemfds, limit.Cur/4+1))
})

// closeMemfd is called with mu held.
func (c *cache) closeMemfd(k *kept) {
	if memfd, ok := c.memfds[k]; ok {
		delete(c.memfds, k)
		c.files.leave(k, memfd)
	}
}

// put keeps an answer, if it may be kept.
func (c *cache) put(q question, lease protocol.Lease, k *kept) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if lease.ID == 0 || lease.Seq < c.heard || c.limited && c.limit == 0 || len(k.content) > maxKeptSize {
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
	k.lease, k.asked = lease.ID, q
	if c.limited {
		k.since = time.Now()
	}
	c.kept[q], c.by[lease.ID] = k, q
	c.size += len(k.content)
}

// drop forgets what rests on a lease; mu is held.
func (c *cache) drop(lease uint64) {
	q, ok := c.by[lease]
	if !ok {
		return
	}
	k := c.kept[q]
	c.size -= len(k.content)
	c.closeMemfd(k)
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
		for k := range c.memfds {
			c.closeMemfd(k)
		}
		clear(c.kept)
		clear(c.by)
		clear(c.absent)
		c.size = 0
	}
	for b := r.Data; len(b) >= 8; b = b[8:] {
		c.drop(binary.LittleEndian.Uint64(b))
	}
}
