package session

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/files"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
)

// A number is one that a launcher was told, to open a shared node by.
type number struct {
	s     *shared
	owner *launcher
	added time.Time
}

// share gives a number for what was opened to be written, or may be (so that who
// opened it for reading sees it), or is open for that already. ok: it is so.
func (n *nodes) share(owner *launcher, t *tunnel.Tunnel, o protocol.OpenReply, c *protocol.OpenChange, may bool) (num uint64, s *shared, ok bool) {
	key := sharedKey{t, o.Attr.Dev, o.Attr.Ino}
	n.mu.Lock()
	defer n.mu.Unlock()
	s, ok = n.shared[key]
	switch {
	case !ok && !may || o.Attr.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, nil, false
	case !ok:
		n.last++
		s = newShared(n.last, key, o)
		n.shared[key], n.sharedByID[s.id] = s, s
	default:
		s.stale() // of what is on its way, o may not know
	}
	if useless := s.join(o.Handle, c); useless != 0 {
		n.closing.Go(func() { n.close(&node{tunnel: t, handle: useless}) })
	}
	n.last++
	n.numbers[n.last] = &number{s, owner, time.Now()}
	s.numbers++
	return n.last, s, true
}

// Claim tells the file server which node a number stands for.
func (n *nodes) Claim(ctx context.Context, num uint64) (files.Claim, error) {
	g := n.number(num)
	if g == nil {
		return files.Claim{}, unix.ENOENT
	}
	attr, err := g.s.kernelAttr(ctx)
	if err != nil {
		return files.Claim{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.numbers[num] != g {
		return files.Claim{}, unix.ENOENT
	}
	delete(n.numbers, num)
	g.s.numbers--
	g.s.claims++
	g.s.opened = true
	return files.Claim{Node: g.s.id, Count: g.s.claims, Attr: attr}, nil
}

func (n *nodes) number(num uint64) *number {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.numbers[num]
}

// Left ends a shared node, unless others have opened it meanwhile, or will.
func (n *nodes) Left(id, claims uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if s := n.sharedByID[id]; s != nil && s.claims == claims {
		s.opened = false
		n.endUnused(s)
	}
}

// endUnused ends s if nobody has it. n.mu is held.
func (n *nodes) endUnused(s *shared) {
	if s.opened || s.numbers > 0 {
		return
	}
	delete(n.shared, s.key)
	delete(n.sharedByID, s.id)
	n.ending[s] = true
	n.closing.Go(func() { n.finish(s) })
}

// finish waits for what is on its way, of which there is nothing but after an
// interrupted close: as long as the tunnel lives, as it is told to be written.
func (n *nodes) finish(s *shared) {
	if err := s.flush(context.Background()); err != nil {
		n.log.Warn("what was written to a file is lost", "path", s.path, "err", err)
	}
	n.mu.Lock()
	delete(n.ending, s)
	n.mu.Unlock()
	s.writer.Close()
	for _, h := range s.handles() {
		n.close(&node{tunnel: s.key.tunnel, handle: h})
	}
}

func (n *nodes) sharedNode(id uint64) *shared {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sharedByID[id]
}

// Write begins to write to a shared node.
func (n *nodes) Write(id uint64, p []byte, off int64, flags uint32) func(context.Context) error {
	s := n.sharedNode(id)
	if s == nil {
		return failedAlready(unix.ESTALE)
	}
	return s.writeData(p, off, flags)
}

// Change changes a shared node; of others it knows how to sync a directory.
func (n *nodes) Change(ctx context.Context, id uint64, q protocol.Write) (r protocol.WriteReply, err error) {
	if s := n.sharedNode(id); s != nil {
		return s.change(ctx, q)
	}
	f, err := n.get(id)
	attrs := q.Do == protocol.WriteAttr && q.Set != nil && q.Set.Size == nil
	if err == nil && q.Do != protocol.WriteSync && !(attrs && f.change) {
		err = unix.EROFS
	}
	if err != nil {
		return r, err
	}
	r, err = f.do(ctx, q)
	if attrs {
		n.changed()
	}
	return r, err
}

// settledHandle is by which a node is changed, when what was written to it is there.
func (n *nodes) settledHandle(ctx context.Context, id uint64) (uint64, error) {
	if s := n.sharedNode(id); s != nil {
		if err := s.settled(ctx); err != nil {
			return 0, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.any(), nil
	}
	f, err := n.get(id)
	if err != nil {
		return 0, err
	}
	return f.handle, nil
}

// stale has the agent asked before anything is told of these files of a target. It
// gives the nodes of those that are shared.
func (n *nodes) stale(t *tunnel.Tunnel, list []protocol.FileID) (ids []uint64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range list {
		if s := n.shared[sharedKey{t, f.Dev, f.Ino}]; s != nil {
			s.stale()
			ids = append(ids, s.id)
		}
	}
	return ids
}

// do does something to what is open for reading.
func (f *node) do(ctx context.Context, q protocol.Write) (r protocol.WriteReply, err error) {
	q.Handle = f.handle
	_, err = f.tunnel.Call(ctx, protocol.KindWrite, q, &r)
	return r, err
}

// changed says that attributes of other files than the open ones may be others now.
func (n *nodes) changed() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes++
}

// Flush waits for what was written to a shared node.
func (n *nodes) Flush(ctx context.Context, id uint64) error {
	if s := n.sharedNode(id); s != nil {
		return s.flush(ctx)
	}
	return unix.ESTALE
}

// dropShared forgets the numbers that which chooses, and ends the nodes that
// nobody has then. It is called with n.mu held.
func (n *nodes) dropShared(which func(*number) bool) {
	for num, g := range n.numbers {
		if which(g) {
			delete(n.numbers, num)
			g.s.numbers--
			n.endUnused(g.s)
		}
	}
}

// attr tells what fstat(2) does of a node that a launcher was told of.
func (n *nodes) attr(ctx context.Context, id uint64) (protocol.Attr, error) {
	if s := n.sharedNode(id); s != nil {
		return s.userAttr(ctx)
	}
	f, err := n.get(id)
	if err != nil {
		return protocol.Attr{}, err
	}
	n.mu.Lock()
	attr, now := f.attr, n.changes
	known := f.at == now && time.Since(f.told) < files.SharedTime
	n.mu.Unlock()
	if known {
		return attr, nil
	}
	r, err := f.do(ctx, protocol.Write{Do: protocol.WriteStat})
	if err != nil {
		return protocol.Attr{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f.attr, f.at, f.told = r.Attr, now, time.Now()
	return r.Attr, nil
}
