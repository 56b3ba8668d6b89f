package session

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"mirrord/daemon/config"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// Start makes a session. It lives until Stop, or until both the connections
// that started it (Release) and its launchers are gone. With an ID it makes a
// session again that a daemon's end took away, unless somebody else has.
func (m *Manager) Start(ctx context.Context, p ide.SessionStartParams, progress func(string)) (ide.Session, error) {
	if p.ID == "" {
		p.ID = newID()
	} else if err := checkID(p.ID); err != nil {
		return ide.Session{}, err
	}
	if s := m.hold(p.ID); s != nil {
		return s.info(), nil
	}
	cfg, err := configure(p)
	if err != nil {
		return ide.Session{}, err
	}
	noFiles := m.filesFor(cfg)
	a, target, others, err := m.agents.get(ctx, cfg, p.Client, p.Pod, progress)
	if err != nil {
		return ide.Session{}, clusterError(err)
	}
	s, err := m.begin(ctx, cfg, p, a, target, others)
	if err != nil {
		m.agents.put(a)
		return ide.Session{}, clusterError(err)
	}
	if others != nil {
		others.s, s.others = s, others
	}
	s.noFiles = noFiles
	s.launch.Session.Warnings = slices.Concat(s.launch.Session.Warnings, s.withoutFiles(), target.withoutAnswer(cfg))
	steal := s.launch.Policy.Steal
	if cfg.Pause {
		progress("pausing " + target.name)
	}
	if err := s.pauseTarget(ctx, s.main.Load()); err != nil {
		s.close()
		m.agents.putAll(s)
		return ide.Session{}, clusterError(err)
	}
	if other := m.register(s); other != s {
		s.close()
		m.agents.putAll(s)
		s = other
	} else if others != nil && (steal || cfg.Pause) {
		others.expect()
	}
	return s.info(), nil
}

// configure reads a session's configuration.
func configure(p ide.SessionStartParams) (*config.Config, error) {
	cfg, err := config.Load(p.Client, p.ConfigFile, p.ID, p.Overrides)
	if err == nil {
		err = cfg.NeedTarget()
	}
	if err != nil {
		return nil, configError(err)
	}
	return cfg, nil
}

// filesFor starts the file server if a session needs it. Most of one works
// without: why there is none.
func (m *Manager) filesFor(cfg *config.Config) error {
	if cfg.FS.Mode == "local" {
		return nil
	}
	return m.startFiles()
}

// begin reads what a debuggee needs to know of the target.
func (m *Manager) begin(ctx context.Context, cfg *config.Config, p ide.SessionStartParams, a *agent, target target, others *others) (*Session, error) {
	if err := target.stealable(cfg); err != nil {
		return nil, err
	}
	var made *Session
	var failed error
	var wg sync.WaitGroup
	wg.Go(func() { made, failed = newSession(m.log, p.ID, a, target, &m.events, cfg) }) // while the agent is asked
	set, unset, err := environ(ctx, cfg, p.Client, a)
	var security security
	if err == nil {
		security, err = secure(ctx, cfg, a, target)
	}
	wg.Wait()
	if err = cmp.Or(err, failed); err != nil {
		if made != nil {
			made.close()
		}
		return nil, err
	}
	s := made
	s.start, s.security = p, security
	if at, err := time.Parse(time.RFC3339, p.Started); err == nil {
		s.started = at
	}
	hello := a.tunnel.Hello()
	s.launch = ide.Launch{
		Session: ide.Session{
			ID: s.id, Target: target.name, Pod: target.pod, Namespace: target.namespace, Context: target.context,
			Started: s.started.Format(time.RFC3339), Warnings: warnings(cfg),
		},
		Hostname: hello.Hostname, Addrs: hello.Addrs, Env: set, Unset: unset, Policy: cfg.Policy(target.mounts),
		Start: again(p, target, others),
	}
	s.launch.Start.Started = s.launch.Session.Started
	return s, nil
}

// stealable is an error where a configuration would steal what the target does not
// give.
func (t *target) stealable(cfg *config.Config) error {
	if cfg.Incoming.Mode != "steal" {
		return nil
	}
	return t.gives(&cfg.Incoming)
}

// gives refuses to steal from a node: its ports are not only the target's.
func (t *target) gives(c *config.Incoming) error {
	if !t.nodes || c.HostNetwork {
		return nil
	}
	return &ide.Error{
		Code: ide.CodeConfig,
		Msg:  fmt.Sprintf("stealing from pod %s in namespace %s: it is in its node's network (hostNetwork), where a port is stolen at all addresses of the node", t.pod, t.namespace),
		Hint: `mirror it, or say that you want that: "feature": {"network": {"incoming": {"host_network": true}}}`,
	}
}

// environ is what the target's environment changes of the client's.
func environ(ctx context.Context, cfg *config.Config, client ide.Client, a *agent) (set map[string]string, unset []string, err error) {
	var targets []byte
	if !cfg.Targetless { // else it is the agent's own
		targets, err = a.tunnel.Call(ctx, protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply))
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reading the target's environment: %w", err)
	}
	if set, unset, err = cfg.Environ(splitEnviron(targets), client); err != nil {
		return nil, nil, configError(err)
	}
	return set, unset, nil
}

// again is what starts the session once more, on the very same target, or workload.
func again(p ide.SessionStartParams, t target, o *others) ide.SessionStartParams {
	p.Progress, p.Tied, p.Launch = "", false, false
	p.Overrides.Context = cmp.Or(p.Overrides.Context, t.context) // the kubeconfig's current one may be another then
	switch {
	case o != nil: // and on this pod, if it is there yet
		p.Overrides.Target, p.Overrides.Namespace, p.Pod = o.path.String(), t.namespace, t.pod
	case t.path != "":
		p.Overrides.Target, p.Overrides.Namespace = t.path, t.namespace
	}
	return p
}

// withoutFiles warns of a file server that could not be started.
func (s *Session) withoutFiles() []string {
	if s.noFiles == nil {
		return nil
	}
	changes := ""
	if p := &s.launch.Policy; p.FSMode == "write" || len(p.ReadWrite) > 0 {
		changes = "what is changed by name (mkdir, rename, chmod, …) is changed there, but no file can be opened to be written; "
	}
	return []string{fmt.Sprintf("files of the target are copied when they are opened, for reading only; %s%s, and %s, cannot be opened: %v", changes, tooLarge, tooMany, s.noFiles)}
}

func splitEnviron(b []byte) []string {
	return slices.DeleteFunc(strings.Split(string(b), "\x00"), func(s string) bool { return s == "" })
}

func warnings(cfg *config.Config) []string {
	var list []string
	for _, w := range cfg.Warnings {
		list = append(list, w.String())
	}
	return list
}

const idBytes = 4

func newID() string {
	var b [idBytes]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// checkID judges an id that a client brings: it becomes part of logs and names.
func checkID(id string) error {
	if b, err := hex.DecodeString(id); err != nil || len(b) != idBytes || strings.ToLower(id) != id {
		return &ide.Error{
			Code: ide.CodeSession, Msg: fmt.Sprintf("starting session %.40q: an id is %d hexadecimal digits", id, 2*idBytes),
			Hint: "leave it out to start a new one",
		}
	}
	return nil
}
