package files

import (
	"container/list"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

const (
	maxRead   = slotSize // of one READ of the kernel
	blockSize = 64 << 10 // what a fetch is made of
	maxRun    = slotSize / blockSize
	maxAhead  = 128 // blocks fetched ahead of a sequential reader
)

// A cache holds what was fetched of regular files and not yet read. What was
// read is in the kernel's page cache.
type cache struct {
	pool *pool

	mu   sync.Mutex
	runs *list.List // guarded by mu; of the *run that hold a slot, the oldest in front
	want int        // guarded by mu; reads that wait for a slot
}

// A content is one regular file in the cache.
type content struct {
	node uint64
	most int64 // blocks that are fetched ahead

	// guarded by cache.mu
	size   int64
	blocks map[int64]*run
	next   int64 // where the last read ended
	streak int   // reads that began where the one before ended
	closed bool
}

// A run is a fetch of consecutive blocks.
type run struct {
	fetch
	of    *content
	first int64 // block
	count int64
	slot  uint32

	// guarded by cache.mu
	stale bool          // the file has changed since it began
	left  int           // bytes not read yet
	users int           // the cache, and those who read the data; the last one frees the slot
	elem  *list.Element // in cache.runs
}

func newCache(p *pool) *cache {
	c := &cache{pool: p, runs: list.New()}
	p.want = c.wanted
	return c
}

func newContent(node uint64, size int64) *content {
	return &content{node: node, size: size, most: maxAhead, blocks: make(map[int64]*run)}
}

// blocksAhead are those that hold so many bytes; -1: as many as make sense.
func blocksAhead(bytes int64) int64 {
	if bytes < 0 {
		return maxAhead
	}
	return min((bytes+blockSize-1)/blockSize, maxAhead)
}

// read answers a READ of at most n bytes at off. EINTR: the reader was interrupted.
func (c *cache) read(interrupt <-chan struct{}, f *content, off int64, n int) (*parts, syscall.Errno) {
	p := &parts{cache: c}
	end := off + int64(n)
	if p.runs, end = c.plan(f, off, end); len(p.runs) == 0 {
		return new(parts), 0
	}
	for _, r := range p.runs {
		if !r.wait(interrupt) {
			p.Done()
			return nil, syscall.EINTR
		}
		if r.errno != 0 {
			p.Done()
			return nil, r.errno
		}
	}
	for _, r := range p.runs {
		begin, have := r.first*blockSize, int64(len(r.data))
		from, to := min(off-begin, have), min(end-begin, have)
		p.data = append(p.data, r.data[from:to])
		off = begin + to
		if to < min(r.count*blockSize, end-begin) {
			break // the file has become shorter
		}
	}
	return p, 0
}

// plan returns the fetches that hold [off, end), as far as the file goes, beginning
// those that are missing and, for a sequential reader, those that it will need next.
// The caller becomes a user of them.
func (c *cache) plan(f *content, off, end int64) ([]*run, int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if end = min(end, f.size); off >= end {
		return nil, end
	}
	switch {
	case off <= f.next && f.next < end:
		f.streak++
		f.next = end
	case off >= f.next-maxRead && end <= f.next:
		// An interrupted read that is tried again, or a second reader.
	default:
		f.streak = 0
		f.next = end
	}
	var runs []*run
	last := (end - 1) / blockSize
	for b := off / blockSize; b <= last; {
		r := f.blocks[b]
		if r == nil {
			r = c.begin(f, b, last)
		}
		r.users++
		runs = append(runs, r)
		b = r.first + r.count
	}
	c.ahead(f, last, end-off > blockSize)
	return runs, end
}

// changed forgets what was fetched of a file, or is on its way: it is of so many
// bytes now, and what was its end may be in the middle of a block.
func (c *cache) changed(f *content, size int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.size = size
	for b, r := range f.blocks {
		r.stale = true
		c.drop(r)
		delete(f.blocks, b)
	}
}

// ahead fetches what follows block last, more the longer the reader has been
// sequential, and sooner if it reads much at a time. It waits until a worthwhile
// part is missing. c.mu is held.
func (c *cache) ahead(f *content, last int64, much bool) {
	if f.streak == 0 || f.most == 0 || c.pool.busy() {
		return
	}
	steps := f.streak
	if much {
		steps *= 2
	}
	window := min(int64(1)<<min(steps, 10), f.most)
	eof := (f.size - 1) / blockSize
	end := min(last+window, eof)
	b := last + 1
	for b <= end && f.blocks[b] != nil {
		b++
	}
	if missing := end + 1 - b; missing < min(window/4, maxRun) && end < eof {
		return
	}
	for b <= end {
		r := f.blocks[b]
		if r == nil {
			r = c.begin(f, b, end)
		}
		b = r.first + r.count
	}
}

// begin fetches the missing blocks from first on, up to last or as many as a
// slot holds. c.mu is held.
func (c *cache) begin(f *content, first, last int64) *run {
	n := int64(1)
	for n < maxRun && first+n <= last && f.blocks[first+n] == nil {
		n++
	}
	r := &run{fetch: fetch{done: make(chan struct{})}, of: f, first: first, count: n, users: 1}
	for b := first; b < first+n; b++ {
		f.blocks[b] = r
	}
	off := first * blockSize
	want := min(n*blockSize, f.size-off)
	go func() {
		r.data, r.slot, r.errno = c.pool.read(request{op: opRead, node: f.node, off: off, n: uint32(want)})
		c.keep(r)
		close(r.done)
	}()
	return r
}

// keep puts a finished fetch into the cache.
func (c *cache) keep(r *run) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.left = len(r.data)
	r.elem = c.runs.PushBack(r)
	if r.errno != 0 || r.of.closed || r.stale {
		c.drop(r)
	} else if c.want > 0 {
		c.drop(c.runs.Front().Value.(*run))
	}
}

// wanted makes room for a read that waits for a slot.
func (c *cache) wanted(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.want += n
	if oldest := c.runs.Front(); n > 0 && oldest != nil {
		c.drop(oldest.Value.(*run))
	}
}

// drop takes a finished fetch out of the cache. c.mu is held.
func (c *cache) drop(r *run) {
	if r.elem == nil {
		return
	}
	c.runs.Remove(r.elem)
	r.elem = nil
	for b := r.first; b < r.first+r.count; b++ {
		if r.of.blocks[b] == r {
			delete(r.of.blocks, b)
		}
	}
	c.leave(r)
}

// leave ends one use of a fetch. c.mu is held.
func (c *cache) leave(r *run) {
	if r.users--; r.users == 0 && r.errno == 0 {
		c.pool.put(r.slot)
	}
}

// close forgets a file. What is still on its way is dropped when it comes.
func (c *cache) close(f *content) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f.closed = true
	for _, r := range f.blocks {
		c.drop(r)
	}
}

// parts are the data of one READ, in the slots that hold them until Done. They
// are a fuse.ReadResult that is written without a copy.
type parts struct {
	cache *cache
	runs  []*run
	data  [][]byte // of runs, from the first on
}

func (p *parts) Slices() ([][]byte, fuse.Status) { return p.data, fuse.OK }

func (p *parts) Bytes(buf []byte) ([]byte, fuse.Status) {
	return slices.Concat(p.data...), fuse.OK
}

func (p *parts) Size() (n int) {
	for _, d := range p.data {
		n += len(d)
	}
	return n
}

// Done notes that the data are now in the kernel's page cache.
func (p *parts) Done() {
	if p.cache == nil {
		return
	}
	p.cache.mu.Lock()
	defer p.cache.mu.Unlock()
	for i, r := range p.runs {
		if i < len(p.data) {
			if r.left -= len(p.data[i]); r.left <= 0 {
				p.cache.drop(r)
			}
		}
		p.cache.leave(r)
	}
}
