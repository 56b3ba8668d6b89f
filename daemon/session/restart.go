package session

import (
	"context"
	"fmt"
	"reflect"
	"slices"

	"mirrord/daemon/config"
	"mirrord/protocol/ide"
)

// Restart reads a session's configuration again. What differs holds for the
// launchers that come from now on; agent, tunnel and ports are kept.
func (m *Manager) Restart(ctx context.Context, p ide.SessionRestartParams) (ide.Session, error) {
	s, err := m.session(p.ID)
	if err != nil {
		return ide.Session{}, err
	}
	s.mu.Lock()
	start, old := s.start, s.config
	s.mu.Unlock()
	start.Client = p.Client
	cfg, err := configure(start)
	if err != nil {
		return ide.Session{}, err
	}
	if what := moved(old, cfg); what != "" {
		return ide.Session{}, &ide.Error{
			Code: ide.CodeConfig, Msg: fmt.Sprintf("restarting session %s: the configuration names another %s than when it began", s.id, what),
			Hint: "stop the session and start another",
		}
	}
	main := s.main.Load()
	if err := main.target.stealable(cfg); err != nil {
		return ide.Session{}, err
	}
	set, unset, err := environ(ctx, cfg, p.Client, s.agent())
	if err != nil {
		return ide.Session{}, clusterError(err)
	}
	security, err := secure(ctx, cfg, main.agent, main.target)
	if err != nil {
		return ide.Session{}, clusterError(err)
	}
	noFiles := m.filesFor(cfg)
	if err := s.pauseTargets(ctx, cfg.Pause); err != nil {
		return ide.Session{}, clusterError(err)
	}
	s.mu.Lock()
	s.config, s.noFiles, s.security = cfg, noFiles, security
	s.whileRestarting, s.whileStopped = cfg.Incoming.WhileRestarting, cfg.Incoming.WhileStopped
	s.launch.Env, s.launch.Unset, s.launch.Policy = set, unset, cfg.Policy(s.main.Load().target.mounts)
	s.launch.Session.Warnings = slices.Concat(warnings(cfg), s.withoutFiles(), s.main.Load().target.withoutAnswer(cfg))
	s.launch.Start.Client = p.Client
	s.event(ide.SessionEvent{Kind: ide.EventConfigured})
	s.arm()
	s.mu.Unlock()
	return s.info(), nil
}

// moved says in what a configuration needs another session, "" where in nothing.
func moved(old, now *config.Config) string {
	switch {
	case old.Target != now.Target || old.Targetless != now.Targetless:
		return "target"
	case old.Namespace != now.Namespace:
		return "namespace"
	case old.Kubeconfig != now.Kubeconfig || old.Context != now.Context:
		return "cluster"
	case !reflect.DeepEqual(old.Agent, now.Agent):
		return "agent"
	}
	return ""
}
