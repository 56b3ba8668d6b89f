package session

import (
	"context"
	"errors"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/protocol/ide"
)

// Targets lists what could be a session's target.
func (m *Manager) Targets(ctx context.Context, p ide.TargetListParams) (ide.TargetListResult, error) {
	cfg, err := config.Load(p.Client, p.ConfigFile, p.Overrides)
	if err != nil {
		return ide.TargetListResult{}, configError(err)
	}
	if cfg.Agent.Address != "" {
		return ide.TargetListResult{}, configError(errors.New("listing targets: agent.address is set, so there is no cluster to list"))
	}
	c, err := cluster.Open(ctx, m.log, access(cfg, p.Client))
	if err != nil {
		return ide.TargetListResult{}, clusterError(err)
	}
	defer c.Close()
	listed, err := c.Targets(ctx, "")
	if err != nil {
		return ide.TargetListResult{}, clusterError(err)
	}
	result := ide.TargetListResult{Namespace: c.Namespace(), Targets: []ide.Target{}}
	for _, l := range listed {
		result.Targets = append(result.Targets, ide.Target{Path: l.Path.String(), Containers: l.Containers, Available: l.Available, Reason: l.Reason})
	}
	return result, nil
}
