// Package serve answers the agent's clients: it accepts their links, tells
// them what the agent can do and gives each stream to the feature of its kind.
//
//	link ─ yamux ─┬ hello, then
//	              ├ stream: one request, one answer ─▶ files, environment
//	              ├ stream: a request, then bytes ───▶ outgoing
//	              └ stream: for as long as it is open ▶ incoming
//
// Whatever a client has, it loses when its link ends.
package serve

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"time"

	"mirrord/agent/files"
	"mirrord/agent/incoming"
	"mirrord/agent/target"
	"mirrord/protocol"
	"mirrord/protocol/link"
)

// A Server serves one target to any number of clients.
type Server struct {
	log      *slog.Logger
	target   *target.Target
	tree     *files.Tree
	incoming *incoming.Incoming // nil: unable, for the reason in disabled
	disabled error

	idle       time.Duration
	maxStreams int // of one client

	mu      sync.Mutex
	clients int // guarded by mu
}

// New makes a server of t. Ports cannot be stolen where in is nil, and
// disabled says why. It ends by itself when it had no client for idle.
func New(log *slog.Logger, t *target.Target, in *incoming.Incoming, disabled error, idle time.Duration) *Server {
	return &Server{
		log:        log,
		target:     t,
		tree:       files.New(t.Root, t.User),
		incoming:   in,
		disabled:   disabled,
		idle:       idle,
		maxStreams: maxStreams,
	}
}

// Run serves clients on l until ctx is done or nobody came for the idle time;
// then it has ended all that clients had, and returns nil.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	quiet := time.AfterFunc(s.idle, func() { cancel(fmt.Errorf("no client for %v", s.idle)) })
	defer quiet.Stop()
	err := link.NewServer(s.log, link.Grace).Serve(ctx, l, func(ctx context.Context, c *link.Conn, id link.ID) {
		s.count(quiet, 1)
		defer s.count(quiet, -1)
		s.client(ctx, c, id.String())
	})
	if ctx.Err() != nil {
		s.log.Info("agent ends", "err", context.Cause(ctx))
		return nil
	}
	return fmt.Errorf("serving clients: %w", err)
}

// count keeps the number of clients; quiet runs while there are none.
func (s *Server) count(quiet *time.Timer, change int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients += change
	if s.clients == 0 {
		quiet.Reset(s.idle)
	} else {
		quiet.Stop()
	}
}

// hello tells what this agent is and can do.
func (s *Server) hello() (protocol.HelloReply, error) {
	name, err := os.Hostname() // the target's: its UTS namespace was entered
	if err != nil {
		return protocol.HelloReply{}, err
	}
	reply := protocol.HelloReply{
		Version:  protocol.Version,
		Build:    protocol.Build,
		Kinds:    protocol.ClientKinds(),
		Hostname: name,
	}
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return reply, fmt.Errorf("listing addresses: %w", err)
	}
	for _, a := range addrs {
		if n, ok := a.(*net.IPNet); ok && n.IP.IsGlobalUnicast() {
			reply.Addrs = append(reply.Addrs, n.IP.String())
		}
	}
	_, environ := s.target.Environ()
	reply.Abilities = []protocol.Ability{
		ability(protocol.AbilityTarget, environ),
		ability(protocol.AbilityNetwork, nil), // or the agent would not have started
		ability(protocol.AbilitySkLookup, s.disabled),
	}
	return reply, nil
}

func ability(name string, err error) protocol.Ability {
	if err != nil {
		return protocol.Ability{Name: name, Err: err.Error()}
	}
	return protocol.Ability{Name: name}
}
