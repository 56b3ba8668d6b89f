package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"mirrord/testdata/cluster/node"
)

// load imports image archives. The importer runs on the host: containerd's
// socket can be reached through the node's root, the archives only from here.
func (c *cluster) load(ctx context.Context, archives []string) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := c.read()
	if err != nil {
		return err
	}
	if !s.alive() || !s.Ready {
		return fmt.Errorf("loading images: the cluster in %s is not running; `cluster up` starts it", c.dir)
	}
	ctr := filepath.Join(s.Build, "packages", "usr", "bin", "ctr")
	socket := filepath.Join(fmt.Sprintf("/proc/%d/root", s.Pid), node.Containerd)
	for _, a := range archives {
		if _, err := os.Stat(a); err != nil {
			return fmt.Errorf("loading an image: %w", err)
		}
		out, err := exec.CommandContext(ctx, ctr, "--address", socket, "--namespace", "k8s.io", "images", "import", a).CombinedOutput()
		if err != nil {
			return fmt.Errorf("loading %s: %w: %s", a, err, strings.TrimSpace(string(out)))
		}
		c.say("%s", strings.TrimSpace(string(out)))
	}
	return nil
}
