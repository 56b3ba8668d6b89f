package session

import (
	"context"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"unicode"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/layer/policy"
	"mirrord/protocol/ide"
)

// Explain tells what a call of a debuggee comes to, by the same policy that its
// launcher decides by.
func (m *Manager) Explain(ctx context.Context, p ide.ConfigExplainParams) (ide.ConfigExplainResult, error) {
	e := explanation{ConfigExplainResult: ide.ConfigExplainResult{Kind: p.Kind, Subject: p.Subject}}
	set, err := m.explained(ctx, p, &e)
	if err != nil {
		return ide.ConfigExplainResult{}, err
	}
	home, _ := config.LookupEnv(p.Client.Env, "HOME")
	temp, _ := config.LookupEnv(p.Client.Env, "TMPDIR")
	e.policy, err = policy.New(set, policy.Client{Home: home, Dir: p.Client.Dir, Temp: temp})
	if err != nil {
		return ide.ConfigExplainResult{}, configError(err)
	}
	switch p.Kind {
	case ide.ExplainPath:
		e.path(p.Client.Dir)
	case ide.ExplainConnect:
		err = e.connect()
	case ide.ExplainName:
		err = e.name()
	default:
		err = badSubject("explaining %q: it is none of %s, %s, %s", p.Kind, ide.ExplainPath, ide.ExplainConnect, ide.ExplainName)
	}
	return e.ConfigExplainResult, err
}

func badSubject(format string, args ...any) error {
	return &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf(format, args...)}
}

// An explanation is on its way to its result.
type explanation struct {
	ide.ConfigExplainResult
	config *config.Config
	policy *policy.Policy
	mounts bool // those of the target are known
}

// explained is the policy that is meant.
func (m *Manager) explained(ctx context.Context, p ide.ConfigExplainParams, e *explanation) (ide.Policy, error) {
	if p.Session != "" {
		s, err := m.session(p.Session)
		if err != nil {
			return ide.Policy{}, err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		e.config, e.mounts = s.config, true
		return s.launch.Policy, nil
	}
	cfg, err := config.Load(p.Client, p.ConfigFile, "", p.Overrides)
	if err != nil {
		return ide.Policy{}, configError(err)
	}
	e.config, e.Warnings = cfg, warnings(cfg)
	asked := p.Overrides.Target != ""
	if cfg.Target == "" || cfg.Targetless || p.Kind != ide.ExplainPath || cfg.Agent.Address != "" && !asked {
		e.mounts = cfg.Targetless || cfg.Agent.Address != ""
		return cfg.Policy(nil), nil
	}
	t, err := m.find(ctx, cfg, p.Client)
	switch {
	case err == nil:
		e.mounts = true
		return cfg.Policy(t.Mounts), nil
	case asked:
		return ide.Policy{}, clusterError(err)
	}
	e.Notes = append(e.Notes, fmt.Sprintf("where the target has volumes is not known: %v", err))
	return cfg.Policy(nil), nil
}

// find looks the configuration's target up; no agent is needed for that.
func (m *Manager) find(ctx context.Context, cfg *config.Config, client ide.Client) (*cluster.Target, error) {
	at, err := targetPath(cfg)
	if err != nil {
		return nil, err
	}
	c, err := cluster.Open(ctx, m.log, access(cfg, client))
	if err != nil {
		return nil, err
	}
	defer c.Close()
	return c.Resolve(ctx, at)
}

func (e *explanation) is(v policy.Verdict) {
	e.Verdict, e.Rule, e.Writable = v.Kind.String(), v.Rule, v.Writable
	setting, pattern := v.Origin()
	if setting != "" {
		e.From, e.Setting = e.config.Origin(setting, pattern)
	}
}

func (e *explanation) path(dir string) {
	if !path.IsAbs(e.Subject) {
		e.Subject = strings.TrimSuffix(dir, "/") + "/" + e.Subject
	}
	v := e.policy.Path(e.Subject)
	e.is(v)
	if v.Path != "" {
		_, pattern := e.policy.Mapped(path.Clean(e.Subject))
		at, key := e.config.Origin("feature.fs.mapping", pattern)
		e.Path, e.MappedBy = v.Path, at+": "+key
		if v.Moved() {
			e.Notes = append(e.Notes, "it is mapped to a path of this machine: it can be opened and looked at, all else fails with EIO")
		}
	}
	if v.Writable && len(e.config.SkipProcesses) > 0 {
		e.Notes = append(e.Notes, "programs of skip_processes and skip_build_tools write it on this machine: "+strings.Join(e.config.SkipProcesses, ", "))
	}
	if !e.mounts && e.config.AutoMount && v.MayBeMounted() {
		note := "if the target has a volume mounted there it is remote"
		if e.config.Target == "" {
			note += ": name the target to know"
		}
		e.Notes = append(e.Notes, note)
	}
}

// connect explains [tcp://|udp://]ADDRESS:PORT and unix:PATH.
func (e *explanation) connect() error {
	if at, ok := strings.CutPrefix(e.Subject, "unix:"); ok {
		e.is(e.policy.Unix(at))
		return nil
	}
	proto, text := policy.TCP, e.Subject
	switch scheme, rest, ok := strings.Cut(e.Subject, "://"); {
	case ok && scheme == "udp":
		proto, text = policy.UDP, rest
	case ok && scheme == "tcp":
		text = rest
	case ok:
		return badSubject("explaining a connection to %q: %q is not tcp or udp", e.Subject, scheme)
	}
	if port, ok := strings.CutPrefix(text, "localhost:"); ok {
		text = "127.0.0.1:" + port
	}
	to, err := netip.ParseAddrPort(text)
	if err != nil {
		return badSubject("explaining a connection to %q: it is not ADDRESS:PORT; what a debuggee connects to is an address, which it has from a name before", e.Subject)
	}
	e.is(e.policy.Connect(proto, to))
	return nil
}

func (e *explanation) name() error {
	if _, err := netip.ParseAddr(e.Subject); err == nil {
		e.is(policy.Verdict{Kind: policy.Local, Rule: "an address, which nobody looks up"})
		return nil
	}
	if !isHost(e.Subject) {
		return badSubject("explaining the name %q: no host is called that; it is a name alone, without a scheme or a port", e.Subject)
	}
	e.is(e.policy.Name())
	return nil
}

// A host's name is of at most 253 bytes, and each label of 63 (RFC 1035, 2.3.4).
const maxHost, maxLabel = 253, 63

// isHost tells whether a host may have a name. Some have "_" in theirs, against RFC 1123.
func isHost(name string) bool {
	name = strings.TrimSuffix(name, ".")
	if len(name) > maxHost {
		return false
	}
	for label := range strings.SplitSeq(name, ".") {
		if label == "" || len(label) > maxLabel || strings.ContainsFunc(label, func(r rune) bool {
			return r != '-' && r != '_' && !unicode.IsLetter(r) && !unicode.IsDigit(r)
		}) {
			return false
		}
	}
	return true
}
