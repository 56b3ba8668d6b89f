package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
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
	dialTime  = 10 * time.Second
)

// A target is what sessions tell of the one they are bound to.
type target struct {
	name      string
	path      string // that names this very pod and container
	pod       string
	namespace string
	context   string
	uid       string // the pod's
	mounts    []string
	probed    []int    // ports that kubelet probes
	ownProbes []int    // of these, the container's
	unlike    []string // probes of the container that cannot be told from others, and why
	nodes     bool     // its network is its node's
}

// opened is a tunnel and, where its agent is a pod, what it depends on.
type opened struct {
	tunnel  *tunnel.Tunnel
	cluster *cluster.Cluster
	target  *cluster.Target // nil: the agent is at an address
	running *cluster.Agent
}

// get finds the configuration's target and a tunnel to its agent. The caller
// gives the agent back with put. Of a workload it is that of the pod of that name,
// if that is a ready one, and the others can be had, too.
func (as *agents) get(ctx context.Context, cfg *config.Config, client ide.Client, pod string, progress func(string)) (*agent, target, *others, error) {
	if addr := cfg.Agent.Address; addr != "" {
		a, err := as.open(ctx, fmt.Sprintf("address %s for %v", addr, grace(cfg)), func(ctx context.Context) (opened, error) {
			progress("connecting to the agent at " + addr)
			t, err := as.dial(ctx, addr, grace(cfg))
			return opened{tunnel: t}, err
		})
		return a, target{name: "agent " + addr}, nil, err
	}
	path, err := targetPath(cfg)
	if err != nil {
		return nil, target{}, nil, err
	}
	c, err := cluster.Open(ctx, as.log, access(cfg, client))
	if err != nil {
		return nil, target{}, nil, err
	}
	progress("finding " + cfg.Target)
	t, err := c.ResolveAgain(ctx, path, pod)
	if err != nil {
		return nil, target{}, nil, err
	}
	a, err := as.reach(ctx, c, t, cfg, progress)
	if t.Targetless() {
		return a, target{name: "no target, in " + t.Namespace, path: cluster.Targetless, namespace: t.Namespace, context: c.Context()}, nil, err
	}
	if err != nil || !path.Replicates() {
		return a, targetOf(c, t), nil, err
	}
	return a, targetOf(c, t), newOthers(as, c, t.Path, cfg), nil
}

// reach gives a pod's agent a user more.
func (as *agents) reach(ctx context.Context, c *cluster.Cluster, t *cluster.Target, cfg *config.Config, progress func(string)) (*agent, error) {
	// Whoever may use an agent is whoever the API server lets reach it: other
	// credentials are another tunnel, and so is another grace.
	key := fmt.Sprint(c.Identity(), t.Targetless(), grace(cfg), t.Namespace, t.UID, t.Container, cfg.Agent.Namespace, cfg.Agent.Image)
	return as.open(ctx, key, func(ctx context.Context) (opened, error) { return as.start(ctx, c, t, cfg, progress) })
}

func targetOf(c *cluster.Cluster, t *cluster.Target) target {
	return target{
		name: fmt.Sprintf("pod/%s/container/%s in %s", t.Pod, t.Container, t.Namespace),
		path: cluster.Path{Kind: "pod", Name: t.Pod, Container: t.Container}.String(),
		pod:  t.Pod, uid: t.UID, namespace: t.Namespace, context: c.Context(), mounts: t.Mounts, probed: t.ProbePorts, ownProbes: t.OwnProbes, unlike: t.UnlikeProbe, nodes: t.HostNetwork,
	}
}

func access(cfg *config.Config, client ide.Client) cluster.Access {
	return cluster.Access{
		Kubeconfig: cfg.Kubeconfig, Context: cfg.Context, Namespace: cfg.Namespace,
		Env: client.Env, Dir: client.Dir, InsecureSkipTLSVerify: cfg.Insecure, IgnoreProxy: !cfg.UseProxy,
	}
}

// grace is how long daemon and agent keep a tunnel that has no connection.
func grace(cfg *config.Config) time.Duration { return cmp.Or(cfg.Agent.Grace, link.Grace) }

// dial opens a tunnel to an agent at an address.
func (as *agents) dial(ctx context.Context, addr string, grace time.Duration) (*tunnel.Tunnel, error) {
	ctx, cancel := context.WithTimeout(ctx, dialTime)
	defer cancel()
	t, err := tunnel.Open(ctx, as.log, as.who, link.NewID(), grace, func(ctx context.Context) (net.Conn, error) {
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
func (as *agents) start(ctx context.Context, c *cluster.Cluster, t *cluster.Target, cfg *config.Config, progress func(string)) (opened, error) {
	s := &cfg.Agent
	idle := cmp.Or(s.IdleTimeout, agentIdle)
	spec := cluster.AgentSpec{
		Image: cmp.Or(s.Image, "mirrord-agent:"+protocol.Build), PullPolicy: s.ImagePullPolicy, PullSecrets: s.ImagePullSecrets,
		Namespace: s.Namespace, Build: protocol.Build, Port: agentPort, StartupTimeout: s.StartupTimeout,
		Labels: s.Labels, Annotations: s.Annotations, ServiceAccount: s.ServiceAccount, PriorityClass: s.PriorityClass,
		Tolerations: s.Tolerations, Resources: s.Resources, Privileged: s.Privileged,
		DisabledCapabilities: s.DisabledCapabilities, MeshInjection: s.MeshInjection, TTL: s.TTL, NodeSelector: s.NodeSelector,
		Args: []string{"--listen", "127.0.0.1:" + strconv.Itoa(agentPort), "--idle", idle.String(), "--build", protocol.Build},
	}
	if s.LogLevel != "" {
		spec.Args = append(spec.Args, "--log-level", s.LogLevel)
	}
	if s.Metrics != "" {
		spec.Args = append(spec.Args, "--metrics", s.Metrics)
	}
	if !t.Targetless() {
		spec.Args = append(spec.Args, "--container", t.ContainerID)
	}
	var tun *tunnel.Tunnel
	pod := make(chan *cluster.Agent, 1) // StartAgent's answer, for the link's later connections
	running, err := c.StartAgent(ctx, t, spec, progress, func(ctx context.Context, first net.Conn) (err error) {
		// Each try is a client of its own: the last may have got half way, or all of it
		// when its time was up.
		if tun != nil {
			tun.Close()
		}
		tun, err = tunnel.Open(ctx, as.log, as.who, link.NewID(), grace(cfg), func(ctx context.Context) (net.Conn, error) {
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
		if tun != nil {
			tun.Close()
		}
		return opened{}, err
	}
	pod <- running
	return opened{tunnel: tun, cluster: c, target: t, running: running}, nil
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
