package session

import (
	"context"
	"errors"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/config"
	"mirrord/daemon/forward"
	"mirrord/daemon/traffic"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// A Session is one debuggee (and its children, and perhaps its restarts) bound
// to one target.
type Session struct {
	id        string
	log       *slog.Logger
	started   time.Time
	start     ide.SessionStartParams // as it was asked for
	events    *events
	outgoing  *forward.Outgoing
	datagrams *forward.Datagrams
	incoming  *forward.Incoming
	traffic   *traffic.Source
	ctx       context.Context // until the session ends
	cancel    context.CancelFunc
	wg        sync.WaitGroup // incoming connections, watchListeners, files that clients look at

	toldNoFiles sync.Once

	// main is whose environment, files, names and outgoing connections are the
	// debuggee's; another one's where others has moved it. Replaced under mu.
	main   atomic.Pointer[replica]
	others *others // nil: the target is one pod and no other

	mu sync.Mutex
	// How long connections wait for a debuggee that is restarted, or stopped; guarded by mu.
	whileRestarting, whileStopped time.Duration

	config    *config.Config           // guarded by mu; as it was read last
	security  security                 // guarded by mu
	launch    ide.Launch               // guarded by mu; without Session's counts
	replicas  []*replica               // guarded by mu; of which main is one, unless it is gone
	debuggees []*debuggee              // guarded by mu
	noFiles   error                    // guarded by mu; why there was no file server at the start, nil if there was
	ended     string                   // guarded by mu; why, once it has been told
	watching  bool                     // guarded by mu; watchDebuggees runs
	still     bool                     // guarded by mu; the target is to be paused
	spent     bool                     // guarded by mu; the one request that it steals has come
	armings   uint64                   // guarded by mu; since the first
	holders   int                      // guarded by mu; connections that started it
	launchers map[*launcher]bool       // guarded by mu
	visitors  map[*launcher]bool       // guarded by mu; those without a debuggee
	listeners map[uint16]*listener     // guarded by mu, by stolen port
	told      map[string]bool          // guarded by mu; what is said once
	unsaid    []string                 // guarded by mu; for the first launcher to come
	taken     map[uint16]chan struct{} // guarded by mu; ports that are being taken, until it is closed
	ending    error                    // guarded by mu; why no port is stolen any more
	lost      error                    // guarded by mu; why nothing remote works any more
	peers     map[netip.Addr]*peer     // guarded by mu; see podAt
	serves    map[int64]uint64         // guarded by mu; the request of each thread that has stopped in one
}

func newSession(log *slog.Logger, id string, a *agent, t target, e *events, cfg *config.Config) (*Session, error) {
	s := &Session{
		id: id, log: log.With("session", id), started: time.Now(), incoming: forward.NewIncoming(),
		events: e, config: cfg, whileRestarting: cfg.Incoming.WhileRestarting, whileStopped: cfg.Incoming.WhileStopped, still: cfg.Pause,
		holders: 1, listeners: map[uint16]*listener{}, told: map[string]bool{}, taken: map[uint16]chan struct{}{}, launchers: map[*launcher]bool{}, visitors: map[*launcher]bool{},
	}
	s.replicas = []*replica{{agent: a, target: t, since: s.started}}
	s.main.Store(s.replicas[0])
	s.traffic = traffic.New(func(ev ide.SessionEvent) {
		ev.Session = s.id
		s.events.tell(ev, true)
	})
	var err error
	if s.outgoing, err = forward.NewOutgoing(s.log, func(ctx context.Context, addr netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		return s.tunnel().Connect(ctx, addr)
	}); err != nil {
		return nil, err
	}
	s.datagrams = forward.NewDatagrams(s.log, func(ctx context.Context, addr netip.AddrPort, first []byte) (net.Conn, error) {
		return s.tunnel().Datagram(ctx, addr, first)
	})
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.wg.Go(s.watchListeners)
	return s, nil
}

func (s *Session) agent() *agent { return s.main.Load().agent }

// tunnel leads to the target. What was begun by one ends with it.
func (s *Session) tunnel() *tunnel.Tunnel { return s.agent().tunnel }

// info is what anybody may know of the session.
func (s *Session) info() ide.Session {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := s.launch.Session
	i.Launchers = len(s.launchers)
	for port := range s.listeners {
		i.Ports = append(i.Ports, port)
	}
	slices.Sort(i.Ports)
	if s.others != nil {
		for _, r := range s.replicas {
			i.Replicas = append(i.Replicas, r.target.pod)
		}
		slices.Sort(i.Replicas)
	}
	filter := s.config.Incoming.Filter
	for _, l := range s.listeners { // which a restart leaves as they are
		if filter = l.filter; filter != nil {
			break
		}
	}
	if filter != nil && s.launch.Policy.Steal {
		i.Filter = filter.String()
	}
	for _, d := range s.debuggees {
		if d.pause != nil {
			i.Stopped++
		}
	}
	i.Once, i.Paused = s.once() && s.launch.Policy.Steal, s.config.Pause
	i.Steals = s.launch.Policy.Steal
	i.Mirrors = s.launch.Policy.Mirror && !i.Steals
	return i
}

// hold notes one more connection that started the session.
func (s *Session) hold() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders++
}

// release tells that one of them is gone.
func (s *Session) release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.holders--
}

func (s *Session) attach(l *launcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.visitor {
		s.visitors[l] = true
		return
	}
	s.launchers[l] = true
	for _, words := range s.unsaid {
		l.notices.say(words)
	}
	s.unsaid = nil
	if s.traffic.Watched() {
		l.notices.watched(true)
	}
	s.event(ide.SessionEvent{Kind: ide.EventLaunched})
}

// detach undoes what a launcher that is gone had asked for.
func (s *Session) detach(l *launcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if l.visitor {
		delete(s.visitors, l)
		return
	}
	delete(s.launchers, l)
	s.event(ide.SessionEvent{Kind: ide.EventLeft})
	for port, at := range s.listeners {
		if at.owner == l {
			at.owner = nil
			s.lose(port, at)
		}
	}
}

// unused tells whether nobody is left who has a use for the session.
func (s *Session) unused() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.holders <= 0 && len(s.launchers) == 0
}

// say tells the user. s.mu is held.
func (s *Session) say(words string) {
	s.event(ide.SessionEvent{Kind: ide.EventMessage, Message: words})
	s.tell(words)
}

// tell gives the users of all launchers a message. Without a launcher the first to
// come has it. s.mu is held.
func (s *Session) tell(words string) {
	for l := range s.launchers {
		l.notices.say(words)
	}
	if len(s.launchers) == 0 && len(s.unsaid) < maxWords {
		s.unsaid = append(s.unsaid, words)
	}
}

// tellTime bounds the wait for a launcher to take a message.
const tellTime = time.Second

// over ends the debuggees of all launchers, and tells their users why.
func (s *Session) over(words string) {
	s.mu.Lock()
	all := slices.AppendSeq(slices.Collect(maps.Keys(s.launchers)), maps.Keys(s.visitors))
	s.mu.Unlock()
	for _, l := range all {
		l.conn.SetWriteDeadline(time.Now().Add(tellTime)) // it may be stopped
		_ = l.reply(&layer.Reply{Errno: uint32(unix.ECANCELED), Data: cut(words)}, nil)
		_ = l.conn.CloseRead() // ends its reader; what was said is still sent
	}
}

// hear takes news of one of the session's agents and tells the user.
func (s *Session) hear(r *replica, n news) {
	if s.others != nil {
		s.others.hear(r, n)
		return
	}
	s.mu.Lock()
	switch {
	case n.lost:
		n.words += ": remote files and connections fail from now on; start anew to have them back"
		s.lost = errors.New(n.words)
	case n.ending:
		n.words += ": its ports are given back"
	}
	if n.lost || n.ending {
		s.ending = errors.New(n.words)
		s.giveAllBack(n.words)
		r.goOn() // a container that is asked to end could not
	}
	s.event(ide.SessionEvent{Kind: ide.EventMessage, Message: n.words, Lost: n.lost || n.ending})
	s.tell(n.words)
	s.mu.Unlock()
}

// works is an error when nothing remote does any more, or for listening when
// the target is about to go.
func (s *Session) works(op layer.Op) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch op {
	case layer.OpPeer: // of a connection that was there before
		return nil
	case layer.OpListen:
		return s.ending
	}
	return s.lost
}

// spawn runs f in a goroutine that close waits for, unless the session has ended.
func (s *Session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		return false
	}
	s.wg.Go(f)
	return true
}

// close gives all ports back, resets all connections and waits for their goroutines.
func (s *Session) close() {
	s.cancel()
	s.mu.Lock()
	for _, r := range s.replicas { // first: it is to have its traffic
		r.goOn()
	}
	s.giveAllBack("the session ends")
	for _, d := range s.debuggees {
		d.resume()
	}
	s.mu.Unlock()
	s.outgoing.Close()
	s.datagrams.Close()
	s.wg.Wait()
	s.incoming.Close()
	s.traffic.Close()
}

func (s *Session) whyNoFiles() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noFiles
}
