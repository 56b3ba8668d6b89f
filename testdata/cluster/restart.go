package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/testdata/cluster/node"
)

// restartTimeout is for a component to come back and answer.
const restartTimeout = time.Minute

// restart kills a component as a crash would; the node starts it again. It
// returns when the new one does its work.
func (c *cluster) restart(ctx context.Context, name string) error {
	s, err := c.read()
	if err != nil {
		return err
	}
	if !s.alive() || !s.Ready {
		return errors.New("restarting " + name + ": the cluster does not run; `cluster up` starts it")
	}
	old, err := s.component(name)
	if err != nil {
		return err
	}
	begin := time.Now()
	if err := unix.Kill(old, unix.SIGKILL); err != nil {
		return fmt.Errorf("killing %s, process %d: %w", name, old, err)
	}
	ctx, cancel := context.WithTimeout(ctx, restartTimeout)
	defer cancel()
	for {
		pid, err := s.component(name)
		if err == nil && pid != old {
			if err = c.works(ctx, s, name); err == nil {
				c.say("%s, process %d, is back after %.1f s", name, pid, time.Since(begin).Seconds())
				return nil
			}
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s to come back: %w (%v)", name, context.Cause(ctx), err)
		}
	}
}

// works asks the component itself where it can be asked.
func (c *cluster) works(ctx context.Context, s state, name string) error {
	api, err := c.healthy(ctx, s)
	if err != nil || name != "kubelet" {
		return err
	}
	return api.Get(ctx, "/api/v1/nodes/"+node.Name+"/proxy/healthz", nil)
}

// component finds the process that runs under a name in the node's namespace.
func (s state) component(name string) (int, error) {
	inside, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/pid", s.Pid))
	if err != nil {
		return 0, fmt.Errorf("looking at the node: %w", err)
	}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, dir := range all {
		cmdline, _ := os.ReadFile(dir + "/cmdline") // it may have ended
		argv0, _, _ := bytes.Cut(cmdline, []byte{0})
		if string(argv0) != name {
			continue
		}
		if ns, err := os.Readlink(dir + "/ns/pid"); err != nil || ns != inside {
			continue // another cluster's
		}
		return strconv.Atoi(filepath.Base(dir))
	}
	return 0, fmt.Errorf("finding %s: no process of the node has this name; kubelet and kube-apiserver are among them", name)
}
