package session

import (
	"context"
	"encoding/binary"
	"math"
	"sync"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// notices are what one launcher has to hear without having asked: words for its
// user, the leases that have expired, and whether it is watched. They wait here for a launcher that is
// stopped, which is told of the latest when it goes on.
type notices struct {
	wake    chan struct{} // of capacity 1
	telling sync.Mutex    // lock order: telling, then mu

	mu    sync.Mutex
	words []string // guarded by mu
	watch *bool    // guarded by mu; new: somebody asks which files are opened
	any   bool     // guarded by mu; leases have expired
	seq   uint64   // guarded by mu
	ids   []uint64 // guarded by mu
	all   bool     // guarded by mu
}

// maxIDs fit into one notice.
const maxIDs = layer.MaxPath / 8

// maxWords bounds what waits; more says nothing new.
const maxWords = 16

// noLeases is a number that no lease comes after: none is to be kept any more.
const noLeases = math.MaxUint64

func (n *notices) say(words string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.words) < maxWords {
		n.words = append(n.words, words)
	}
	n.tell()
}

func (n *notices) expired(x protocol.Expired) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.any, n.seq = true, x.Seq
	n.ids = append(n.ids, x.IDs...)
	if n.all = n.all || x.All || len(n.ids) > maxIDs; n.all {
		n.ids = nil
	}
	n.tell()
}

// watched says whether somebody asks which files are opened.
func (n *notices) watched(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.watch = &on
	n.tell()
}

// tell is called with mu held.
func (n *notices) tell() {
	select {
	case n.wake <- struct{}{}:
	default:
	}
}

// take is what there is to tell now, as notices.
func (n *notices) take() (list []layer.Reply) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.any {
		r := layer.Reply{Flags: layer.ReplyExpired, Lease: protocol.Lease{Seq: n.seq}}
		for _, id := range n.ids {
			r.Data = binary.LittleEndian.AppendUint64(r.Data, id)
		}
		list = append(list, r)
	}
	if n.watch != nil {
		r := layer.Reply{Flags: layer.ReplyWatched}
		if *n.watch {
			r.Node = 1
		}
		list = append(list, r)
	}
	for _, words := range n.words {
		list = append(list, layer.Reply{Data: cut(words)})
	}
	n.words, n.watch, n.any, n.ids, n.all = nil, nil, false, nil, false
	return list
}

// passOn tells the launcher what there is. When it returns all has been told
// that was there before.
func (l *launcher) passOn() error {
	l.notices.telling.Lock()
	defer l.notices.telling.Unlock()
	for _, r := range l.notices.take() {
		if err := l.reply(&r, nil); err != nil {
			return err
		}
	}
	return nil
}

// tellNotices runs until the launcher's socket ends.
func (l *launcher) tellNotices() {
	for {
		select {
		case <-l.notices.wake:
			if l.passOn() != nil {
				return // as its reader will notice
			}
		case <-l.ctx.Done():
			return
		}
	}
}

// hearing is what a daemon hears of one agent's leases. While the control link
// is lost it hears nothing, and nobody may keep an answer: none is older than
// the link.
type hearing struct {
	tell func(protocol.Expired)

	mu   sync.Mutex
	seq  uint64        // guarded by mu; the latest heard
	deaf bool          // guarded by mu
	news chan struct{} // guarded by mu; closed at the next that is heard
}

func (h *hearing) expired(e protocol.Expired) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.seq = e.Seq
	if h.deaf {
		e.Seq = noLeases
	}
	h.tell(e)
	close(h.news)
	h.news = make(chan struct{})
}

// until waits until the Expired of this number has been heard and passed on.
func (h *hearing) until(ctx context.Context, seq uint64) error {
	for {
		h.mu.Lock()
		heard, news := h.seq, h.news
		h.mu.Unlock()
		if heard >= seq {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// missed tells that no answer up to seq is to be kept, which has not been heard.
// Where nothing is heard none is kept at all, as has been told.
func (h *hearing) missed(seq uint64, tell func(protocol.Expired)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.deaf {
		tell(protocol.Expired{Seq: max(seq, h.seq), All: true})
	}
}

func (h *hearing) link(up bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.deaf == !up {
		return
	}
	h.deaf = !up
	if h.deaf {
		h.tell(protocol.Expired{Seq: noLeases, All: true})
	} else {
		h.tell(protocol.Expired{Seq: h.seq, All: true})
	}
}

// renew tells of the beginning of what is heard: who was told of another agent
// before may keep this one's answers.
func (h *hearing) renew() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.deaf {
		h.tell(protocol.Expired{Seq: h.seq, All: true})
	}
}

// follow tells of the link until ctx ends.
func (h *hearing) follow(ctx context.Context, t *tunnel.Tunnel) {
	for {
		up, changed := t.Up()
		h.link(up)
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// hearExpired tells the launchers of a's sessions which leases expire, for as
// long as the tunnel lives. An agent that cannot watch files gives no lease.
func (m *Manager) hearExpired(a *agent) {
	h := &hearing{tell: func(e protocol.Expired) { m.expire(a, e) }, news: make(chan struct{})}
	a.hearing.Store(h)
	h.renew()
	ctx, cancel := context.WithCancel(context.Background())
	var link sync.WaitGroup
	link.Go(func() { h.follow(ctx, a.tunnel) })
	err := a.tunnel.Watch(ctx, h.expired)
	cancel()
	link.Wait()
	m.log.Debug("no leases any more", "err", err)
	h.expired(protocol.Expired{Seq: noLeases, All: true})
}

func (m *Manager) expire(a *agent, e protocol.Expired) {
	for _, s := range m.all() {
		s.mu.Lock()
		if s.agent() != a { // as move sees to
			s.mu.Unlock()
			continue
		}
		for _, some := range []map[*launcher]bool{s.launchers, s.visitors} {
			for l := range some {
				l.notices.expired(e)
			}
		}
		s.mu.Unlock()
	}
}
