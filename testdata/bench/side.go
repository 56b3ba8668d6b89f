package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// patience is for what should take no time.
const patience = 10 * time.Second

// A side is a network namespace and what the bench runs in it. It lives as long
// as its file is open or a process is in it.
type side struct {
	addr   string
	ns     *os.File
	cpu    int // of its processes, while they are pinned
	env    []string
	pinned bool
}

func newSide(addr string, cpu int, env ...string) (*side, error) {
	runtime.LockOSThread()
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer ours.Close()
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		runtime.UnlockOSThread()
		return nil, fmt.Errorf("making a network namespace: %w; run it as root", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/net")
	if e := unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET); e != nil {
		return nil, fmt.Errorf("leaving the network namespace: %w", e) // with the thread
	}
	runtime.UnlockOSThread()
	return &side{addr: addr, ns: ns, cpu: cpu, env: env}, err
}

// thisSide is this machine as it is.
func thisSide(env ...string) (*side, error) {
	ns, err := os.Open("/proc/self/ns/net")
	return &side{ns: ns, env: env}, err
}

// command makes a command to be started on this side. It has a process group
// of its own: a terminal's Ctrl-C reaches only the bench, which ends it.
func (s *side) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), s.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// start starts cmd from a thread that is on this side, and pinned if it is.
func (s *side) start(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	ours, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ours.Close()
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return fmt.Errorf("reading affinity: %w", err)
	}
	if one.Set(s.cpu); s.pinned {
		if err := unix.SchedSetaffinity(0, &one); err != nil {
			return fmt.Errorf("setting affinity: %w", err)
		}
	}
	if err := unix.Setns(int(s.ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("entering network namespace: %w", err)
	}
	err = cmd.Start()
	if e := errors.Join(unix.Setns(int(ours.Fd()), unix.CLONE_NEWNET), unix.SchedSetaffinity(0, &all)); e != nil {
		return errors.Join(err, fmt.Errorf("leaving network namespace: %w", e)) // with the thread
	}
	runtime.UnlockOSThread()
	return err
}

// output runs cmd to its end.
func (s *side) output(cmd *exec.Cmd) ([]byte, error) {
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	err := s.start(cmd)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w\n%s", strings.Join(cmd.Args, " "), err, &words)
	}
	return out.Bytes(), nil
}

// value runs cmd and reads the one number that it prints.
func (s *side) value(cmd *exec.Cmd) (float64, error) {
	out, err := s.output(cmd)
	if err != nil {
		return 0, err
	}
	return number(cmd.Args, out)
}

func number(args []string, out []byte) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	if err != nil {
		return 0, fmt.Errorf("%s printed %q, not a number", strings.Join(args, " "), out)
	}
	return v, nil
}

// duration is how long cmd takes as a whole, in milliseconds.
func (s *side) duration(cmd *exec.Cmd) (float64, error) {
	began := time.Now()
	_, err := s.output(cmd)
	return float64(time.Since(began)) / float64(time.Millisecond), err
}

// background starts cmd and waits until it prints a line that begins with
// word. The returned function ends it.
func (s *side) background(cmd *exec.Cmd, word string) (stop func(), err error) {
	var words bytes.Buffer
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	cmd.Stderr = &words
	if err := s.start(cmd); err != nil {
		return nil, err
	}
	patient := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	r := bufio.NewReader(out)
	line, err := r.ReadString('\n')
	patient.Stop()
	if err != nil || !strings.HasPrefix(line, word) {
		cmd.Process.Kill()
		_ = cmd.Wait() // it was killed
		return nil, fmt.Errorf("%s did not get ready: %q\n%s", strings.Join(cmd.Args, " "), line, &words)
	}
	go func() { _, _ = io.Copy(io.Discard, r) }() // until it ends
	return func() {
		_ = cmd.Process.Signal(syscall.SIGTERM) // it may have ended
		killer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
		defer killer.Stop()
		_ = cmd.Wait() // it was ended
	}, nil
}

// processes are those in this side's namespace, whoever started them.
func (s *side) processes() (pids []int, err error) {
	ours, err := s.ns.Stat()
	if err != nil {
		return nil, err
	}
	all, err := filepath.Glob("/proc/[0-9]*/ns/net")
	for _, path := range all {
		if ns, err := os.Stat(path); err == nil && os.SameFile(ns, ours) {
			pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids, err
}

// pin binds the processes of this side, and those to come, to its processor,
// or sets them free.
func (s *side) pin(pinned bool) error {
	if pinned == s.pinned || runtime.NumCPU() < 2 {
		return nil
	}
	s.pinned = pinned
	var set unix.CPUSet
	if set.Set(s.cpu); !pinned {
		set.Fill()
	}
	pids, err := s.processes()
	if err != nil {
		return err
	}
	for _, pid := range pids {
		for range 2 { // a thread may have been started by one not yet bound
			tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
			for _, task := range tasks {
				tid, _ := strconv.Atoi(filepath.Base(task))
				if err := unix.SchedSetaffinity(tid, &set); err != nil && !errors.Is(err, unix.ESRCH) {
					return fmt.Errorf("pinning process %d: %w", pid, err)
				}
			}
		}
	}
	return nil
}

// end gives up the side, and kills what is still in it after a while: nothing
// should be.
func (s *side) end() error {
	defer s.ns.Close()
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		pids, err := s.processes()
		if err != nil || len(pids) == 0 {
			return err
		}
		if time.Now().Before(deadline) {
			continue
		}
		for _, pid := range pids {
			cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)) // it may be ending
			err = errors.Join(err, fmt.Errorf("process %d was left: %q", pid, cmdline), syscall.Kill(pid, syscall.SIGKILL))
		}
		return err
	}
}
