package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"mirrord/testdata/cluster/node"
)

// TestMain lets the test's binary be a node's pid 1, as the command's is.
func TestMain(m *testing.M) {
	beNode(os.Args)
	os.Exit(m.Run())
}

// A cluster is started, found running, loses a component, is killed and started
// again on the same port, ended; none of it disturbs another cluster of this machine.
func TestLifetime(t *testing.T) {
	c := newCluster(t)
	links := ls(t, "/sys/class/net")
	ctx := t.Context()
	if err := c.up(ctx); err != nil {
		t.Fatal(err)
	}
	first := mustRead(t, c)
	if err := c.up(ctx); err != nil {
		t.Fatal(err)
	}
	if again := mustRead(t, c); again.Pid != first.Pid {
		t.Errorf("up of a running cluster made process %d of %d", again.Pid, first.Pid)
	}
	if got := status(t, c); !got.Running || !got.Ready || got.Node != node.Name || !strings.HasPrefix(got.Version, "v1.") {
		t.Errorf("status of a running cluster is %+v", got)
	}

	componentComesBack(t, c, first, "kube-apiserver")
	componentComesBack(t, c, first, "kubelet")

	if err := syscall.Kill(first.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := first.kill(stopTimeout); err != nil {
		t.Fatal(err)
	}
	if got := status(t, c); got.Running {
		t.Errorf("status of a killed cluster is %+v", got)
	}
	if err := c.up(ctx); err != nil {
		t.Fatal(err)
	}
	second := mustRead(t, c)
	if second.Port != first.Port {
		t.Errorf("port is %d after a restart; it was %d", second.Port, first.Port)
	}
	if err := c.down(ctx, true); err != nil {
		t.Fatal(err)
	}
	nothingLeft(t, c, second)
	if now := ls(t, "/sys/class/net"); now != links {
		t.Errorf("links are %s; they were %s", now, links)
	}
	if _, err := os.Stat(c.dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there after a purge (%v)", c.dir, err)
	}
}

// Ctrl-C while the node starts leaves nothing.
func TestInterrupted(t *testing.T) {
	c := newCluster(t)
	ctx, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	var running state
	c.stderr = writer(func(b []byte) {
		if bytes.Contains(b, []byte("containerd answers")) {
			running = mustRead(t, c)
			interrupt()
		}
	})
	if err := c.up(ctx); !errors.Is(err, context.Canceled) {
		t.Fatalf("up ended with %v, want %v", err, context.Canceled)
	}
	if running.Pid == 0 {
		t.Fatal("there was no process to interrupt")
	}
	nothingLeft(t, c, running)
}

func TestUsage(t *testing.T) {
	for _, args := range [][]string{{}, {"upp"}, {"up", "now"}, {"load"}, {"--bad", "up"}, {"status", "-o", "yaml"}} {
		err := run(t.Context(), args, io.Discard, io.Discard)
		if !errors.Is(err, errUsage) {
			t.Errorf("%q: got %v, want %v", args, err, errUsage)
		}
	}
}

// componentComesBack kills a component and waits until the API server answers (again).
func componentComesBack(t *testing.T, c *cluster, s state, name string) {
	t.Helper()
	pid, err := s.component(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.restart(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	if now, err := s.component(name); now == pid || err != nil {
		t.Errorf("process %d answers after %d was killed (%v)", now, pid, err)
	}
}

// newCluster is one in a directory of the test's, built already: a test does not take ten minutes.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("a cluster needs root")
	}
	c, err := open(filepath.Join(t.TempDir(), "cluster"), writer(func(b []byte) { t.Logf("%s", bytes.TrimSpace(b)) }))
	if err != nil {
		t.Fatal(err)
	}
	build, err := c.source.Dir()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(build); err != nil {
		t.Skipf("the cluster is not built: `cluster up` builds it: %v", err)
	}
	t.Cleanup(func() { c.down(context.Background(), true) }) // after a failure
	return c
}

// nothingLeft checks what the node's end must take with it.
func nothingLeft(t *testing.T, c *cluster, s state) {
	t.Helper()
	for _, g := range s.Groups {
		if _, err := os.Stat(g.Dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("control group %s is left (%v)", g.Dir, err)
		}
	}
	if s.alive() {
		t.Errorf("process %d is left", s.Pid)
	}
	if pids := processes(t, func(cmdline string) bool { return strings.Contains(cmdline, c.dir) }); len(pids) > 0 {
		t.Errorf("processes %v are left", pids)
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(mounts, []byte(c.dir)) {
		t.Errorf("a mount is left:\n%s", mounts)
	}
	if conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", s.Port)); err == nil {
		conn.Close()
		t.Errorf("port %d still listens", s.Port)
	}
}

func processes(t *testing.T, match func(cmdline string) bool) (pids []int) {
	t.Helper()
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		var pid int
		if _, err := fmt.Sscanf(f, "/proc/%d/cmdline", &pid); err != nil || pid == os.Getpid() {
			continue
		}
		if b, err := os.ReadFile(f); err == nil && match(string(b)) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func mustRead(t *testing.T, c *cluster) state {
	t.Helper()
	s, err := c.read()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func status(t *testing.T, c *cluster) report {
	t.Helper()
	r, err := c.report(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func ls(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(entries)
}

// A writer is a function that gets what is written.
type writer func([]byte)

func (w writer) Write(b []byte) (int, error) {
	w(b)
	return len(b), nil
}
