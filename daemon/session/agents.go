package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"sync"
	"time"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/link"
)

const (
	agentPort = 7777            // on the loopback of the agent's own pod
	agentIdle = 5 * time.Minute // without a client an agent ends
	keep      = time.Minute     // an unused tunnel stays open for the next session
	dialTime  = 10 * time.Second
)

// agents are the daemon's tunnels, one for each agent, shared by the sessions
// on its target.
type agents struct {
	log  *slog.Logger
	gone func(a *agent, why error) // an agent that is used has ended
	came func(a *agent)            // run for each that is opened; it ends with its tunnel

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
	users  int         // guarded by agents.mu
	idle   *time.Timer // guarded by agents.mu; runs while users is 0
}

// A target is what sessions tell of the one they are bound to.
type target struct {
	name      string
	path      string // that names this very pod and container
	pod       string
	namespace string
	context   string
	mounts    []string
	probed    []int // ports that kubelet probes
}

func newAgents(log *slog.Logger, came func(*agent), gone func(*agent, error)) *agents {
	return &agents{log: log, came: came, gone: gone, byKey: map[string]*agent{}}
}

// get finds the configuration's target and a tunnel to its agent. The caller
// gives the agent back with put.
func (as *agents) get(ctx context.Context, cfg *config.Config, client ide.Client, progress func(string)) (*agent, target, error) {
	if addr := cfg.Agent.Address; addr != "" {
		a, err := as.open(ctx, "address "+addr, func(ctx context.Context) (*tunnel.Tunnel, error) {
			progress("connecting to the agent at " + addr)
			return as.dial(ctx, addr)
		})
		return a, target{name: "agent " + addr}, err
	}
	c, err := cluster.Open(ctx, as.log, access(cfg, client))
	if err != nil {
		return nil, target{}, err
	}
	path, err := cluster.ParseTarget(cfg.Target)
	if err != nil {
		return nil, target{}, err
	}
	progress("finding " + cfg.Target)
	t, err := c.Resolve(ctx, path)
	if err != nil {
		return nil, target{}, err
	}
	// Whoever may use an agent is whoever the API server lets reach it: other
	// credentials are another tunnel.
	key := fmt.Sprint(c.Identity(), t.UID, t.ContainerID, cfg.Agent.Namespace, cfg.Agent.Image)
	a, err := as.open(ctx, key, func(ctx context.Context) (*tunnel.Tunnel, error) { return as.start(ctx, c, t, cfg, progress) })
	return a, target{
		name: fmt.Sprintf("pod/%s/container/%s in %s", t.Pod, t.Container, t.Namespace),
		path: cluster.Path{Kind: "pod", Name: t.Pod, Container: t.Container}.String(),
		pod:  t.Pod, namespace: t.Namespace, context: c.Context(), mounts: t.Mounts, probed: t.ProbePorts,
	}, err
}

func access(cfg *config.Config, client ide.Client) cluster.Access {
	return cluster.Access{
		Kubeconfig: cfg.Kubeconfig, Context: cfg.Context, Namespace: cfg.Namespace,
		Env: client.Env, Dir: client.Dir, InsecureSkipTLSVerify: cfg.Insecure, IgnoreProxy: !cfg.UseProxy,
	}
}

// dial opens a tunnel to an agent at an address.
func (as *agents) dial(ctx context.Context, addr string) (*tunnel.Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	t, err := tunnel.Open(ctx, as.log, link.NewID(), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", addr)
	})
	if err != nil {
		return nil, &ide.Error{
			Code: ide.CodeAgent, Msg: fmt.Sprintf("connecting to the agent at %s: %v", addr, err), Err: err,
			Hint: "start one with: mirrord-agent --listen " + addr,
		}
	}
	return t, nil
}

// start gets the target an agent pod and opens a tunnel to it.
func (as *agents) start(ctx context.Context, c *cluster.Cluster, t *cluster.Target, cfg *config.Config, progress func(string)) (*tunnel.Tunnel, error) {
	s := &cfg.Agent
	idle := cmp.Or(s.IdleTimeout, agentIdle)
	spec := cluster.AgentSpec{
		Image: cmp.Or(s.Image, "mirrord-agent:"+protocol.Build), PullPolicy: s.ImagePullPolicy, PullSecrets: s.ImagePullSecrets,
		Namespace: s.Namespace, Build: protocol.Build, Port: agentPort, StartupTimeout: s.StartupTimeout,
		Labels: s.Labels, Annotations: s.Annotations, ServiceAccount: s.ServiceAccount, PriorityClass: s.PriorityClass,
		Tolerations: s.Tolerations, Resources: s.Resources, Privileged: s.Privileged,
		DisabledCapabilities: s.DisabledCapabilities, MeshInjection: s.MeshInjection, TTL: s.TTL,
		Args: []string{
			"--listen", "127.0.0.1:" + strconv.Itoa(agentPort), "--container", t.ContainerID,
			"--idle", idle.String(), "--build", protocol.Build,
		},
	}
	var tun *tunnel.Tunnel
	pod := make(chan *cluster.Agent, 1) // StartAgent's answer, for the link's later connections
	running, err := c.StartAgent(ctx, t, spec, progress, func(ctx context.Context, first net.Conn) (err error) {
		// Each try is a client of its own: the last may have got half way.
		tun, err = tunnel.Open(ctx, as.log, link.NewID(), func(ctx context.Context) (net.Conn, error) {
			if nc := first; nc != nil {
				first = nil
				return nc, nil
			}
			select {
			case a := <-pod:
				pod <- a
				return as.redial(ctx, a)
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		})
		if errors.Is(err, tunnel.ErrBuild) {
			err = errors.Join(cluster.ErrFinal, err)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	pod <- running
	return tun, nil
}

// redial connects anew to an agent that was there. One that is gone is not
// waited for.
func (as *agents) redial(ctx context.Context, a *cluster.Agent) (net.Conn, error) {
	nc, err := a.Dial(ctx)
	if err == nil {
		return nc, nil
	}
	if gone := a.Gone(ctx); cluster.IsKind(gone, cluster.AgentFailed) {
		return nil, fmt.Errorf("%w: %v", link.ErrGone, gone)
	}
	return nil, err
}

// open returns the agent of key, whose tunnel is made by start where there is none.
func (as *agents) open(ctx context.Context, key string, start func(context.Context) (*tunnel.Tunnel, error)) (*agent, error) {
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
	t, err := start(ctx)
	if err != nil {
		as.put(a)
		return nil, err
	}
	a.tunnel = t
	go as.came(a)
	go func() { // until the tunnel ends; then the next session starts another
		<-t.Done()
		as.drop(a)
		if err := t.Err(); !errors.Is(err, net.ErrClosed) {
			if errors.Is(err, io.EOF) {
				err = errors.New("it ended")
			}
			as.log.Warn("agent gone", "target", key, "err", err)
			as.gone(a, err)
		}
	}()
	return a, nil
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
	for _, a := range all {
		a.end()
	}
}

func (a *agent) end() {
	if a.tunnel != nil {
		a.tunnel.Close()
	}
}
