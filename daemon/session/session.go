package session

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/forward"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// A Session is one debuggee (and its children, and perhaps its restarts) bound
// to one target.
type Session struct {
	id        string
	log       *slog.Logger
	agent     *agent
	started   time.Time
	launch    ide.Launch // fixed but for Session's counts
	outgoing  *forward.Outgoing
	datagrams *forward.Datagrams
	incoming  *forward.Incoming
	ctx       context.Context // until the session ends
	cancel    context.CancelFunc
	wg        sync.WaitGroup // incoming connections

	mu        sync.Mutex
	released  bool                 // guarded by mu; the starter is gone
	launchers map[*launcher]bool   // guarded by mu
	listeners map[uint16]*listener // guarded by mu, by stolen port
}

// A listener is where a stolen port's connections go.
type listener struct {
	addr    netip.AddrPort // the debuggee's, on loopback
	release func()
}

func newSession(log *slog.Logger, a *agent) (*Session, error) {
	s := &Session{id: newID(), agent: a, started: time.Now(), incoming: forward.NewIncoming(), listeners: map[uint16]*listener{}, launchers: map[*launcher]bool{}}
	s.log = log.With("session", s.id)
	var err error
	if s.outgoing, err = forward.NewOutgoing(s.log); err != nil {
		return nil, err
	}
	s.datagrams = forward.NewDatagrams(s.log, a.tunnel.Datagram)
	s.ctx, s.cancel = context.WithCancel(context.Background())
	return s, nil
}

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
	return i
}

// release tells that the starter is gone; it reports whether nobody is left.
func (s *Session) release() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.released = true
	return len(s.launchers) == 0
}

func (s *Session) attach(l *launcher) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.launchers[l] = true
}

// detach tells that a launcher is gone; it reports whether nobody is left.
func (s *Session) detach(l *launcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.launchers, l)
	return s.released && len(s.launchers) == 0
}

// tellTime bounds the wait for a launcher to take a message.
const tellTime = time.Second

// tell gives the users of all launchers a message; over ends their debuggees.
func (s *Session) tell(words string, over bool) {
	notice := layer.Reply{Data: cut(words)}
	if over {
		notice.Errno = uint32(unix.ECANCELED)
	}
	s.mu.Lock()
	all := slices.Collect(maps.Keys(s.launchers))
	s.mu.Unlock()
	for _, l := range all {
		r := notice
		l.conn.SetWriteDeadline(time.Now().Add(tellTime)) // it may be stopped
		_ = l.reply(&r, nil)                              // or gone, and needs no message
		l.conn.SetWriteDeadline(time.Time{})
		if over {
			_ = l.conn.CloseRead() // ends its reader; what was said is still sent
		}
	}
}

// agentGone tells that remote files and connections are lost.
func (s *Session) agentGone(why error) {
	s.mu.Lock()
	for port, l := range s.listeners {
		l.release()
		delete(s.listeners, port)
	}
	s.mu.Unlock()
	s.tell(fmt.Sprintf("the agent is gone (%v): remote files and connections fail from now on; start anew to get another agent", why), false)
}

// close gives all ports back, resets all connections and waits for their goroutines.
func (s *Session) close() {
	s.cancel()
	s.mu.Lock()
	for port, l := range s.listeners {
		l.release()
		delete(s.listeners, port)
	}
	s.mu.Unlock()
	s.outgoing.Close()
	s.datagrams.Close()
	s.wg.Wait()
}

// connect opens an outgoing connection for the debuggee's socket with the
// given loopback source, and says where that has to connect to.
func (s *Session) connect(ctx context.Context, dst, source netip.AddrPort) (endpoint, local netip.AddrPort, err error) {
	stream, reply, err := s.agent.tunnel.Connect(ctx, dst)
	if err != nil {
		return endpoint, local, err
	}
	endpoint, err = s.outgoing.Expect(source, stream)
	return endpoint, reply.Local, err
}

// listen steals port for the debuggee's listener at addr and returns when
// connections arrive there.
func (s *Session) listen(ctx context.Context, port uint16, addr netip.AddrPort) error {
	s.mu.Lock()
	if l := s.listeners[port]; l != nil { // the debuggee listens anew
		l.addr = addr
		s.mu.Unlock()
		return nil
	}
	s.mu.Unlock()
	l := &listener{addr: addr}
	release, err := s.agent.tunnel.Steal(ctx, port, func(ctx context.Context, stream net.Conn, in protocol.Incoming) {
		s.deliver(stream, l, in)
	})
	if err != nil {
		return fmt.Errorf("stealing port %d: %w", port, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil {
		release()
		return s.ctx.Err()
	}
	l.release = release
	s.listeners[port] = l
	s.log.Info("port stolen", "port", port)
	return nil
}

// deliver brings one stolen connection to the debuggee. A listener that is
// gone ends the steal; the connection then goes to the pod.
func (s *Session) deliver(stream net.Conn, l *listener, in protocol.Incoming) {
	s.mu.Lock()
	addr := l.addr
	if s.ctx.Err() == nil {
		s.wg.Add(1)
		defer s.wg.Done()
	}
	s.mu.Unlock()
	err := s.ctx.Err()
	if err == nil {
		err = s.incoming.Deliver(s.ctx, stream, forward.Peer{Client: in.Client, Local: in.Local}, addr)
	}
	if err == nil {
		return
	}
	protocol.WriteError(stream, "incoming", err)
	stream.Close()
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.unlisten(in.Port, l, addr)
	}
}

func (s *Session) unlisten(port uint16, l *listener, addr netip.AddrPort) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[port] != l || l.addr != addr {
		return
	}
	delete(s.listeners, port)
	l.release()
	s.log.Info("port given back", "port", port)
}
