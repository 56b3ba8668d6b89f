package session

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
)

// patience is how long who asks for a file by path waits for what was written to
// it before: as long as a call of a debuggee waits for the file server.
const patience = time.Minute

// pending is what is on its way to a target's files. Who asks for one by path
// shall see it, and waits for no other's: one that hangs holds up nobody else.
type pending map[sharedKey][]*tunnel.Writing

// pending is what has been begun until now; t nil: to the files of all targets.
func (n *nodes) pending(t *tunnel.Tunnel) pending {
	n.mu.Lock()
	defer n.mu.Unlock()
	p := make(pending)
	for s := range n.ending {
		p.add(s, t)
	}
	for _, s := range n.shared {
		p.add(s, t)
	}
	return p
}

func (p pending) add(s *shared, t *tunnel.Tunnel) {
	if t != nil && s.key.tunnel != t {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.under > 0 {
		p[s.key] = append(p[s.key], s.last)
	}
}

// wait waits until all has been done that was on its way to one file. It is not
// waited for twice; there: something was.
func (p pending) wait(ctx context.Context, key sharedKey) (there bool, err error) {
	list := p[key]
	delete(p, key)
	for _, x := range list {
		if err := wait(ctx, x); ctx.Err() != nil {
			return true, err
		}
	}
	return len(list) > 0, nil
}

// drain waits, for a while, for all that is on its way.
func (n *nodes) drain() {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	p := n.pending(nil)
	for key := range p {
		if _, err := p.wait(ctx, key); err != nil {
			n.log.Warn("what was written to files may be lost", "err", err)
			return
		}
	}
}

// pending is what is on its way to the target's files.
func (l *launcher) pending() pending { return l.m.nodes.pending(l.s.tunnel()) }

// settled waits for what is on its way to the file that an answer tells of.
// again: there was something, and the answer may not know it.
func (l *launcher) settled(p pending, a *protocol.Attr) (again bool, err error) {
	ctx, cancel := context.WithTimeoutCause(l.ctx, l.m.nodes.patience, unix.EIO)
	defer cancel()
	return p.wait(ctx, sharedKey{l.s.tunnel(), a.Dev, a.Ino})
}

// settlePath does so for the file of that name, which is about to be changed. Of
// one that is not found, the change itself tells.
func (l *launcher) settlePath(path protocol.Path, walk *protocol.Walk, follow bool) error {
	p := l.pending()
	if len(p) == 0 {
		return nil
	}
	a, err := l.s.statBy(l.ctx, path, walk, follow)
	if err != nil {
		return notErrno(err)
	}
	_, err = l.settled(p, &a.Attr)
	return err
}
