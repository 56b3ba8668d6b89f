package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"mirrord/testdata/cluster/cgroup"
)

// InitCommand is the first argument that makes this program a node's pid 1.
const InitCommand = "init"

// goOn is the byte that pid 1 waits for before it leaves the host's control groups.
const goOn = '+'

// The descriptors that pid 1 inherits.
const (
	listenerFD = 3
	controlFD  = 4
)

// An event is what pid 1 tells about its start, one JSON object a line.
type event struct {
	Step  string `json:"step,omitempty"`
	Ready bool   `json:"ready,omitempty"`
	Error string `json:"error,omitempty"`
}

// A Starting node has a pid 1 that waits to be told to go on.
type Starting struct {
	Pid     int
	cmd     *exec.Cmd
	control *os.File
	log     string
}

// Start makes the node's pid 1, which ends by itself if this process does
// before Run. The listener is handed to it.
func Start(state string, listener *net.TCPListener) (*Starting, error) {
	file, err := listener.File()
	if err != nil {
		return nil, fmt.Errorf("taking the listener's descriptor: %w", err)
	}
	defer file.Close()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("making a socket pair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(pair[0]), "control"), os.NewFile(uintptr(pair[1]), "control")
	defer theirs.Close()
	logPath := filepath.Join(state, "log", "node.log")
	log, err := os.Create(logPath)
	if err != nil {
		ours.Close()
		return nil, fmt.Errorf("making the node's log: %w", err)
	}
	defer log.Close()

	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{"mirrord-cluster-node", InitCommand, state} // the directory is for ps(1)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"}
	cmd.Dir = "/"
	cmd.Stdout, cmd.Stderr = log, log
	cmd.ExtraFiles = []*os.File{listenerFD - 3: file, controlFD - 3: theirs}
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Setsid: true,
		Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWNET | unix.CLONE_NEWPID |
			unix.CLONE_NEWUTS | unix.CLONE_NEWIPC,
	}
	if err := cmd.Start(); err != nil {
		ours.Close()
		if errors.Is(err, unix.EPERM) || errors.Is(err, unix.ENOSPC) {
			return nil, fmt.Errorf("making namespaces for the node: %w; this needs CAP_SYS_ADMIN and a system that allows new namespaces", err)
		}
		return nil, fmt.Errorf("starting the node: %w", err)
	}
	return &Starting{Pid: cmd.Process.Pid, cmd: cmd, control: ours, log: logPath}, nil
}

// Run lets the node go on and returns when it is ready, telling progress each
// step. When that fails or ctx ends nothing of the node is left but its groups.
func (s *Starting) Run(ctx context.Context, cfg Config, progress func(step string)) error {
	defer s.control.Close()
	err := s.run(ctx, cfg, progress)
	if err != nil {
		s.Kill()
	}
	return err
}

// Kill ends a node that does not, or shall not, start.
func (s *Starting) Kill() {
	s.kill()
	s.cmd.Wait() // its status is ours
}

func (s *Starting) run(ctx context.Context, cfg Config, progress func(step string)) error {
	defer context.AfterFunc(ctx, s.kill)() // which ends the reading below
	if err := cgroup.Join(cfg.Groups, s.Pid); err != nil {
		return err
	}
	if _, err := s.control.Write([]byte{goOn}); err != nil {
		return fmt.Errorf("telling the node to go on: %w", err)
	}
	if err := json.NewEncoder(s.control).Encode(cfg); err != nil {
		return fmt.Errorf("telling the node its configuration: %w", err)
	}
	events := json.NewDecoder(s.control)
	for {
		var e event
		switch err := events.Decode(&e); {
		case ctx.Err() != nil:
			return fmt.Errorf("starting the node: %w", context.Cause(ctx))
		case err != nil:
			return fmt.Errorf("starting the node: it ended; %s says why", s.log)
		case e.Error != "":
			return fmt.Errorf("starting the node: %s; the logs are in %s", e.Error, filepath.Dir(s.log))
		case e.Ready:
			return nil
		default:
			progress(e.Step)
		}
	}
}

func (s *Starting) kill() { s.cmd.Process.Kill() }
