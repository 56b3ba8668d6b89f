// Package layer stands between a debuggee and its kernel: it answers the calls
// that package seccomp traps, by the policy, from the daemon.
//
//	debuggee ── trapped call ──▶ receiver ─ Local ──▶ the kernel carries on
//	                                ├─ known ──▶ answer
//	                                ├─ a connection ── daemon ──▶ answer, by who reads the reply
//	                                └─ else ──▶ goroutine ── daemon ──▶ answer
//
// Its rules:
//
//   - The receiver waits for nobody: whatever may is done in a goroutine. (Its
//     reading of a path or address can fault in a page of the debuggee's.) To give
//     a descriptor takes until the debuggee's thread runs: then another receives.
//   - A call may be interrupted by a signal, also by a debugger's stop, at any
//     time. The kernel then asks again, and the second asking joins the first if
//     it asks the same: an address in memory may hold something else by then.
//   - On doubt about a Remote call an error, never Continue: what is meant for
//     the target must not leak to the developer's disk or network. A failure of
//     ours to see what the debuggee asks for is a doubt.
//   - A socket is never replaced: it is duplicated, and the duplicate connected
//     or bound to loopback. A duplicate lives as long as the answering of one
//     call: a blocking accept keeps its listener open, as in the kernel, and
//     after an interruption or the debuggee's end for waitStep at most.
package layer

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	"mirrord/protocol/crew"
)

// maxCalls bounds the calls that wait at one time. A debuggee's thread waits
// for one call only, so this is a number of threads.
const maxCalls = 8192

// A Config is what a layer is made of.
type Config struct {
	Policy   *policy.Policy
	Daemon   *Client
	Hostname string           // the target's
	Addrs    []netip.Addr     // the target's
	Message  func(msg string) // tells the user, in one line; it may wait for a terminal
	Over     func()           // the session has ended, and the debuggee is to
	Debugger *Debugger        // starts the debuggee; nil: there is none
	// Again starts a daemon and in it the session, after the daemon was lost. If
	// it is nil, what is lost stays lost.
	Again func(ctx context.Context) (socket, session string, err error)
}

// A Layer answers the hooked calls of one debuggee and all its children.
//
// Goroutines: Serve starts the receivers, one per call that may wait, one that attends to the
// daemon and, where that found another one, one that takes listeners' ports
// again, and waits for all; and one that tells the user, which it gives a while.
type Layer struct {
	log *slog.Logger
	Config
	listener   *seccomp.Listener
	hooks      []*hook // by number
	turn       turn    // to receive
	files      injected
	follower   follower
	sockets    sockets
	bound      bound
	serving    serving
	inspectors inspectors
	said       chan string // to the user
	once       messages

	team    *crew.Crew
	waiting chan struct{} // a token per call that waits

	mu      sync.Mutex
	flights map[flightKey]*flight // guarded by mu
}

// New makes a layer.
func New(log *slog.Logger, c Config) *Layer {
	l := &Layer{log: log, Config: c, waiting: make(chan struct{}, maxCalls), flights: make(map[flightKey]*flight), said: make(chan string, maxSaid), team: crew.New()}
	l.files.init(c.Daemon.root())
	l.follower = follower{l: l, stop: make(chan struct{})}
	l.files.follow = l.follower.follow
	if limit, ok := c.Policy.CacheTime(); ok {
		c.Daemon.keep(limit)
	}
	if c.Again != nil {
		c.Daemon.expect(true)
	}
	l.sockets.init()
	return l
}

// Program returns the rules of the calls that a layer must see; of c it needs what
// is there before the daemon: Policy and Debugger.
func (c *Config) Program() []seccomp.Rule {
	rules := []seccomp.Rule{{Call: seccomp.IoUringSetup, Errno: enosys}}
	for i := range hooks {
		if c.hooked(&hooks[i]) {
			rules = append(rules, hooks[i].Rule)
		}
	}
	return rules
}

// hooked tells whether the policy can decide anything about h's call.
func (c *Config) hooked(h *hook) bool {
	switch h.group {
	case files:
		return c.Policy.Files()
	case outgoing:
		return c.Policy.Sockets()
	case datagrams:
		return c.Policy.Datagrams()
	case binds:
		return c.Policy.Incoming() || c.Policy.Tree()
	case incoming:
		return c.Policy.Incoming()
	case socketNames:
		return c.Policy.Sockets() || c.Policy.Incoming()
	case programs:
		return c.judges() || c.Policy.Tree()
	}
	return c.Policy.Hostname()
}

// Serve answers calls until every task under the program has ended.
func (l *Layer) Serve(listener *seccomp.Listener) error {
	l.listener = listener
	l.hooks = make([]*hook, seccomp.Host.Numbers())
	for i := range hooks {
		if nr, ok := seccomp.Host.Number(hooks[i].Call); ok {
			l.hooks[nr] = &hooks[i]
		}
	}
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	spoken := make(chan struct{})
	go func() {
		defer close(spoken)
		for msg := range l.said {
			l.Message(msg)
		}
	}()
	l.team.Go(func() { l.attend(ctx) })
	err := l.receiveAll()
	stop()
	l.settle()
	l.follower.end()
	l.team.Wait()
	l.sockets.close()
	close(l.said)
	select {
	case <-spoken:
	case <-time.After(sayTime):
	}
	return err
}

// Of what is said to the user: how much may wait for a terminal that takes
// nothing, and how long that may hold up our end.
const (
	maxSaid = 64
	sayTime = time.Second
)

// say tells the user something, without waiting until it is heard.
func (l *Layer) say(msg string) {
	select {
	case l.said <- msg:
	default:
	}
}

// messages remembers what the user has been told.
type messages struct {
	mu   sync.Mutex
	told map[string]bool // guarded by mu
}

// tell gives the user a message, once.
func (l *Layer) tell(msg string) { l.tellAs(msg, msg) }

// tellAs gives the user one message about something.
func (l *Layer) tellAs(about, msg string) {
	l.once.mu.Lock()
	known := l.once.told[about]
	if l.once.told == nil || len(l.once.told) > 1000 {
		l.once.told = make(map[string]bool)
	}
	l.once.told[about] = true
	l.once.mu.Unlock()
	if !known {
		l.say(msg)
	}
}
