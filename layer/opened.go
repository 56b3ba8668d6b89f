package layer

import (
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// Limits of telling the daemon of files that it was not asked for.
const (
	openedEach = 250 * time.Millisecond // openings of a path within are told as one
	maxOpened  = 1 << 10                // paths within
	lastWords  = 100 * time.Millisecond // for the last of them
)

// openings are those that a daemon did not hear of, as they were answered by
// what is kept. While nobody wants to know, one is an atomic load.
type openings struct {
	wanted atomic.Bool

	telling sync.Mutex // held by who tells; the last who does is waited for

	mu   sync.Mutex          // lock order: telling, then mu
	list map[opening]*opened // guarded by mu; nil: nothing is to be told
}

type opening struct {
	path  string
	flags uint32
	errno unix.Errno
}

type opened struct {
	thread uint32
	count  uint32
	size   int64
}

// opened notes that c was answered without the daemon.
func (k *conn) opened(c *call, flags uint32, errno unix.Errno, size int64) {
	o := &k.openings
	if !o.wanted.Load() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.list == nil {
		o.list = make(map[opening]*opened)
		time.AfterFunc(openedEach, k.tellOpened)
	}
	key := opening{c.path, flags, errno}
	if at := o.list[key]; at != nil {
		at.count++
	} else if len(o.list) < maxOpened {
		o.list[key] = &opened{c.TID, 1, size}
	}
}

// tellOpened tells the daemon, which does not answer.
func (k *conn) tellOpened() {
	k.openings.telling.Lock()
	defer k.openings.telling.Unlock()
	k.openings.mu.Lock()
	list := k.openings.list
	k.openings.list = nil
	k.openings.mu.Unlock()
	for o, n := range list {
		q := wire.Request{Op: wire.OpOpened, Seq: n.count, Flags: o.flags, Mode: n.thread, Node: uint64(n.size), Path: o.path}
		if o.errno != 0 {
			q.Flags |= wire.OpenFailed
			q.Node = uint64(o.errno)
		}
		if len(q.Path) > wire.MaxPath {
			continue
		}
		if _, err := k.fast.Write(q.Append(nil)); err != nil {
			return // as its reader will notice
		}
	}
}
