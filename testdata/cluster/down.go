package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/testdata/cluster/cgroup"
)

// stopTimeout is for the kernel to end every process of the node.
const stopTimeout = 20 * time.Second

func (c *cluster) down(ctx context.Context, purge bool) error {
	if _, err := os.Stat(c.dir); errors.Is(err, fs.ErrNotExist) {
		c.say("there is no cluster in %s", c.dir)
		return nil
	}
	unlock, err := c.lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := c.read()
	if err != nil {
		return err
	}
	begin := time.Now()
	if _, err := c.stop(ctx, s); err != nil {
		return err
	}
	if s.Pid != 0 {
		c.say("the cluster ended in %.1f s", time.Since(begin).Seconds())
	} else {
		c.say("the cluster was not running")
	}
	if !purge {
		return nil
	}
	if err := os.RemoveAll(c.dir); err != nil {
		return fmt.Errorf("deleting the cluster's directory: %w", err)
	}
	return nil
}

// stop ends the node and removes its control groups; the state that is left it also writes.
func (c *cluster) stop(ctx context.Context, s state) (state, error) {
	ctx, cancel := context.WithTimeout(ctx, stopTimeout)
	defer cancel()
	if err := s.kill(stopTimeout); err != nil {
		return s, err
	}
	if err := cgroup.Remove(ctx, s.Groups); err != nil {
		return s, err
	}
	s = state{Port: s.Port}
	return s, c.write(s)
}

// kill ends pid 1 and waits for it; the kernel lets it go only after all
// other processes of its namespace.
func (s state) kill(timeout time.Duration) error {
	if s.Pid == 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(s.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening the node's pid 1, process %d: %w", s.Pid, err)
	}
	defer unix.Close(fd)
	if !s.alive() { // asked after the opening: from here on it cannot be another process
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("ending the node's pid 1, process %d: %w", s.Pid, err)
	}
	deadline := time.Now().Add(timeout)
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, int(max(0, time.Until(deadline).Milliseconds())))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return fmt.Errorf("waiting for the node's pid 1, process %d: %w", s.Pid, err)
		case n == 0:
			return fmt.Errorf("waiting for the node's pid 1, process %d: it does not end", s.Pid)
		default:
			return nil
		}
	}
}
