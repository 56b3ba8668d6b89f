package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"mirrord/testdata/cluster/cgroup"
	"mirrord/testdata/cluster/node"
	"mirrord/testdata/cluster/provision"
)

// A cluster is a directory, and a node if one runs.
type cluster struct {
	dir    string
	source provision.Source
	stderr io.Writer
}

// A state is what a later command must know, also after a kill -9 of this
// one: it is written before what it names is made.
type state struct {
	Port    int            `json:"port"` // of the API server on the host's loopback; kept for ever
	Pid     int            `json:"pid"`  // of the node's pid 1; 0: none
	Started uint64         `json:"started"`
	Groups  []cgroup.Group `json:"groups"`
	Build   string         `json:"build"` // directory of the programs that run
	Ready   bool           `json:"ready"`
}

func (c *cluster) path(name string) string { return filepath.Join(c.dir, name) }

// id tells this directory's cluster from others on the machine.
func (c *cluster) id() string {
	return fmt.Sprintf("mirrord-cluster-%x", sha256.Sum256([]byte(c.dir)))[:len("mirrord-cluster-")+10]
}

func (c *cluster) say(format string, args ...any) {
	fmt.Fprintf(c.stderr, format+"\n", args...)
}

// lock makes the directory and keeps other commands out until unlock.
func (c *cluster) lock(ctx context.Context) (unlock func(), err error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("the test cluster needs root, for namespaces, mounts and control groups; run it with sudo")
	}
	if err := os.MkdirAll(c.dir, 0o755); err != nil {
		return nil, fmt.Errorf("making the cluster's directory: %w", err)
	}
	return provision.Lock(ctx, c.path("lock"), func() { c.say("waiting for another command on this cluster") })
}

func (c *cluster) read() (state, error) {
	var s state
	b, err := os.ReadFile(c.path("state.json"))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	if err != nil {
		return s, fmt.Errorf("reading the cluster's state: %w", err)
	}
	if err := json.Unmarshal(b, &s); err != nil {
		return s, fmt.Errorf("decoding %s: %w", c.path("state.json"), err)
	}
	return s, nil
}

func (c *cluster) write(s state) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return fmt.Errorf("encoding the cluster's state: %w", err)
	}
	tmp := c.path("state.json.tmp")
	if err := os.WriteFile(tmp, append(b, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing the cluster's state: %w", err)
	}
	if err := os.Rename(tmp, c.path("state.json")); err != nil {
		return fmt.Errorf("writing the cluster's state: %w", err)
	}
	return nil
}

// alive tells whether the node's pid 1 is there: the same process, not a later one of its number.
func (s state) alive() bool {
	if s.Pid == 0 {
		return false
	}
	started, err := startTime(s.Pid)
	return err == nil && started == s.Started
}

// healthy asks a running node's API server.
func (c *cluster) healthy(ctx context.Context, s state) (*node.API, error) {
	api, err := node.NewAPI(fmt.Sprintf("https://127.0.0.1:%d", s.Port), c.path("pki"))
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return api, api.Ready(ctx)
}

// startTime is when a process that is no zombie started, in ticks since the boot.
func startTime(pid int) (uint64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	return parseStart(string(b))
}

func parseStart(stat string) (uint64, error) {
	// 42 (a name) with spaces) S 1 … : fields count from after the last parenthesis.
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("reading a process's state %q: too short", stat)
	}
	if fields[0] == "Z" || fields[0] == "X" {
		return 0, errors.New("the process has ended")
	}
	return strconv.ParseUint(fields[19], 10, 64)
}
