package session

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"mirrord/protocol/ide"
)

// servingTime is what there is for an answer: what a stopped thread serves is of
// use while the user looks at where it stands.
const servingTime = 150 * time.Millisecond

// Serving tells which request a stopped thread serves, by the connection that
// its debugger has seen it serve, and tells who listens.
func (m *Manager) Serving(ctx context.Context, p ide.ServingParams) (ide.ServingResult, error) {
	s, err := m.session(p.ID)
	if err != nil {
		return ide.ServingResult{}, err
	}
	peer, err := netip.ParseAddrPort(p.Peer)
	if err != nil {
		return ide.ServingResult{}, &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf("peer: %v", err), Hint: "it is ADDRESS:PORT", Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, servingTime)
	defer cancel()
	peer = netip.AddrPortFrom(peer.Addr().Unmap(), peer.Port())
	id, r, ok := s.traffic.Serving(ctx, peer, p.Stream)
	if !ok {
		return ide.ServingResult{}, &ide.Error{
			Code: ide.CodeParams, Msg: fmt.Sprintf("session %s knows no request of %s that is not answered", p.ID, p.Peer),
			Hint: "what comes is looked at while somebody listens with session/events and its traffic",
		}
	}
	serving := ide.Serving{
		Thread: p.Thread, ID: id, Method: r.Request.Method, Path: r.Request.Path, Peer: r.Peer, Pod: s.podAt(ctx, peer.Addr()),
	}
	if s.served(p.Thread, id) {
		s.events.tell(ide.SessionEvent{Session: s.id, Kind: ide.EventServing, Serving: &serving}, true)
	}
	return ide.ServingResult{Serving: serving, Headers: r.Request.Headers}, nil
}

// maxServes threads are remembered, with what they serve.
const maxServes = 1000

// served notes which request a thread serves, and tells whether that is new.
func (s *Session) served(thread int64, request uint64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.serves == nil || len(s.serves) > maxServes {
		s.serves = map[int64]uint64{}
	}
	was := s.serves[thread]
	s.serves[thread] = request
	return was != request
}

// A peer is who has an address of the cluster's, which is not asked at each step of
// a debugger's.
type peer struct {
	asked time.Time
	known chan struct{} // closed with name
	name  string        // "NAMESPACE/NAME", "": it is not known
}

const (
	peerTime = time.Minute     // then it is asked again
	findTime = 5 * time.Second // for an answer, which may be of use later
	maxPeers = 1000
)

// podAt names the pod that has an address, "" where that is not known in time.
func (s *Session) podAt(ctx context.Context, addr netip.Addr) string {
	c := s.agent().cluster
	if c == nil {
		return "" // the agent is at an address
	}
	p := s.peerAt(addr, func(ctx context.Context) (string, error) { return c.PodAt(ctx, addr) })
	select {
	case <-p.known:
		return p.name
	case <-ctx.Done():
		return ""
	}
}

// peerAt is what is known, or about to be, of an address; find is called where
// nothing is.
func (s *Session) peerAt(addr netip.Addr, find func(context.Context) (string, error)) *peer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p := s.peers[addr]; p != nil && time.Since(p.asked) < peerTime {
		return p
	}
	p := &peer{asked: time.Now(), known: make(chan struct{})}
	if s.ctx.Err() != nil {
		return p
	}
	if s.peers == nil || len(s.peers) > maxPeers {
		s.peers = map[netip.Addr]*peer{}
	}
	s.peers[addr] = p
	s.wg.Go(func() {
		defer close(p.known)
		ctx, cancel := context.WithTimeout(s.ctx, findTime)
		defer cancel()
		if name, err := find(ctx); err == nil {
			p.name = name
		}
	})
	return p
}
