package session

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/files"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
)

// nodes are the files of all sessions that the file server shows.
type nodes struct {
	log      *slog.Logger
	patience time.Duration
	closing  sync.WaitGroup // what is done at the end of shared ones

	mu         sync.Mutex // lock order: mu, then shared.mu
	last       uint64
	open       map[uint64]*node      // guarded by mu
	shared     map[sharedKey]*shared // guarded by mu; those open for writing
	sharedByID map[uint64]*shared    // guarded by mu
	numbers    map[uint64]*number    // guarded by mu; that such may be opened by
	ending     map[*shared]bool      // guarded by mu; nobody has them, but something may be on its way
	changes    uint64                // guarded by mu; how many have been made to files by their names, or so
}

type node struct {
	tunnel *tunnel.Tunnel
	handle uint64
	owner  *launcher
	added  time.Time
	change bool          // its attributes may be set
	attr   protocol.Attr // guarded by nodes.mu
	told   time.Time     // guarded by nodes.mu; attr was, by the agent
	at     uint64        // guarded by nodes.mu; how many changes had been made then
	seen   bool          // guarded by nodes.mu; the file server has asked for it, and will tell of its end
	first  *beginning    // guarded by nodes.mu; the begin of a directory as it was opened, until it is read

	opening uint64 // how many changes had been made when it was added
}

type beginning struct {
	list []protocol.DirEntry
	more bool
}

func newNodes(log *slog.Logger) *nodes {
	return &nodes{log: log, patience: patience, open: map[uint64]*node{}, shared: map[sharedKey]*shared{}, sharedByID: map[uint64]*shared{}, numbers: map[uint64]*number{}, ending: map[*shared]bool{}}
}

func (n *nodes) add(owner *launcher, t *tunnel.Tunnel, o protocol.OpenReply, first *beginning, change bool) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	n.open[n.last] = &node{tunnel: t, handle: o.Handle, owner: owner, added: time.Now(), change: change, attr: o.Attr, told: time.Now(), at: n.changes, first: first, opening: n.changes}
	return n.last
}

func (n *nodes) get(id uint64) (*node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.open[id]; f != nil {
		return f, nil
	}
	return nil, unix.ESTALE
}

// Attr tells the file server of a node.
func (n *nodes) Attr(ctx context.Context, id uint64) (protocol.Attr, error) {
	if s := n.sharedNode(id); s != nil {
		return s.kernelAttr(ctx)
	}
	f, err := n.get(id)
	if err != nil {
		return protocol.Attr{}, err
	}
	n.mu.Lock()
	f.seen = true
	n.mu.Unlock()
	return n.attr(ctx, id)
}

// Ahead tells the file server how much to read ahead of a node's readers.
func (n *nodes) Ahead(id uint64) (bytes int64, limited bool) {
	f, err := n.get(id)
	if err != nil || f.owner == nil || f.owner.s == nil {
		return 0, false
	}
	s := f.owner.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config == nil || s.config.FS.ReadAhead == nil {
		return 0, false
	}
	return int64(*s.config.FS.ReadAhead), true
}

// Read fills p from off on, unless the file ends before.
func (n *nodes) Read(ctx context.Context, id uint64, p []byte, off int64) (int, error) {
	if s := n.sharedNode(id); s != nil {
		return s.readAt(ctx, p, off)
	}
	f, err := n.get(id)
	if err != nil {
		return 0, err
	}
	return f.read(ctx, p, off)
}

// read fills p from off on, unless the file ends before.
func (f *node) read(ctx context.Context, p []byte, off int64) (int, error) {
	total := 0
	for total < len(p) {
		want := min(len(p)-total, protocol.MaxPayload)
		n, err := f.tunnel.Read(ctx, f.handle, off+int64(total), p[total:total+want])
		if err != nil {
			return total, err
		}
		total += n
		if n < want {
			break
		}
	}
	return total, nil
}

// ReadDir returns entries from off on.
func (n *nodes) ReadDir(ctx context.Context, id uint64, off int) ([]protocol.DirEntry, bool, error) {
	f, err := n.get(id)
	if err != nil {
		return nil, false, err
	}
	if l := n.opened(f); l != nil && off == 0 {
		return l.list, l.more, nil
	}
	return f.readDir(ctx, off)
}

// opened gives the listing that came with the opening, once, if it is still as good
// as a new one.
func (n *nodes) opened(f *node) *beginning {
	n.mu.Lock()
	defer n.mu.Unlock()
	l := f.first
	f.first = nil
	if f.opening != n.changes || time.Since(f.added) >= files.SharedTime {
		return nil
	}
	return l
}

func (f *node) readDir(ctx context.Context, off int) ([]protocol.DirEntry, bool, error) {
	var reply protocol.ReadDirReply
	b, err := f.tunnel.Call(ctx, protocol.KindReadDir, protocol.ReadDir{Handle: f.handle, Offset: off}, &reply)
	if err != nil {
		return nil, false, err
	}
	list, err := protocol.DirEntries(b)
	return list, reply.More, err
}

// Released says that no descriptor of the node is left.
func (n *nodes) Released(id uint64) {
	n.mu.Lock()
	f := n.open[id]
	delete(n.open, id)
	n.mu.Unlock()
	if f != nil {
		n.close(f)
	}
}

// unusedTime is far more than a launcher takes to open the node it was told of.
const unusedTime = time.Minute

// dropUnused closes what a launcher was told of before some time and never
// opened: it had no descriptor left, or its debuggee was killed.
func (n *nodes) dropUnused(owner *launcher, before time.Time) {
	n.drop(func(f *node) bool { return f.owner == owner && !f.seen && f.added.Before(before) })
	n.mu.Lock()
	defer n.mu.Unlock()
	n.dropShared(func(g *number) bool { return g.owner == owner && g.added.Before(before) })
}

// dropSeen closes what a file server showed that is gone.
func (n *nodes) dropSeen() {
	n.drop(func(f *node) bool { return f.seen })
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, s := range n.sharedByID {
		s.opened = false
		n.endUnused(s)
	}
}

// drop closes those that which, called with n.mu held, chooses.
func (n *nodes) drop(which func(*node) bool) {
	n.mu.Lock()
	var chosen []*node
	for id, f := range n.open {
		if which(f) {
			chosen = append(chosen, f)
			delete(n.open, id)
		}
	}
	n.mu.Unlock()
	var wg sync.WaitGroup
	for _, f := range chosen {
		wg.Go(func() { n.close(f) })
	}
	wg.Wait()
}

const closeTimeout = 10 * time.Second

func (n *nodes) close(f *node) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if _, err := f.tunnel.Call(ctx, protocol.KindClose, protocol.Close{Handle: f.handle}, new(protocol.CloseReply)); err != nil {
		n.log.Debug("remote file not closed", "err", err)
	}
}
