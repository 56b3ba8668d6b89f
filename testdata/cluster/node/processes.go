package node

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// restartDelay before a component that ended is started again.
const restartDelay = 500 * time.Millisecond

// processes are pid 1's children: those it started, and the orphans that the
// kernel gives it. os/exec cannot wait for the former here, because the reaper
// may see them first.
type processes struct {
	log *slog.Logger

	mu      sync.Mutex                     // held over start and reap
	waiting map[int]chan<- unix.WaitStatus // guarded by mu
}

func newProcesses(log *slog.Logger) *processes {
	p := &processes{log: log, waiting: make(map[int]chan<- unix.WaitStatus)}
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, unix.SIGCHLD)
	go func() {
		for range ended {
			p.reap()
		}
	}()
	return p
}

func (p *processes) reap() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WNOHANG, nil)
		if err == unix.EINTR {
			continue
		}
		if pid <= 0 {
			return
		}
		if c, ok := p.waiting[pid]; ok {
			delete(p.waiting, pid)
			c <- status // buffered
		}
	}
}

// start starts a program; its status comes once.
func (p *processes) start(path string, argv []string, stdout, stderr *os.File) (<-chan unix.WaitStatus, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	proc, err := os.StartProcess(path, argv, &os.ProcAttr{Dir: "/", Files: []*os.File{null, stdout, stderr}})
	if err != nil {
		return nil, fmt.Errorf("starting %s: %w", argv[0], err)
	}
	c := make(chan unix.WaitStatus, 1)
	p.waiting[proc.Pid] = c
	_ = proc.Release() // the reaper waits for it
	return c, nil
}

// run runs a program to its end and returns what it printed.
func (p *processes) run(path string, args ...string) (string, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	defer r.Close()
	status, err := p.start(path, append([]string{filepath.Base(path)}, args...), w, w)
	w.Close()
	if err != nil {
		return "", err
	}
	out, err := io.ReadAll(r)
	if err != nil {
		return "", err
	}
	if s := <-status; s.ExitStatus() != 0 {
		return "", fmt.Errorf("running %s %q: status %d: %s", path, args, s.ExitStatus(), out)
	}
	return string(out), nil
}

// supervise keeps a component running, its output going to a log of its name.
func (p *processes) supervise(path, name string, args ...string) error {
	log, err := os.Create(filepath.Join(logDir, name+".log"))
	if err != nil {
		return fmt.Errorf("making the log of %s: %w", name, err)
	}
	argv := append([]string{name}, args...)
	status, err := p.start(path, argv, log, log)
	if err != nil {
		return err
	}
	go func() {
		for {
			s := <-status
			p.log.Warn("component ended", "name", name, "status", s.ExitStatus(), "signal", s.Signal())
			time.Sleep(restartDelay)
			if status, err = p.start(path, argv, log, log); err != nil {
				p.log.Error("component lost", "name", name, "err", err)
				return
			}
		}
	}()
	return nil
}
