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
		Thread: p.Thread, ID: id, Method: r.Request.Method, Path: r.Request.Path, Peer: r.Peer, Pod: s.agent.podAt(ctx, peer.Addr()),
	}
	s.events.tell(ide.SessionEvent{Session: s.id, Kind: ide.EventServing, Serving: &serving}, true)
	return ide.ServingResult{Serving: serving, Headers: r.Request.Headers}, nil
}

// podAt names the pod that has an address, "" where that is not known in time.
func (a *agent) podAt(ctx context.Context, addr netip.Addr) string {
	if a.cluster == nil {
		return "" // the agent is at an address
	}
	name, err := a.cluster.PodAt(ctx, addr)
	if err != nil {
		return ""
	}
	return name
}
