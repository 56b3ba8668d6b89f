package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"mirrord/testdata/cluster/cgroup"
	"mirrord/testdata/cluster/node"
)

// up starts the cluster unless it runs. After an error, an interruption too,
// nothing of it is left.
func (c *cluster) up(ctx context.Context) error {
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := c.read()
	if err != nil {
		return err
	}
	if running, err := c.running(ctx, s); running || err != nil {
		return err
	}
	if s.Pid != 0 || len(s.Groups) > 0 {
		c.say("ending what is left of the last cluster")
		if s, err = c.stop(ctx, s); err != nil {
			return err
		}
	}
	build, err := c.source.Ensure(ctx, func(step string) { c.say("%s", step) })
	if err != nil {
		return err
	}
	s.Build = build
	return c.start(ctx, s)
}

// running tells whether there is nothing to do, and says so.
func (c *cluster) running(ctx context.Context, s state) (bool, error) {
	if !s.alive() || !s.Ready {
		return false, nil
	}
	if _, err := c.healthy(ctx, s); err != nil {
		c.say("the cluster's API server does not answer: %v", err)
		return false, ctx.Err()
	}
	c.say("the cluster runs already: KUBECONFIG=%s", c.path("kubeconfig"))
	if build, err := c.source.Dir(); err == nil && build != s.Build {
		c.say("it was built from other sources than the checkout's now: down and up renew it")
	}
	return true, nil
}

func (c *cluster) start(ctx context.Context, s state) (err error) {
	begin := time.Now()
	progress := func(step string) { c.say("%5.1f s  %s", time.Since(begin).Seconds(), step) }
	listener, err := c.listen(s.Port)
	if err != nil {
		return err
	}
	defer listener.Close()
	s.Port = listener.Addr().(*net.TCPAddr).Port
	if err := c.prepare(s); err != nil {
		return err
	}
	if s.Groups, err = cgroup.Plan(c.id()); err != nil {
		return err
	}
	if err := c.write(s); err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// ctx may be what ended the start.
			_, stopping := c.stop(context.WithoutCancel(ctx), s)
			err = errors.Join(err, stopping)
		}
	}()
	if err := cgroup.Create(s.Groups); err != nil {
		return err
	}
	n, err := node.Start(c.dir, listener)
	if err != nil {
		return err
	}
	s.Pid = n.Pid
	if s.Started, err = startTime(n.Pid); err != nil {
		n.Kill()
		return fmt.Errorf("looking at the node's pid 1: %w", err)
	}
	if err := c.write(s); err != nil {
		n.Kill()
		return err
	}
	if err := n.Run(ctx, node.Config{State: c.dir, Cache: s.Build, Groups: s.Groups}, progress); err != nil {
		return err
	}
	s.Ready = true
	if err := c.write(s); err != nil {
		return err
	}
	progress("ready: KUBECONFIG=" + c.path("kubeconfig"))
	return nil
}

// listen takes the port that the cluster had before, else any free one.
func (c *cluster) listen(port int) (*net.TCPListener, error) {
	loopback := net.IPv4(127, 0, 0, 1)
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback, Port: port})
	if errors.Is(err, syscall.EADDRINUSE) && port != 0 {
		c.say("port %d is taken by another program; choosing another", port)
		l, err = net.ListenTCP("tcp4", &net.TCPAddr{IP: loopback})
	}
	if err != nil {
		return nil, fmt.Errorf("listening for the API server's clients: %w", err)
	}
	return l, nil
}

// prepare makes the directory's content: a fresh API, the images of before.
func (c *cluster) prepare(s state) error {
	for _, dir := range []string{"etcd", "kubelet", "pods", "log"} {
		if err := os.RemoveAll(c.path(dir)); err != nil {
			return fmt.Errorf("clearing the last cluster's %s: %w", dir, err)
		}
	}
	for _, dir := range []string{"etcd", "kubelet", "pods", "log", "containerd"} {
		if err := os.MkdirAll(c.path(dir), 0o755); err != nil {
			return fmt.Errorf("making the cluster's directories: %w", err)
		}
	}
	if err := node.Credentials(c.dir, s.Port); err != nil {
		return err
	}
	// Its name tells the binary which component to be.
	if err := os.Remove(c.path("kubectl")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("removing the last cluster's kubectl: %w", err)
	}
	if err := os.Symlink(s.Build+"/kube", c.path("kubectl")); err != nil {
		return fmt.Errorf("linking kubectl: %w", err)
	}
	return nil
}
