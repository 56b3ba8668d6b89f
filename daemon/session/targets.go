package session

import (
	"context"
	"errors"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/protocol/ide"
)

// Targets lists what could be a session's target; tell gets what is found at once.
func (m *Manager) Targets(ctx context.Context, p ide.TargetListParams, tell func([]ide.Target)) (ide.TargetListResult, error) {
	c, _, err := m.cluster(ctx, "listing targets", p)
	if err != nil {
		return ide.TargetListResult{}, err
	}
	defer c.Close()
	listed, hidden, err := c.Targets(ctx, "", func(part []cluster.Listed) { tell(targetsOf(part)) })
	if err != nil {
		return ide.TargetListResult{}, clusterError(err)
	}
	return ide.TargetListResult{Namespace: c.Namespace(), Targets: targetsOf(listed), Hidden: hidden}, nil
}

func targetsOf(listed []cluster.Listed) []ide.Target {
	list := make([]ide.Target, len(listed)) // an array on the wire
	for i, l := range listed {
		list[i] = ide.Target{Path: l.Path.String(), Containers: l.Containers, Available: l.Available, Reason: l.Reason}
	}
	return list
}

// Namespaces lists where targets could be.
func (m *Manager) Namespaces(ctx context.Context, p ide.TargetListParams) (ide.NamespacesResult, error) {
	c, _, err := m.cluster(ctx, "listing namespaces", p)
	if err != nil {
		return ide.NamespacesResult{}, err
	}
	defer c.Close()
	names, err := c.Namespaces(ctx)
	if err != nil {
		return ide.NamespacesResult{}, clusterError(err)
	}
	return ide.NamespacesResult{Current: c.Namespace(), Namespaces: append([]string{}, names...)}, nil
}

// Contexts lists the clusters that a client's kubeconfig knows.
func (m *Manager) Contexts(_ context.Context, p ide.TargetListParams) (ide.ContextsResult, error) {
	cfg, err := config.Load(p.Client, p.ConfigFile, "", p.Overrides)
	if err != nil {
		return ide.ContextsResult{}, configError(err)
	}
	current, names, err := access(cfg, p.Client).Contexts()
	if err != nil {
		return ide.ContextsResult{}, clusterError(err)
	}
	return ide.ContextsResult{Current: current, Contexts: append([]string{}, names...)}, nil
}

// cluster opens the cluster that a client's settings choose, for doing what.
func (m *Manager) cluster(ctx context.Context, what string, p ide.TargetListParams) (*cluster.Cluster, *config.Config, error) {
	cfg, err := config.Load(p.Client, p.ConfigFile, "", p.Overrides)
	if err != nil {
		return nil, nil, configError(err)
	}
	if cfg.Agent.Address != "" {
		return nil, nil, configError(errors.New(what + ": agent.address is set, so there is no cluster to list"))
	}
	c, err := cluster.Open(ctx, m.log, access(cfg, p.Client))
	if err != nil {
		return nil, nil, clusterError(err)
	}
	return c, cfg, nil
}

// targetPath reads the configuration's target. The error names its place.
func targetPath(cfg *config.Config) (cluster.Path, error) {
	path, err := cluster.ParseTarget(cfg.Target)
	if e, ok := errors.AsType[*cluster.Error](err); ok {
		e.Msg = cfg.TargetOrigin() + ": " + e.Msg
	}
	return path, err
}

// Verify tells what is wrong with a configuration file, and what it chooses.
func (m *Manager) Verify(p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error) {
	return config.Verify(p, func(target string) error {
		_, err := cluster.ParseTarget(target)
		return err
	})
}

// DefaultConfig is a configuration file to begin with.
func (m *Manager) DefaultConfig() ide.ConfigDefaultResult { return config.Default() }
