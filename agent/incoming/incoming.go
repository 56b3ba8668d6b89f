// Package incoming takes over the target's TCP ports: a stolen connection goes
// to the client that holds its port.
//
//	client ─▶ kernel ─ sk_lookup ─▶ listener ─ ask ─▶ stream to the holder
//	            │ other ports                   └ refused, dead ─▶ the pod's own container
//	            └ established connections, exempt sources: as ever
//
// The rule: nothing of a connection is consumed before its holder took it, and
// a connection that nobody takes is the pod's, as if nothing had been stolen.
// On a port that kubelet probes, connections from where it is are looked at
// before (peek.go), and its probes are the pod's.
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
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// acceptPause is waited after an accept failed for want of descriptors or memory.
const acceptPause = 50 * time.Millisecond

// Incoming is the stealing of one network namespace's ports.
//
// Goroutines: one for each listener, one or two for each stolen connection;
// all are gone when Close returns.
type Incoming struct {
	log      *slog.Logger
	redirect *redirect
	cancel   context.CancelFunc
	wg       sync.WaitGroup
	slots    chan struct{} // one for each stolen connection

	mu     sync.Mutex
	steals map[uint16]*Steal // guarded by mu
}

// New prepares the redirect in the namespace of this process; nothing is
// stolen yet. An error tells what the kernel or the pod's permissions lack.
func New(log *slog.Logger) (*Incoming, error) {
	r, err := newRedirect()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	in := &Incoming{
		log:      log,
		redirect: r,
		cancel:   cancel,
		slots:    make(chan struct{}, maxConns),
		steals:   map[uint16]*Steal{},
	}
	for _, l := range r.listeners {
		in.wg.Go(func() { in.accept(ctx, l) })
	}
	return in, nil
}

// Close ends the redirect and every connection that it brought.
func (in *Incoming) Close() error {
	in.cancel()
	err := in.redirect.Detach()
	in.wg.Wait()
	return errors.Join(err, in.redirect.Close())
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
			in.wg.Go(func() {
				in.handle(ctx, conn)
				<-in.slots
			})
		default:
			in.log.Warn("too many stolen connections", "limit", maxConns)
			reset(conn)
		}
	}
}

// handle brings one stolen connection to its end.
func (in *Incoming) handle(ctx context.Context, conn *net.TCPConn) {
	client, local := addrOf(conn.RemoteAddr()), addrOf(conn.LocalAddr())
	if in.redirect.Owns(local) { // somebody in the pod came to our door directly
		reset(conn)
		return
	}
	log := in.log.With("port", local.Port(), "client", client)
	var first opening
	if s := in.holder(local.Port()); s != nil {
		if s.mayProbe(client, local) {
			var err error
			if first, err = s.peek(conn); err != nil {
				log.Debug("stolen connection broke", "err", err)
				reset(conn)
				return
			}
		}
		if !first.probe {
			stream, err := s.offer(protocol.Incoming{Port: local.Port(), Client: client, Local: local})
			if err == nil {
				log.Debug("stolen connection taken", "holder", s.client.Name())
				err := s.relay(ctx, conn, stream, first)
				log.Debug("stolen connection ended", "err", err)
				return
			}
			log.Debug("stolen connection not taken", "holder", s.client.Name(), "err", err)
		}
	}
	if err := in.pass(ctx, conn, local, first); err != nil {
		log.Debug("stolen connection refused", "err", err)
	}
}

func (in *Incoming) holder(port uint16) *Steal {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.steals[port]
}

// Steal brings every new connection to a port to client until it is released or
// ctx, which is the client's life, is done. EADDRINUSE: somebody else has it.
func (in *Incoming) Steal(ctx context.Context, q protocol.Steal, client Client) (*Steal, error) {
	if q.Port == 0 {
		return nil, fmt.Errorf("stealing port 0: %w", unix.EINVAL)
	}
	if q.Mirror {
		return nil, fmt.Errorf("mirroring port %d: %w", q.Port, unix.ENOTSUP)
	}
	c, err := claimPort(q.Port, fmt.Sprintf("%s of agent process %d (since %s)",
		client.Name(), unix.Getpid(), time.Now().UTC().Format(time.RFC3339)))
	if err != nil {
		return nil, err
	}
	s := &Steal{in: in, port: q.Port, probed: q.Probed, client: client, claim: c, life: ctx}
	if s.probed {
		if s.gateways, err = gateways(); err != nil {
			in.log.Warn("kubelet's address is not known", "err", err) // any may be
		}
	}
	s.mu.Lock() // the first connection may come before the hold is known
	defer s.mu.Unlock()
	in.mu.Lock()
	in.steals[q.Port] = s
	in.mu.Unlock()
	if err := s.arm(); err != nil {
		s.released = true
		s.drop()
		return nil, err
	}
	in.log.Info("port stolen", "port", q.Port, "holder", client.Name())
	return s, nil
}

// addrOf is a TCP address, IPv4 as such.
func addrOf(a net.Addr) netip.AddrPort {
	ap := a.(*net.TCPAddr).AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port())
}
