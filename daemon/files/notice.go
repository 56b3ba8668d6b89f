package files

import (
	"context"
	"io"
	"sync"
)

// notices are what the daemon has told the file server without being asked.
type notices struct {
	mu      sync.Mutex
	last    uint64                   // guarded by mu
	waiting map[uint64]chan struct{} // guarded by mu; by number, closed when it is noted; nil: the file server is gone
}

func (n *notices) add() (number uint64, noted <-chan struct{}) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.waiting == nil {
		return 0, nil
	}
	n.last++
	c := make(chan struct{})
	n.waiting[n.last] = c
	return n.last, c
}

func (n *notices) noted(number uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if c := n.waiting[number]; c != nil {
		close(c)
		delete(n.waiting, number)
	}
}

func (n *notices) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, c := range n.waiting {
		close(c)
	}
	n.waiting = nil
}

// notify has the kernel ask for a shared node's attributes anew, and waits until it
// would.
func (a *answerer) notify(ctx context.Context, node uint64) {
	number, noted := a.notices.add()
	if noted == nil {
		return
	}
	b := make([]byte, replyHead, replyHead+noticeSize)
	putReplyHead(b, 0, 0, noticeSize)
	b = le.AppendUint64(le.AppendUint64(b, node), number)
	a.writing.Lock()
	_, _ = a.conn.Write(b) // its failure ends run, and that this
	a.writing.Unlock()
	select {
	case <-noted:
	case <-ctx.Done():
		a.notices.noted(number)
	}
}

// note reads a notice of n bytes. The kernel may wait, to take it, for what only
// receive ends.
func (c *client) note(in io.Reader, n int) error {
	var b [noticeSize]byte
	if n != len(b) {
		return errSize
	}
	if _, err := io.ReadFull(in, b[:]); err != nil {
		return err
	}
	node, number := le.Uint64(b[:]), le.Uint64(b[8:])
	go func() {
		c.changed(node)
		c.send(request{op: opNoted, node: node, off: int64(number)}, 0, 0)
	}()
	return nil
}

// noticed has the kernel forget a shared node's attributes, and no call get those
// that were asked for before.
func (fs *nodes) noticed(id uint64) {
	if n := fs.node(id + firstID); n != nil && n.shared != nil {
		n.shared.changes.Add(1)
		fs.server.InodeNotify(id+firstID, -1, 0)
	}
}
