package launch

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// startDaemonised starts a launcher whose debuggee has a child that left its
// session, and returns pidfds of everything below the launcher.
func startDaemonised(t *testing.T, w *world) (launcher *exec.Cmd, keeper int, below map[string]int) {
	t.Helper()
	cmd := w.launcher(t, build(t, "calls.c"), "daemonise")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill() }) // and with it all else
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	daemon, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	below = map[string]int{"daemonised child": pidfd(t, daemon)}
	keepers, err := children(cmd.Process.Pid)
	if err != nil || len(keepers) != 1 {
		t.Fatalf("the launcher's children: %v, %v", keepers, err)
	}
	below["keeper"] = pidfd(t, keepers[0])
	list, err := children(keepers[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range list {
		below[fmt.Sprint("child of the keeper ", pid)] = pidfd(t, pid)
	}
	if len(below) != 4 { // the daemonised child is the keeper's by now
		t.Fatalf("below the launcher: %v", below)
	}
	return cmd, keepers[0], below
}

func pidfd(t *testing.T, pid int) int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// gone waits until the process has ended.
func gone(t *testing.T, who string, fd int) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 10_000)
		if err == unix.EINTR {
			continue
		}
		if n == 0 {
			t.Errorf("%s is still there", who)
		}
		return
	}
}

// Pitfall 13: without a launcher every trapped call fails; nothing may be left.
func TestPitfall13LauncherKilled(t *testing.T) {
	w := newWorld(t)
	cmd, _, below := startDaemonised(t, w)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	for who, fd := range below {
		gone(t, who, fd)
	}
}

func TestPitfall13KeeperKilled(t *testing.T) {
	w := newWorld(t)
	cmd, keeper, below := startDaemonised(t, w)
	if err := unix.Kill(keeper, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for who, fd := range below {
		gone(t, who, fd)
	}
	if err := cmd.Wait(); err == nil {
		t.Error("the launcher ended well")
	}
}

// What the debuggee leaves behind does not outlive it for long.
func TestLeftovers(t *testing.T) {
	w := newWorld(t)
	cmd := w.launcher(t, "sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!")
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(out)))
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("the child is still there: %v", err)
	}
}

func TestSignals(t *testing.T) {
	heard := make(chan os.Signal, 1)
	signal.Notify(heard, unix.SIGHUP) // what nohup has had ignored, the launcher would ignore, too
	defer signal.Stop(heard)
	w := newWorld(t)
	for _, s := range []unix.Signal{unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGQUIT} {
		cmd := w.launcher(t, "python3", "-c", fmt.Sprintf(`
import signal, os
signal.signal(%d, lambda n, f: (print("got", n, flush=True), os._exit(3)))
print("ready", flush=True)
while True: signal.pause()`, s))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewReader(out)
		if l, err := lines.ReadString('\n'); l != "ready\n" {
			t.Fatalf("%q, %v", l, err)
		}
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		if l, _ := lines.ReadString('\n'); l != fmt.Sprintf("got %d\n", s) {
			t.Errorf("%v: %q", s, l)
		}
		_ = cmd.Wait()
		if cmd.ProcessState.ExitCode() != 3 {
			t.Errorf("%v: %v", s, cmd.ProcessState)
		}
	}
}

// Who is killed for want of memory is told so, and who is killed otherwise is not.
func TestOutOfMemory(t *testing.T) {
	const root = "/sys/fs/cgroup/memory"
	group, limit := filepath.Join(root, fmt.Sprintf("mirrord-test-%d", os.Getpid())), "memory.limit_in_bytes"
	if _, err := os.Stat(root); err != nil { // version 2
		group, limit = filepath.Join(filepath.Dir(root), filepath.Base(group)), "memory.max"
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("needs a cgroup of its own: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) })
	if err := os.WriteFile(filepath.Join(group, limit), []byte("67108864"), 0o644); err != nil {
		t.Skipf("needs the memory controller: %v", err)
	}
	w := newWorld(t)
	for code, want := range map[string]bool{"bytearray(1 << 30)": true, "import os; os.kill(os.getpid(), 9)": false} {
		run := func() (r result, kills uint64) {
			before := OutOfMemoryKills()
			r = w.run(t, "sh", "-c", `echo $$ >"$0"/cgroup.procs && exec python3 -c "$1"`, group, code)
			return r, OutOfMemoryKills() - before
		}
		r, kills := run()
		for !want && kills > 0 { // others', of the same kernel
			r, kills = run()
		}
		if r.Signal != unix.SIGKILL || r.OutOfMemory != want || r.err != nil {
			t.Errorf("%s: %+v", code, r)
		}
	}
}
