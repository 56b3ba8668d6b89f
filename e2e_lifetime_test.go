package mirrord_test

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// The launcher's death takes the debuggee and all its children along, and the
// pod has its traffic back.
func TestLauncherKilled(t *testing.T) {
	needCluster(t)
	mark := "MIRRORD_E2E_MARK=" + t.Name() + strconv.Itoa(os.Getpid())
	d := execute(t, []string{mark, "PROBE_REFUSED=127.0.0.1"},
		"--steal", "--", "sh", "-c", `sleep 997 & (setsid sleep 998 &) ; exec "$0"`, goProbe(t))
	d.line("listening")
	if answer := ask(t, "http://web/"); !strings.HasPrefix(answer, "probe go") {
		t.Fatalf("the Service answered %q", answer)
	}
	tree := pidsWith(t, mark)
	if len(tree) < 4 { // launcher, keeper, probe, two sleeps; the keeper may have no environment
		t.Fatalf("only %d processes run: %v", len(tree), tree)
	}
	d.signal(syscall.SIGKILL)
	for _, pid := range tree {
		waitGone(t, pid)
	}
	if answer := ask(t, "http://web/"); !strings.Contains(answer, `"copy":"cluster"`) {
		t.Errorf("afterwards the Service answered %q", answer)
	}
	if left := processesWith(mark); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// pidsWith opens a descriptor of every process that has a variable.
func pidsWith(t *testing.T, variable string) (fds []int) {
	t.Helper()
	for _, p := range processesWith(variable) {
		pid, _, _ := strings.Cut(p, " ")
		n, err := strconv.Atoi(pid)
		if err != nil {
			t.Fatal(err)
		}
		fd, err := unix.PidfdOpen(n, 0)
		if err == unix.ESRCH {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		fds = append(fds, fd)
	}
	return fds
}

// waitGone waits for the end of a process.
func waitGone(t *testing.T, pidfd int) {
	t.Helper()
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	deadline := time.Now().Add(patience)
	for {
		n, err := unix.Poll(poll, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			t.Fatalf("a process of the debuggee's tree lives on: %v", err)
		}
		return
	}
}

// The launcher ends as the debuggee did: by its exit code, or its signal.
func TestExit(t *testing.T) {
	needCluster(t)
	for command, want := range map[string]int{
		"exit 0":         0,
		"exit 7":         7,
		"kill -TERM $$":  -int(syscall.SIGTERM),
		"kill -KILL $$":  -int(syscall.SIGKILL),
		"no-such-thing":  127,
		"exec /etc/motd": 126,
	} {
		if code := execute(t, nil, "--", "sh", "-c", command).wait(); code != want {
			t.Errorf("%s: exit code %d, want %d", command, code, want)
		}
	}
}

// Two debuggees in one session's target share the agent; a port has one holder.
func TestSecondStealIsRefused(t *testing.T) {
	needCluster(t)
	probe := goProbe(t)
	first := execute(t, []string{"PROBE_REFUSED=127.0.0.1"}, "--steal", "--", probe)
	first.line("listening")
	second := execute(t, []string{"PROBE_REFUSED=127.0.0.1"}, "--steal", "--", probe)
	if code := second.wait(); code == 0 {
		t.Error("the second debuggee could listen on a stolen port")
	}
	if words := second.errors(); !strings.Contains(words, "8080") {
		t.Errorf("the user is not told why: %q", words)
	}
	first.signal(syscall.SIGTERM)
	first.wait()
}
