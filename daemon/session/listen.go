package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"syscall"
	"time"

	"mirrord/daemon/config"
	"mirrord/daemon/forward"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// listenersEach is how often it is looked whether debuggees still listen: a
// port that nobody connects to is given back, too.
const listenersEach = 5 * time.Second

// answerTime is what a connection may take that need not wait, as the agent's
// own patience.
const answerTime = 5 * time.Second

// A listener is where a stolen port's connections go.
type listener struct {
	at    addresses   // guarded by Session.mu; never none
	owner *launcher   // guarded by Session.mu; who told of it last, nil: it is gone
	by    []*debuggee // guarded by Session.mu; those of whom one listens, if there are any
	lost  *lost       // guarded by Session.mu; nil: it listens
	terms
	toldTLS bool                      // guarded by Session.mu; see unsecured
	held    map[*replica]*tunnel.Held // guarded by Session.mu; where it is taken
}

// The terms on which a port is taken: other ones take it anew.
type terms struct {
	mirror   bool
	patience uint32 // see protocol.Steal
	filter   *protocol.Filter
	once     bool
	tls      *protocol.TLS // opens TLS, beside a filter; nil: nothing does

	stealProbes bool
}

// termsOf are those of the configuration. s.mu is held.
func (s *Session) termsOf(port uint16, mirror bool) terms {
	in := &s.config.Incoming
	t := terms{mirror: mirror, patience: s.patience(), filter: in.FilterOf(port), once: in.Once && !mirror, stealProbes: in.StealProbes}
	if t.filter != nil && !mirror {
		t.tls = s.security.tls
	}
	return t
}

// A lost listener is expected to listen again.
type lost struct {
	found chan struct{} // closed when it does, or is not expected to any more
	timer *time.Timer
}

// listen steals a port for the debuggee's listener and returns when
// connections arrive there.
func (s *Session) listen(ctx context.Context, r *layer.Request, owner *launcher) error {
	port := r.Addr.Port()
	at := forward.Listener{Addr: netip.AddrPortFrom(r.Addr2.Addr().Unmap(), r.Addr2.Port())}
	if r.Node != 0 {
		at.Inodes = []uint64{r.Node}
	}
	mirror := r.Flags&layer.ListenMirror != 0
	done, err := s.taking(ctx, port)
	if err != nil {
		return err
	}
	defer done()
	if s.again(port, at, owner, mirror) {
		return nil
	}
	if s.others != nil {
		s.others.settle(ctx)
	}
	s.mu.Lock()
	l := &listener{at: addresses{at}, owner: owner, by: s.debuggeesOf(owner), terms: s.termsOf(port, mirror), held: map[*replica]*tunnel.Held{}}
	s.mu.Unlock()
	main, held, err := s.stealMain(ctx, owner.m, port, l)
	if errors.Is(err, syscall.EADDRINUSE) && !s.overrides() {
		err = fmt.Errorf("%w; end that session, choose requests by a http_filter, or set feature.network.incoming.on_concurrent_steal to \"override\"", err)
	}
	if errors.Is(err, syscall.EADDRINUSE) && s.without(port, err) {
		return nil
	}
	if err != nil {
		return err
	}
	s.mu.Lock()
	err = cmp.Or(s.ctx.Err(), held.Lost())
	if err != nil || main.gone {
		held.Release()
	} else {
		l.held[main] = held
	}
	if err != nil {
		s.mu.Unlock()
		return err
	}
	s.listeners[port] = l
	s.settle(l)
	more := slices.DeleteFunc(slices.Clone(s.replicas), func(r *replica) bool { return r == main })
	s.log.Info("port taken", "port", port, "mirror", l.mirror, "replicas", 1+len(more))
	s.event(l.taken(port))
	s.mu.Unlock()
	var wg sync.WaitGroup
	defer wg.Wait()
	for _, r := range more {
		wg.Go(func() { s.takeAt(r, port, l) })
	}
	return nil
}

func (l *listener) taken(port uint16) ide.SessionEvent {
	e := ide.SessionEvent{Kind: ide.EventTaken, Port: port, Mirror: l.mirror}
	if l.filter != nil {
		e.Message = l.filter.String()
	}
	return e
}

// stealMain has the main replica's connections come to l. Where it is about to be
// replaced the next one is waited for. A session of ours that keeps the port for a
// debuggee that may listen again yields it.
func (s *Session) stealMain(ctx context.Context, m *Manager, port uint16, l *listener) (*replica, *tunnel.Held, error) {
	for {
		main := s.main.Load()
		held, err := s.steal(ctx, main, port, l)
		if errors.Is(err, syscall.EADDRINUSE) && slices.ContainsFunc(m.all(), func(other *Session) bool {
			return other != s && other.yield(ctx, main.agent, port)
		}) {
			continue
		}
		if err == nil || s.others == nil || !s.others.replaced(ctx, main) {
			return main, held, err
		}
	}
}

// steal has a replica's connections to a port come to l.
func (s *Session) steal(ctx context.Context, r *replica, port uint16, l *listener) (*tunnel.Held, error) {
	q := protocol.Steal{
		Port: port, Mirror: l.mirror, Probed: !l.stealProbes && slices.Contains(r.target.probed, int(port)), Patience: l.patience, Filter: l.filter,
		Session: s.id, Once: l.once, TLS: l.tls,
	}
	s.mu.Lock()
	c := &s.config.Incoming
	q.Override = c.OnConcurrentSteal == config.Override
	var err error
	if !l.mirror {
		q.Flush = c.Flush
		err = r.target.gives(c)
	}
	if l.once {
		q.Arm = s.arming()
	}
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	return r.agent.tunnel.Steal(ctx, q, func(_ context.Context, stream net.Conn, in protocol.Incoming) {
		s.deliver(stream, l, in)
	}, func() { s.ousted(r, port, l) }, func(why string) { s.cut(port, why) })
}

// overrides tells whether ports are taken from others.
func (s *Session) overrides() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.config.Incoming.OnConcurrentSteal == config.Override
}

// without tells whether the debuggee is to run without a port that is another's.
func (s *Session) without(port uint16, err error) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.Incoming.OnConcurrentSteal != config.Continue {
		return false
	}
	s.say(fmt.Sprintf("the debuggee listens without port %d of the target: %v", port, err))
	return true
}

// cut tells the user, once for each port and reason, that not all is mirrored.
func (s *Session) cut(port uint16, why string) {
	words := fmt.Sprintf("port %d: a connection is not mirrored, or not to its end: %s; the debuggee sees a reset, the pod's client nothing of it "+
		"(of others it is not told again)", port, why)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.told[words] {
		s.told[words] = true
		s.say(words)
	}
}

// ousted tells the user that somebody else has taken a port over.
func (s *Session) ousted(r *replica, port uint16, l *listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	held := l.held[r]
	if held == nil || held.Lost() == nil || s.listeners[port] != l {
		return
	}
	held.Release()
	delete(l.held, r)
	words := fmt.Sprintf("port %d of %s is lost: %v", port, r.target.name, held.Lost())
	s.say(words)
	if len(l.held) == 0 {
		s.giveBack(port, words)
	}
}

// taking lets one at a time take a port: of several sockets that share it
// (SO_REUSEPORT, or one for each family) the first steals it, the others are added.
func (s *Session) taking(ctx context.Context, port uint16) (done func(), err error) {
	for {
		s.mu.Lock()
		busy := s.taken[port]
		if busy == nil {
			busy = make(chan struct{})
			s.taken[port] = busy
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.taken, port)
				close(busy)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// again tells whether the debuggee listens anew, or with one more socket, on a
// port that is stolen already.
func (s *Session) again(port uint16, at forward.Listener, owner *launcher, mirror bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[port]
	if l == nil {
		return false
	}
	if !reflect.DeepEqual(l.terms, s.termsOf(port, mirror)) { // the configuration was read again
		s.giveBack(port, "it is taken in another way")
		return false
	}
	if l.owner != owner { // what another launcher's debuggee has at the other family's address is not this one's
		l.at = slices.DeleteFunc(slices.Clone(l.at), func(old forward.Listener) bool { return old.Addr != at.Addr })
	}
	l.at, l.owner, l.by = l.at.add(at), owner, s.debuggeesOf(owner)
	s.settle(l)
	if l.lost != nil {
		l.find()
		s.event(l.taken(port))
	}
	return true
}

// patience is how many seconds a connection may wait for its debuggee. s.mu is held.
func (s *Session) patience() uint32 {
	return uint32((max(s.whileRestarting, s.whileStopped) + answerTime) / time.Second)
}

// deliver brings one stolen connection to the debuggee, which may be stopped or
// about to be replaced: then the connection waits. A listener that is gone for
// good ends the steal; the connection then goes to the pod.
func (s *Session) deliver(stream net.Conn, l *listener, in protocol.Incoming) {
	s.mu.Lock()
	err := s.ctx.Err()
	if err == nil {
		s.wg.Add(1)
		defer s.wg.Done()
	}
	if err == nil && l.once {
		if err = s.spend(in.Port); err == nil {
			defer func() { s.unspend(err) }()
		}
	}
	s.mu.Unlock()
	watch, offer := s.traffic.Incoming(in.Port, l.mirror, in.Client), forward.NewOffer(stream, in.Waits)
	for err == nil {
		s.mu.Lock()
		at, pause := l.at.to(in.Client.Addr()), s.pauseOf(l)
		at.TLS = s.security.delivery
		s.mu.Unlock()
		if pause != nil {
			if err = offer.Wait(); err == nil {
				err = pause.wait(s.ctx)
			}
			continue
		}
		if err = s.incoming.Deliver(s.ctx, offer, forward.Peer{Client: in.Client, Local: in.Local, TLS: in.TLS}, at, watch); err == nil {
			return
		}
		s.mu.Lock()
		paused := s.pauseOf(l) != nil
		if _, ok := errors.AsType[*forward.TLSError](err); ok && !paused && s.ctx.Err() == nil {
			s.unsecured(in.Port, l, err)
		}
		s.mu.Unlock()
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() && paused {
			err = nil // the queue of its listener is full
		}
		if errors.Is(err, syscall.ECONNREFUSED) && s.await(in.Port, l, at, offer) {
			err = nil
		}
	}
	offer.Refuse(err)
}

// await waits for a debuggee that does not listen at an address any more to listen
// anew, unless it still does for the other family, and reports whether it does. A
// port that is not to be waited for is given back.
func (s *Session) await(port uint16, l *listener, at forward.Listener, offer *forward.Offer) bool {
	s.mu.Lock()
	if s.listeners[port] != l {
		s.mu.Unlock()
		return false
	}
	if !l.at.has(at) {
		s.mu.Unlock()
		return true
	}
	if others := l.at.without(at); len(others) > 0 {
		l.at = others
		s.mu.Unlock()
		return true
	}
	s.lose(port, l)
	lost := l.lost
	s.mu.Unlock()
	if lost == nil || offer.Wait() != nil {
		return false
	}
	select {
	case <-lost.found:
	case <-s.ctx.Done():
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.listeners[port] == l
}

// lose keeps the port of a listener that is gone for as long as it may come
// again. s.mu is held.
func (s *Session) lose(port uint16, l *listener) {
	switch {
	case l.lost != nil:
	case !s.restarts(l):
		s.giveBack(port, "nobody listens")
	default:
		lost := &lost{found: make(chan struct{})}
		lost.timer = time.AfterFunc(s.whileRestarting, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.listeners[port] == l && l.lost == lost {
				s.giveBack(port, "nobody listens again")
			}
		})
		l.lost = lost
		s.event(ide.SessionEvent{Kind: ide.EventWaiting, Port: port})
	}
}

// yield gives a port back that is kept for a debuggee which may listen again, and waits
// until the agents know. It tells whether it has; a is the agent where it is in the way.
func (s *Session) yield(ctx context.Context, a *agent, port uint16) bool {
	s.mu.Lock()
	l := s.listeners[port]
	var held []*tunnel.Held
	there := false
	if l != nil && l.lost != nil && !l.mirror {
		for r, h := range l.held {
			held, there = append(held, h), there || r.agent == a
		}
	}
	if there {
		s.giveBack(port, "the debuggee of another session listens there")
	}
	s.mu.Unlock()
	if !there {
		return false
	}
	for _, h := range held {
		if h.Released(ctx) != nil {
			return false
		}
	}
	return true
}

// find lets go on who waits for the listener. Session.mu is held.
func (l *listener) find() {
	if l.lost != nil {
		l.lost.timer.Stop()
		close(l.lost.found)
		l.lost = nil
	}
}

// watchListeners gives back the ports of listeners that are gone.
func (s *Session) watchListeners() {
	tick := time.NewTicker(listenersEach)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			s.checkListeners()
		case <-s.ctx.Done():
			return
		}
	}
}

func (s *Session) checkListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for port, l := range s.listeners {
		if left := l.at.left(); len(left) > 0 {
			l.at = left
		} else {
			s.lose(port, l)
		}
	}
}

// giveBack ends a steal. s.mu is held.
func (s *Session) giveBack(port uint16, why string) {
	l := s.listeners[port]
	for _, held := range l.held {
		held.Release()
	}
	clear(l.held)
	delete(s.listeners, port)
	l.find()
	s.log.Info("port given back", "port", port, "why", why)
	s.event(ide.SessionEvent{Kind: ide.EventGivenBack, Port: port, Mirror: l.mirror, Message: why})
}

func (s *Session) giveAllBack(why string) {
	for port := range s.listeners {
		s.giveBack(port, why)
	}
}
