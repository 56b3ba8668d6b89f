package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"mirrord/testdata/cluster/node"
)

// errNotRunning makes the exit code of status 1.
var errNotRunning = errors.New("not running")

// A report is what `status -o json` prints.
type report struct {
	Running    bool   `json:"running"`
	Problem    string `json:"problem,omitempty"`
	Dir        string `json:"dir"`
	Kubeconfig string `json:"kubeconfig,omitempty"`
	Server     string `json:"server,omitempty"`
	Pid        int    `json:"pid,omitempty"`
	Node       string `json:"node,omitempty"`
	Ready      bool   `json:"ready"`
	Version    string `json:"version,omitempty"`
	Pods       int    `json:"pods"`
	PodsUp     int    `json:"podsRunning"`
}

func (c *cluster) status(ctx context.Context, out io.Writer, format string) error {
	if format != "" && format != "json" {
		return errUsage
	}
	r, err := c.report(ctx)
	if err != nil {
		return err
	}
	if format == "json" {
		e := json.NewEncoder(out)
		e.SetIndent("", "  ")
		err = e.Encode(r)
	} else {
		_, err = io.WriteString(out, r.String())
	}
	if err == nil && !r.Running {
		err = errNotRunning
	}
	return err
}

func (c *cluster) report(ctx context.Context) (report, error) {
	r := report{Dir: c.dir}
	s, err := c.read()
	if err != nil || !s.alive() {
		return r, err
	}
	r.Pid = s.Pid
	if !s.Ready {
		r.Problem = "it is starting, or its start was killed: `cluster up` cleans up"
		return r, nil
	}
	api, err := c.healthy(ctx, s)
	if err != nil {
		r.Problem = fmt.Sprintf("the API server does not answer: %v", err)
		return r, nil
	}
	r.Running, r.Node = true, node.Name
	r.Kubeconfig, r.Server = c.path("kubeconfig"), fmt.Sprintf("https://127.0.0.1:%d", s.Port)
	n, err := node.GetStatus(ctx, api)
	if err != nil {
		return r, fmt.Errorf("asking for the node: %w", err)
	}
	r.Ready, r.Version, r.Problem = n.Ready, n.Version, ""
	if !n.Ready {
		r.Problem = n.Reason
	}
	if r.PodsUp, r.Pods, err = node.CountPods(ctx, api); err != nil {
		return r, fmt.Errorf("asking for the pods: %w", err)
	}
	return r, nil
}

func (r report) String() string {
	if !r.Running && r.Problem == "" {
		return fmt.Sprintf("not running: %s\n", r.Dir)
	}
	if !r.Running {
		return fmt.Sprintf("not usable: %s: %s\n", r.Dir, r.Problem)
	}
	ready := "ready"
	if !r.Ready {
		ready = "not ready: " + r.Problem
	}
	return fmt.Sprintf("running: %s\nserver:  %s\nnode:    %s %s, %s\npods:    %d of %d running\n",
		r.Kubeconfig, r.Server, r.Node, r.Version, ready, r.PodsUp, r.Pods)
}
