// Package serve answers the agent's clients: it accepts their links, tells
// them what the agent can do and gives each stream to the feature of its kind.
//
//	control ─┬ yamux: hello, then
//	bulk ────┼ stream: one request, one answer ─▶ files, environment
//	         ├ stream: a request, then bytes ───▶ outgoing
//	         └ stream: for as long as it is open ▶ incoming, pause
//
// Whatever a client has, both links share, and it loses all of it when its
// control link ends. While it has neither link its ports are the pod's, which runs.
package serve

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/agent/files"
	"mirrord/agent/incoming"
	"mirrord/agent/pause"
	"mirrord/agent/target"
	"mirrord/protocol"
	"mirrord/protocol/link"
)

// maxKinds bounds the kinds of streams that are counted.
const maxKinds = 64

// A Server serves one target to any number of clients.
type Server struct {
	log      *slog.Logger
	target   *target.Target
	tree     *files.Tree
	pauser   *pause.Pauser
	incoming *incoming.Incoming // nil: unable, for the reason in disabled
	disabled error

	idle       time.Duration
	maxStreams int // of one client

	streams [maxKinds]atomic.Int64 // that were begun, by kind

	quiet   *time.Timer // runs while there are no clients
	mu      sync.Mutex
	clients map[link.ID]*client // guarded by mu
}

// New makes a server of t. Ports cannot be stolen where in is nil, and
// disabled says why. It ends by itself when it had no client for idle.
func New(log *slog.Logger, t *target.Target, in *incoming.Incoming, disabled error, idle time.Duration) *Server {
	return &Server{
		log:        log,
		target:     t,
		tree:       files.New(t.Root, t.User),
		pauser:     pause.New(log, t.Processes),
		incoming:   in,
		disabled:   disabled,
		idle:       idle,
		clients:    map[link.ID]*client{},
		maxStreams: maxStreams,
	}
}

// Run serves clients on l until ctx is done or nobody came for the idle time;
// then it has ended all that clients had, and returns nil.
func (s *Server) Run(ctx context.Context, l net.Listener) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer s.pauser.Close()
	defer s.target.OnChange(s.pauser.Changed)()
	s.quiet = time.AfterFunc(s.idle, func() { cancel(fmt.Errorf("no client for %v", s.idle)) })
	defer s.quiet.Stop()
	err := link.NewServer(s.log, link.Grace).Serve(ctx, l, func(ctx context.Context, c *link.Conn, id link.ID, ch link.Channel) {
		if ch == link.Control {
			s.client(ctx, c, id)
		} else if client := s.find(id); client != nil {
			client.join(c)
		}
	})
	if ctx.Err() != nil {
		s.log.Info("agent ends", "err", context.Cause(ctx))
		return nil
	}
	return fmt.Errorf("serving clients: %w", err)
}

func (s *Server) add(id link.ID, c *client) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clients[id] = c
	s.quiet.Stop()
}

func (s *Server) remove(id link.ID) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.clients, id)
	if len(s.clients) == 0 {
		s.quiet.Reset(s.idle)
	}
}

var errSucceeded = errors.New("another daemon has taken its daemon's place")

// succeed notes who c is, and ends the clients of dead daemons of the same
// place: their ports are free when it returns. What hangs, as a read of a file
// may, is not waited for.
func (s *Server) succeed(c *client, who protocol.Client) {
	var dead []*client
	s.mu.Lock()
	c.who = who
	for _, other := range s.clients {
		if who.Place != "" && other.who.Place == who.Place && other.who.Run < who.Run {
			dead = append(dead, other)
		}
	}
	s.mu.Unlock()
	for _, other := range dead {
		other.end(errSucceeded)
		other.steals.wait()
	}
}

func (s *Server) find(id link.ID) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.clients[id]
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
		ability(protocol.AbilityRedirect, s.disabled),
		ability(protocol.AbilityWrite, s.tree.CanAct()),
	}
	return reply, nil
}

func ability(name string, err error) protocol.Ability {
	if err != nil {
		return protocol.Ability{Name: name, Err: err.Error()}
	}
	return protocol.Ability{Name: name}
}
