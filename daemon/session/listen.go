package session

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"syscall"
	"time"

	"mirrord/daemon/forward"
	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// listenersEach is how often it is looked whether debuggees still listen: a
// port that nobody connects to is given back, too.
const listenersEach = 5 * time.Second

// A listener is where a stolen port's connections go.
type listener struct {
	at      forward.Listener // guarded by Session.mu
	owner   *launcher        // guarded by Session.mu; who told of it last
	release func()
}

// listen steals a port for the debuggee's listener and returns when
// connections arrive there.
func (s *Session) listen(ctx context.Context, r *layer.Request, owner *launcher) error {
	port := r.Addr.Port()
	at := forward.Listener{Addr: netip.AddrPortFrom(r.Addr2.Addr().Unmap(), r.Addr2.Port())}
	if r.Node != 0 {
		at.Inodes = []uint64{r.Node}
	}
	done, err := s.taking(ctx, port)
	if err != nil {
		return err
	}
	defer done()
	if s.again(port, at, owner) {
		return nil
	}
	l := &listener{at: at, owner: owner}
	steal := protocol.Steal{
		Port: port, Mirror: r.Flags&layer.ListenMirror != 0, Probed: slices.Contains(s.target.probed, int(port)),
	}
	release, err := s.agent.tunnel.Steal(ctx, steal, func(_ context.Context, stream net.Conn, in protocol.Incoming) {
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
	s.log.Info("port taken", "port", port, "mirror", steal.Mirror, "probed", steal.Probed)
	return nil
}

// taking lets one at a time take a port: of several sockets that share it
// (SO_REUSEPORT) the first steals it, the others are added.
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
func (s *Session) again(port uint16, at forward.Listener, owner *launcher) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := s.listeners[port]
	if l == nil {
		return false
	}
	if l.at.Addr == at.Addr && len(l.at.Inodes) > 0 {
		// Those that are gone have to go, or there would be ever more of them.
		old := slices.DeleteFunc(slices.Clone(l.at.Inodes), func(inode uint64) bool {
			return !forward.Listener{Addr: at.Addr, Inodes: []uint64{inode}}.Listens()
		})
		at.Inodes = append(old, at.Inodes...)
	}
	l.at, l.owner = at, owner
	return true
}

// deliver brings one stolen connection to the debuggee. A listener that is
// gone ends the steal; the connection then goes to the pod.
func (s *Session) deliver(stream net.Conn, l *listener, in protocol.Incoming) {
	s.mu.Lock()
	at := l.at
	if s.ctx.Err() == nil {
		s.wg.Add(1)
		defer s.wg.Done()
	}
	s.mu.Unlock()
	err := s.ctx.Err()
	if err == nil {
		err = s.incoming.Deliver(s.ctx, stream, forward.Peer{Client: in.Client, Local: in.Local}, at)
	}
	if err == nil {
		return
	}
	protocol.WriteError(stream, "incoming", err)
	stream.Close()
	if errors.Is(err, syscall.ECONNREFUSED) {
		s.unlisten(in.Port, l, at)
	}
}

// unlisten gives a port back unless the debuggee has listened anew meanwhile.
func (s *Session) unlisten(port uint16, l *listener, at forward.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.listeners[port] == l && l.at.Addr == at.Addr && slices.Equal(l.at.Inodes, at.Inodes) {
		s.giveBack(port, "nobody listens")
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
		if len(l.at.Inodes) > 0 && !l.at.Listens() {
			s.giveBack(port, "nobody listens")
		}
	}
}

// giveBack ends a steal. s.mu is held.
func (s *Session) giveBack(port uint16, why string) {
	s.listeners[port].release()
	delete(s.listeners, port)
	s.log.Info("port given back", "port", port, "why", why)
}

func (s *Session) giveAllBack(why string) {
	for port := range s.listeners {
		s.giveBack(port, why)
	}
}
