package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/daemon/cluster"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// goneTime is how long an agent waits for word of the end of a target that is
// being deleted: its container ends before its pod is gone.
const goneTime = 10 * time.Second

const keep = time.Minute // an unused tunnel stays open for the next session

// agents are the daemon's tunnels, one for each agent, shared by the sessions
// on its target.
//
// Goroutines: three for each tunnel, which wait for its end, look after the
// pods it depends on and hear of leases; close waits for all.
type agents struct {
	log  *slog.Logger
	who  protocol.Client // who we are to agents
	tell func(a *agent, n news)
	came func(a *agent) // run for each that is opened; it ends with its tunnel
	wg   sync.WaitGroup

	mu     sync.Mutex
	closed bool              // guarded by mu
	byKey  map[string]*agent // guarded by mu
}

// An agent is one entry. Its opener holds turn; the fields after it are of use
// once tunnel is set.
type agent struct {
	key    string
	turn   chan struct{} // of capacity 1
	tunnel *tunnel.Tunnel

	cluster *cluster.Cluster // nil: the agent is at an address

	hearing atomic.Pointer[hearing] // nil: it has not begun to hear of leases

	users int         // guarded by agents.mu
	idle  *time.Timer // guarded by agents.mu; runs while users is 0
}

// news of an agent that sessions use.
type news struct {
	words  string
	ending bool // the target is about to go: no port is to be taken any more
	lost   bool // nothing remote works from now on
}

func newAgents(log *slog.Logger, who protocol.Client, came func(*agent), tell func(*agent, news)) *agents {
	return &agents{log: log, who: who, came: came, tell: tell, byKey: map[string]*agent{}}
}

// open returns the agent of key, whose tunnel is made by start where there is none.
func (as *agents) open(ctx context.Context, key string, start func(context.Context) (opened, error)) (*agent, error) {
	a, err := as.use(key)
	if err != nil {
		return nil, err
	}
	select {
	case a.turn <- struct{}{}:
		defer func() { <-a.turn }()
	case <-ctx.Done():
		as.put(a)
		return nil, context.Cause(ctx)
	}
	if a.tunnel != nil {
		select {
		case <-a.tunnel.Done():
			as.drop(a)
			as.put(a)
			return nil, &ide.Error{
				Code: ide.CodeAgent, Msg: fmt.Sprintf("using the agent: %v", a.tunnel.Err()), Hint: "try again: a new agent will be started",
			}
		default:
			return a, nil
		}
	}
	o, err := start(ctx)
	if err != nil {
		as.put(a)
		return nil, err
	}
	a.tunnel, a.cluster = o.tunnel, o.cluster
	as.mu.Lock()
	defer as.mu.Unlock()
	if !as.closed {
		as.wg.Go(func() { as.attend(a, o) })
		as.wg.Go(func() { as.came(a) })
	}
	return a, nil
}

// attend tells of what happens to an agent and its target until the tunnel
// ends; then the next session starts another.
func (as *agents) attend(a *agent, o opened) {
	ctx, cancel := context.WithCancelCause(context.Background())
	defer cancel(nil)
	var ending atomic.Bool // the target is
	var watching sync.WaitGroup
	if o.target != nil {
		watching.Go(func() { as.watchAgent(ctx, o, cancel) })
		if !o.target.Targetless() {
			watching.Go(func() { as.watchTarget(ctx, a, o, &ending, cancel) })
		}
	}
	var err error
	select {
	case <-a.tunnel.Done():
		if err = a.tunnel.Err(); errors.Is(err, io.EOF) {
			err = errors.New("it ended")
		}
		err = fmt.Errorf("the agent is gone (%w)", err)
		if ending.Load() { // then that is why, and is about to be told
			select {
			case <-ctx.Done():
				err = context.Cause(ctx)
			case <-time.After(goneTime):
			}
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	as.drop(a)
	if !errors.Is(err, net.ErrClosed) {
		as.log.Warn("agent lost", "target", a.key, "err", err)
		as.tell(a, news{words: err.Error() + ": remote files and connections fail from now on; start anew to have them back", lost: true})
	}
	cancel(nil)
	a.tunnel.Close()
	watching.Wait()
}

// watchTarget ends the tunnel's use when the target's pod is gone.
func (as *agents) watchTarget(ctx context.Context, a *agent, o opened, ending *atomic.Bool, end context.CancelCauseFunc) {
	err := o.cluster.Watch(ctx, o.target, func(c cluster.Change) {
		as.log.Info("target changed", "target", o.target.Pod, "what", c.Words)
		switch c.Fate {
		case cluster.Restarted:
			as.tell(a, news{words: c.Words + ": files and new connections are the new one's from now on, the environment stays"})
		case cluster.Ending:
			ending.Store(true)
			as.tell(a, news{words: c.Words + ": its ports are given back", ending: true})
		case cluster.Gone:
			if err := o.running.Delete(ctx); err != nil {
				as.log.Debug("agent of a target that is gone", "err", err) // it ends by itself, being idle
			}
			end(errors.New(c.Words))
		}
	})
	if err != nil && ctx.Err() == nil {
		as.log.Warn("the target is not watched", "target", o.target.Pod, "err", err)
	}
}

// watchAgent ends the tunnel's use when the agent's pod is gone: sooner than
// the link would give up, and it knows why.
func (as *agents) watchAgent(ctx context.Context, o opened, end context.CancelCauseFunc) {
	if err := o.running.Wait(ctx); cluster.IsKind(err, cluster.AgentFailed) {
		end(err)
	} else if ctx.Err() == nil {
		as.log.Warn("the agent is not watched", "target", o.running.Pod, "err", err)
	}
}

// use finds or makes the entry of key.
func (as *agents) use(key string) (*agent, error) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.closed {
		return nil, errors.New("the daemon ends")
	}
	a := as.byKey[key]
	if a == nil {
		a = &agent{key: key, turn: make(chan struct{}, 1)}
		as.byKey[key] = a
	}
	a.users++
	if a.idle != nil {
		a.idle.Stop()
		a.idle = nil
	}
	return a, nil
}

// put gives back what get returned. An agent that nobody uses is kept for a while.
func (as *agents) put(a *agent) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if a.users--; a.users > 0 {
		return
	}
	if as.byKey[a.key] != a || as.closed {
		go a.end()
		return
	}
	a.idle = time.AfterFunc(keep, func() {
		as.mu.Lock()
		unused := a.users == 0 && as.byKey[a.key] == a
		if unused {
			delete(as.byKey, a.key)
		}
		as.mu.Unlock()
		if unused {
			a.end()
		}
	})
}

// drop makes the next session start another agent.
func (as *agents) drop(a *agent) {
	as.mu.Lock()
	defer as.mu.Unlock()
	if as.byKey[a.key] == a {
		delete(as.byKey, a.key)
	}
}

func (as *agents) close() {
	as.mu.Lock()
	as.closed = true
	var all []*agent
	for key, a := range as.byKey {
		all = append(all, a)
		delete(as.byKey, key)
	}
	as.mu.Unlock()
	var ends sync.WaitGroup
	for _, a := range all {
		ends.Go(a.end)
	}
	ends.Wait()
	as.wg.Wait()
}

func (a *agent) end() {
	if a.tunnel != nil {
		a.tunnel.Close()
	}
}
