package session

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"mirrord/daemon/cluster"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/link"
)

const (
	maxAsking = 8 // agents that are asked at a time
	askTime   = 5 * time.Second
)

// Holders asks all agents that the client can reach who has which ports.
func (m *Manager) Holders(ctx context.Context, p ide.TargetListParams) (ide.HoldersResult, error) {
	r := ide.HoldersResult{Holders: []ide.Holder{}, Problems: []string{}} // arrays on the wire
	c, cfg, err := m.cluster(ctx, "listing who holds ports", p)
	if err != nil {
		return r, err
	}
	defer c.Close()
	list, places, err := c.Agents(ctx, p.Overrides.Namespace, cfg.Agent.Namespace, agentPort)
	if err != nil {
		return r, clusterError(err)
	}
	if len(places) > 0 && p.Overrides.Namespace == "" {
		r.Problems = append(r.Problems, fmt.Sprintf("agents were looked for in namespace %s alone, as you may not list the pods of all; -n chooses another", strings.Join(places, " and ")))
	}
	told, problems := make([][]ide.Holder, len(list)), make([]error, len(list))
	var asking errgroup.Group
	asking.SetLimit(maxAsking)
	for i := range list {
		asking.Go(func() error {
			told[i], problems[i] = m.agents.holders(ctx, &list[i])
			return nil
		})
	}
	if err := asking.Wait(); err != nil {
		return r, err
	}
	for i, err := range problems {
		r.Holders = append(r.Holders, told[i]...)
		if err != nil {
			r.Unasked++
			r.Problems = append(r.Problems, fmt.Sprintf("asking agent %s in namespace %s: %v", list[i].Pod, list[i].Namespace, err))
		}
	}
	slices.SortStableFunc(r.Holders, func(a, b ide.Holder) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Pod, b.Pod), cmp.Compare(a.Port, b.Port))
	})
	return r, nil
}

// holders asks one agent, as a client that comes for nothing else.
func (as *agents) holders(ctx context.Context, a *cluster.RunningAgent) ([]ide.Holder, error) {
	if a.Err != nil {
		return nil, a.Err
	}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	t, err := tunnel.Open(ctx, as.log, as.who, link.NewID(), askTime, func(ctx context.Context) (net.Conn, error) { return a.Dial(ctx) })
	if err != nil {
		if cluster.IsKind(a.Gone(ctx), cluster.AgentFailed) {
			return nil, nil // it is about to go, and holds nothing any more
		}
		return nil, fmt.Errorf("%s: %w", a.State, err)
	}
	defer t.Close()
	told, err := t.Call(ctx, protocol.KindHolders, struct{}{}, new(protocol.HoldersReply))
	if err != nil {
		return nil, err
	}
	var all []protocol.Holder
	if err := json.Unmarshal(told, &all); err != nil {
		return nil, fmt.Errorf("decoding holders: %w", err)
	}
	var list []ide.Holder
	for _, h := range all {
		mode := "steal"
		switch {
		case h.Mirror:
			mode = "mirror"
		case h.Pause:
			mode = "pause"
		}
		list = append(list, ide.Holder{
			User: h.Client, Session: h.Session, Namespace: a.TargetNamespace, Pod: a.TargetPod, Container: a.Container,
			Port: h.Port, Mode: mode, Filter: h.Filter, Once: h.Once, Since: h.Since, Away: h.Away, Redirect: h.Redirect,
		})
	}
	return list, nil
}
