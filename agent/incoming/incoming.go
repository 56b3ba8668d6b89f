// Package incoming takes over the target's TCP ports: a stolen connection goes
// to the client that holds its port, of a mirrored one it gets a copy.
//
//	client ─▶ kernel ─ redirect ─▶ listener ─ ask ─▶ stream to the holder
//	            │ other ports                  └ refused, dead ─▶ the pod's own container
//	            └ established connections, exempt sources: as ever
//
// A port may have several holders, if each has a filter of HTTP requests: then it
// is requests that are offered, one by one (split.go, package httpfilter), also those
// within TLS (tls.go).
//
// A mirror (mirror.go) looks on: it changes nothing for the pod and waits for nobody.
//
// The rule: nothing of a connection is consumed before its holder took it, and
// a connection that nobody takes is the pod's, as if nothing had been stolen. The
// holder is shown the beginning all the same (offer.go): an answer costs no round trip.
// Where it does not say whether it took that, only what may be done twice is the pod's.
// On a port that kubelet probes, connections are looked at before (peek.go),
// and its probes are the pod's, or answered here while that is paused (answer.go).
//
// All that is changed in the target's namespace are kernel objects that die
// with the agent.
package incoming

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// acceptPause is waited after an accept failed for want of descriptors or memory.
const acceptPause = 50 * time.Millisecond

const maxTries = 10 // to take a port from others, who may be quicker

// Incoming is the stealing and mirroring of one network namespace's ports.
//
// Goroutines: one for each listener, a few for each stolen connection, some that
// wait for the next one, and those of mirrors; all are gone when Close returns.
type Incoming struct {
	Counts Counts

	log      *slog.Logger
	redirect redirect // nil: unable, for the reason in disabled
	disabled error
	mirrors  *mirrors
	life     context.Context // good until Close
	cancel   context.CancelFunc
	team     *crew.Crew
	slots    chan struct{} // one for each stolen connection
	waiting  chan struct{} // one for each offer that may take longer than patience
	sources  sources
	local    ownAddrs
	guises   [2]guise // of IPv4 and IPv6

	claims sync.Mutex        // held while a port is claimed or given back; lock order: Steal.mu, claims, mu
	locks  map[uint16]*claim // guarded by claims

	mu       sync.Mutex
	ports    map[uint16]*port // guarded by mu
	answered map[uint16]int   // guarded by mu; how many want probes of the port answered here
}

// New prepares the redirect in the namespace of this process; nothing is
// stolen yet. only is the name of the redirect, if it must be a certain one.
func New(log *slog.Logger, only string) *Incoming {
	in := &Incoming{
		log:     log,
		team:    crew.New(),
		slots:   make(chan struct{}, maxConns),
		waiting: make(chan struct{}, maxWaiting),
		locks:   map[uint16]*claim{},
		ports:   map[uint16]*port{}, answered: map[uint16]int{},
		sources: sources{used: map[netip.AddrPort]bool{}, over: map[netip.Addr][]spent{}},
	}
	in.life, in.cancel = context.WithCancel(context.Background())
	in.mirrors = newMirrors(log, in)
	if in.redirect, in.disabled = choose(log, only); in.disabled == nil {
		for _, l := range in.redirect.Listeners() {
			in.team.Go(func() { in.accept(in.life, l) })
		}
	}
	return in
}

// Disabled tells what the kernel or the pod's permissions lack for stealing;
// nil: nothing. Mirroring does not need it.
func (in *Incoming) Disabled() error { return in.disabled }

// Close ends the redirect and every connection that it brought.
func (in *Incoming) Close() error {
	in.cancel()
	in.mirrors.Interrupt()
	var err error
	if in.redirect != nil {
		err = in.redirect.Detach()
	}
	in.team.Wait()
	if in.redirect != nil {
		err = errors.Join(err, in.redirect.Close())
	}
	for i := range in.guises {
		if r := in.guises[i].replies.Load(); r != nil {
			err = errors.Join(err, r.Close())
		}
	}
	return err
}

// A guise is what lets our connections to the pod have their client's address. It
// is made when it is wanted first.
type guise struct {
	once    sync.Once
	replies atomic.Pointer[replies]
	err     error // why there is none
}

// repliesTo are those of a client's family.
func (in *Incoming) repliesTo(client netip.Addr) (*replies, error) {
	g := &in.guises[0]
	if client.Is6() {
		g = &in.guises[1]
	}
	g.once.Do(func() {
		r, err := newReplies(client)
		if err != nil {
			g.err = err
			in.log.Info("what passes to the pod's container has the pod's address, not its client's", "err", err)
			return
		}
		g.replies.Store(r)
	})
	return g.replies.Load(), g.err
}

// ours tells whether a connection to the pod from there is of the agent.
func (in *Incoming) ours(from netip.AddrPort) bool {
	for i := range in.guises {
		if r := in.guises[i].replies.Load(); r != nil && r.Has(from) {
			return true
		}
	}
	return in.sources.has(from)
}

// accept takes l's connections until ctx is done.
func (in *Incoming) accept(ctx context.Context, l *net.TCPListener) {
	for {
		conn, err := l.AcceptTCP()
		if ctx.Err() != nil {
			if err == nil {
				reset(conn)
			}
			return
		}
		if err != nil {
			in.log.Warn("accepting stolen connection", "err", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		select {
		case in.slots <- struct{}{}:
			in.team.Go(func() {
				defer func() { <-in.slots }()
				in.handle(ctx, conn)
			})
		default:
			in.log.Warn("too many stolen connections", "limit", maxConns)
			reset(conn)
		}
	}
}

// handle brings one stolen connection to its end.
func (in *Incoming) handle(ctx context.Context, conn *net.TCPConn) {
	client := addrOf(conn.RemoteAddr())
	local, err := in.redirect.Asked(conn)
	if err != nil || in.redirect.Owns(local) { // somebody came to our door directly
		reset(conn)
		return
	}
	r := in.record(local.Port(), client, false)
	r.begin()
	p := in.port(local.Port())
	if p != nil && p.filtered {
		if in.answers(local.Port()) && closes(ctx, conn) {
			r.probe = true
			conn.Close()
			r.end(nil)
			return
		}
		r.end(in.split(ctx, r, conn, p, client, local))
		return
	}
	r.end(in.whole(ctx, r, conn, p, client, local))
}

// whole gives a connection to the port's only holder, or to the pod.
func (in *Incoming) whole(ctx context.Context, r *record, conn *net.TCPConn, p *port, client, local netip.AddrPort) error {
	var first opening
	s := p.holder()
	arm, ok := s.armed()
	answers := in.answers(local.Port())
	if answers || ok && s.probed {
		offered := ctx
		if !answers {
			offered = s.hold()
		}
		var err error
		if first, err = peek(offered, conn); err != nil {
			reset(conn)
			return err
		}
	}
	switch {
	case first.probe && answers:
		r.probe = true
		return in.answer(ctx, conn, first)
	case ok && !first.probe:
		var from said
		if first.skip == 0 { // else it begins with other bytes
			from.conn = conn
		}
		stream, ahead, err := s.take(protocol.Incoming{Port: local.Port(), Client: client, Local: local}, from, arm)
		if err == nil {
			r.had(s)
			return s.relay(ctx, r, conn, stream, first, ahead)
		}
		r.log().Debug("stolen connection not taken", "holder", s.client.Name(), "err", err)
		if errors.Is(err, httpfilter.ErrUnsure) && !again(conn) {
			reset(conn)
			return err
		}
	}
	return in.pass(ctx, r, conn, client, local, first)
}

// again tells whether all that came of a connection is a request that may be made twice.
func again(conn *net.TCPConn) bool {
	var b [maxAhead]byte
	n, err := socket.Peek(conn, b[:], false)
	return err == nil && httpfilter.Repeatable(b[:n])
}

// Steal brings every new connection to a port to client, or copies of them
// where a mirror is asked for, until it is released or ctx, which is the
// client's life, is done. EADDRINUSE: somebody else has the port. Of mirrors
// there may be any number, as of steals with a filter. From a probed port a connection comes when its client
// has said something, or has been silent for peekPatience.
func (in *Incoming) Steal(ctx context.Context, q protocol.Steal, client Client) (*Steal, error) {
	s, err := in.hold(ctx, q, client)
	if err == nil && s.flushed != nil {
		<-s.flushed
	}
	return s, err
}

func (in *Incoming) hold(ctx context.Context, q protocol.Steal, client Client) (*Steal, error) {
	s := &Steal{in: in, since: time.Now(), id: q.ID, session: q.Session, port: q.Port, probed: q.Probed, client: client, life: ctx, patience: patience}
	s.held, s.letGo, s.stay = nothing, func() {}, func() {}
	if !q.Mirror {
		s.flushes = q.Flush
	}
	if q.Once {
		s.once = new(once)
	}
	if q.Patience != 0 {
		s.patience = min(time.Duration(q.Patience)*time.Second, maxPatience)
	}
	s.mu.Lock() // the first connection may come before the hold is known
	defer s.mu.Unlock()
	var err error
	switch {
	case q.Port == 0:
		err = fmt.Errorf("stealing port 0: %w", unix.EINVAL)
	case q.Mirror && q.Once:
		err = fmt.Errorf("mirroring port %d once: %w", q.Port, unix.EOPNOTSUPP)
	case q.Filter != nil:
		if s.filter, err = filter.Compile(*q.Filter); err != nil {
			err = fmt.Errorf("taking port %d by a filter: %w: %w", q.Port, err, unix.EINVAL)
		}
		s.words = q.Filter.String()
		if err == nil && q.TLS != nil && !q.Mirror {
			s.keys, err = newKeys(*q.TLS, client.ReadFile)
		}
	}
	switch {
	case err != nil:
	case q.Mirror:
		s.way = in.mirrors
	default:
		s.way, err = in.claim(s)
	}
	ousted := true
	for tries := 0; q.Override && errors.Is(err, unix.EADDRINUSE) && ousted && tries < maxTries; tries++ {
		ousted = in.oust(s) // false: it is another's, or was until just now
		s.way, err = in.claim(s)
	}
	if errors.Is(err, unix.EADDRINUSE) {
		err = fmt.Errorf("stealing port %d: it is stolen already, by %s: %w", q.Port, askHolder(q.Port), err)
		if !ousted {
			err = fmt.Errorf("%w (and cannot be overridden: it is not by this agent, perhaps one of another build)", err)
		}
	}
	if err != nil {
		return nil, err
	}
	s.arm(q.Arm)
	if err := s.settle(); err != nil {
		s.released = true
		return nil, errors.Join(err, s.way.Release(s))
	}
	in.log.Info("port stolen", "port", q.Port, "holder", client.Name(), "redirect", s.way.Name())
	return s, nil
}

// addrOf is a TCP address, IPv4 as such.
func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
