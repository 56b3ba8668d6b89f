package mirrord_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// ownDaemon gives the test a runtime directory, and so a daemon, of its own.
// After the test no session runs in it, and when it is told to end nothing is left.
func ownDaemon(t *testing.T) (dir string) {
	t.Helper()
	base, err := os.MkdirTemp("", "mirrord") // t.TempDir is too long for a socket's path
	if err != nil {
		t.Fatal(err)
	}
	dir = filepath.Join(base, "mirrord")
	t.Cleanup(func() { os.RemoveAll(base) })
	setenv(t, "XDG_RUNTIME_DIR", base)
	t.Cleanup(func() { stopDaemon(t, dir) })
	return dir
}

func stopDaemon(t *testing.T, dir string) {
	t.Helper()
	var family []int
	for _, pid := range daemonsIn(t, dir) {
		for _, p := range append(childrenOf(t, pid), pid) {
			family = append(family, pidfd(t, p)...)
		}
	}
	// Sessions end when the daemon sees that their launchers have.
	for deadline := time.Now().Add(patience); ; {
		o := run(t, "daemon", "stop")
		if o.code == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("stopping the daemon: %s", o.stderr)
			run(t, "daemon", "stop", "--force")
			break
		}
	}
	for _, fd := range family {
		waitGone(t, fd)
	}
	if left := processesWith("XDG_RUNTIME_DIR=" + filepath.Dir(dir)); len(left) > 0 {
		t.Errorf("left running: %q", left)
	}
	files, _ := os.ReadDir(dir)
	for _, f := range files {
		if f.Name() == "files" && os.Remove(filepath.Join(dir, "files")) == nil {
			continue // where sessions' files were mounted; none is
		}
		if !slices.Contains([]string{"daemon.lock", "daemon.log", "start.lock", "place", "run"}, f.Name()) {
			t.Errorf("left in the runtime directory: %s", f.Name())
		}
	}
	if log, err := os.ReadFile(filepath.Join(dir, "daemon.log")); err == nil && t.Failed() {
		t.Logf("the daemon's log ends:\n%s", log[max(0, len(log)-4<<10):])
	}
}

// daemonsIn lists the processes that are daemons of a runtime directory.
func daemonsIn(t *testing.T, dir string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		cmdline, _ := os.ReadFile(path) // it may have ended
		if !bytes.Contains(cmdline, []byte("\x00--dir\x00"+dir+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		pids = append(pids, pid)
	}
	return pids
}

func childrenOf(t *testing.T, parent int) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/" + strconv.Itoa(parent) + "/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range tasks {
		list, _ := os.ReadFile(path) // the thread may have ended
		for _, s := range strings.Fields(string(list)) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// onlyDaemon is the one daemon of a runtime directory.
func onlyDaemon(t *testing.T, dir string) (pid int) {
	t.Helper()
	pids := daemonsIn(t, dir)
	if len(pids) != 1 {
		t.Fatalf("the daemons are %v", pids)
	}
	return pids[0]
}

// killDaemon kills the one daemon of a runtime directory, and returns when it is gone.
func killDaemon(t *testing.T, dir string) (pid int, killed time.Time) {
	t.Helper()
	pid = onlyDaemon(t, dir)
	gone := pidfd(t, pid)
	killed = time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitGone(t, gone[0])
	return pid, killed
}

// pidfd opens a descriptor of a process, none if it has ended.
func pidfd(t *testing.T, pid int) []int {
	t.Helper()
	fd, err := unix.PidfdOpen(pid, 0)
	if err == unix.ESRCH {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return []int{fd}
}

// waiting is a debuggee that says "up" and runs until its standard input ends.
func waiting(t *testing.T, namespace string) (d *debuggee, stdin io.Closer) {
	t.Helper()
	cmd := mirrord(t, onTarget(namespace, "--", "sh", "-c", "echo up; exec cat")...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	return started(t, cmd, nil), stdin
}

// agents lists the UIDs of a namespace's agent pods.
func agents(t *testing.T, namespace string) []string {
	t.Helper()
	return strings.Fields(kubectl(t, "get", "pod", "-n", namespace, "-l", agentLabel, "-o", "jsonpath={.items[*].metadata.uid}"))
}

// An agent serves one session after another.
func TestAgentIsReused(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	var first []string
	for range 2 {
		if o := run(t, onTarget(namespace, "--", "hostname")...); o.code != 0 || o.stdout != "web\n" {
			t.Fatalf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
		}
		uids := agents(t, namespace)
		if len(uids) != 1 || first != nil && !slices.Equal(first, uids) {
			t.Errorf("agents %v after %v", uids, first)
		}
		first = uids
	}
}

// Two that start at the same instant share one daemon and one agent.
func TestStartTogether(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	dir := ownDaemon(t)
	one, end := waiting(t, namespace)
	other, endOther := waiting(t, namespace)
	one.line("up")
	other.line("up")
	if pids := daemonsIn(t, dir); len(pids) != 1 {
		t.Errorf("the daemons are %v", pids)
	}
	if uids := agents(t, namespace); len(uids) != 1 {
		t.Errorf("the agents are %v", uids)
	}
	if list := sessions(t); len(list) != 2 {
		t.Errorf("the sessions are %v", list)
	}
	end.Close()
	endOther.Close()
	if a, b := one.wait(), other.wait(); a != 0 || b != 0 {
		t.Errorf("exit codes %d and %d", a, b)
	}
}

// sessions are the rows of `mirrord session ls`.
func sessions(t *testing.T) (rows [][]string) {
	t.Helper()
	o := run(t, "session", "ls")
	if o.code != 0 {
		t.Fatalf("session ls: %s", o.stderr)
	}
	lines := strings.Split(strings.TrimSpace(o.stdout), "\n")
	for _, line := range lines[1:] {
		rows = append(rows, strings.Fields(line))
	}
	return rows
}

// When the daemon is killed its debuggees are told, and the next exec has a new
// daemon and the same agent.
func TestDaemonKilled(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	dir := ownDaemon(t)
	d, end := waiting(t, namespace)
	d.line("up")
	before := agents(t, namespace)
	old := onlyDaemon(t, dir)
	var family []int
	for _, pid := range append(childrenOf(t, old), old) {
		family = append(family, pidfd(t, pid)...)
	}
	if len(family) < 2 {
		t.Errorf("the daemon has no file server")
	}
	if err := syscall.Kill(old, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, fd := range family {
		waitGone(t, fd)
	}
	if o := run(t, onTarget(namespace, "--", "hostname")...); o.code != 0 || o.stdout != "web\n" {
		t.Errorf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	if now := daemonsIn(t, dir); len(now) != 1 || now[0] == old {
		t.Errorf("the daemons are %v, it was %v", now, old)
	}
	if diff := cmp.Diff(before, agents(t, namespace)); diff != "" {
		t.Errorf("agents (-before +now):\n%s", diff)
	}
	end.Close()
	if code := d.wait(); code != 0 {
		t.Errorf("the first debuggee's exit code is %d", code)
	}
	if !strings.Contains(d.errors(), "mirrord: the daemon is gone, and another is started") {
		t.Error("the first debuggee was told nothing")
	}
}

// Sessions can be seen and stopped while their debuggees run; the user of a
// stopped one is told.
func TestSessionStop(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	d, end := waiting(t, namespace)
	d.line("up")
	list := sessions(t)
	if len(list) != 1 || list[0][1] != "pod/web/container/main" || list[0][3] != namespace {
		t.Fatalf("the sessions are %q", list)
	}
	id := list[0][0]
	if o := run(t, "daemon", "stop"); o.code != 125 || !strings.Contains(o.stderr, "1 session(s) run in it; --force") {
		t.Errorf("daemon stop: exit code %d, %s", o.code, o.stderr)
	}
	if o := run(t, "session", "stop", id); o != (outcome{}) {
		t.Errorf("session stop: %+v", o)
	}
	if list := sessions(t); len(list) != 0 {
		t.Errorf("the sessions are %q", list)
	}
	run(t, "session", "stop", id).fails(t, 125, `no session "`+id+`"`, "mirrord session ls")
	run(t, "exec", "--session", id, "--", "true").fails(t, 125, `no session "`+id+`"`)
	defer end.Close()
	if code := d.wait(); code != -int(syscall.SIGTERM) {
		t.Errorf("the debuggee's exit code is %d", code)
	}
	if words := d.errors(); !strings.Contains(words, "session") || !strings.Contains(words, "stopped") {
		t.Errorf("the debuggee's user is told %q", words)
	}
}

// A session's end is that of a debuggee that is stopped, and of one that does not
// care for SIGTERM.
func TestSessionStopOfOthers(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	for script, want := range map[string]int{
		"echo up; kill -STOP $$":                           -int(syscall.SIGTERM),
		"trap '' TERM; echo up; while :; do sleep 1; done": -int(syscall.SIGKILL),
	} {
		d := execute(t, nil, "-n", namespace, "-t", "pod/web", "--", "sh", "-c", script)
		d.line("up")
		run(t, "session", "stop", sessions(t)[0][0])
		if code := d.wait(); code != want {
			t.Errorf("%s: exit code %d, want %d", script, code, want)
		}
		if killed := strings.Contains(d.errors(), "it is killed"); killed != (want == -int(syscall.SIGKILL)) {
			t.Errorf("%s: its user is told %q", script, d.errors())
		}
	}
}

// A daemon that is stopped by force ends its sessions; nobody starts another.
func TestDaemonStopped(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	dir := ownDaemon(t)
	d, end := waiting(t, namespace)
	defer end.Close()
	d.line("up")
	var daemon []int
	for _, pid := range daemonsIn(t, dir) {
		daemon = append(daemon, pidfd(t, pid)...)
	}
	if o := run(t, "daemon", "stop", "--force"); o.code != 0 {
		t.Errorf("daemon stop --force: %+v", o)
	}
	if code := d.wait(); code != -int(syscall.SIGTERM) {
		t.Errorf("the debuggee's exit code is %d", code)
	}
	if words := d.errors(); !strings.Contains(words, "the daemon was stopped") || strings.Contains(words, "is back") {
		t.Errorf("the debuggee's user is told %q", words)
	}
	for _, fd := range daemon {
		waitGone(t, fd)
	}
	if left := daemonsIn(t, dir); len(left) > 0 {
		t.Errorf("a daemon came after it: %v", left)
	}
}

// Programs can read the list of targets, which agents are not among.
func TestListOfTargets(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	if o := run(t, onTarget(namespace, "--", "true")...); o.code != 0 {
		t.Fatal(o.stderr)
	}
	type target struct {
		Path       string
		Containers []string
		Available  bool
	}
	var got struct {
		Namespace string
		Targets   []target
	}
	o := run(t, "ls", "--kubeconfig", kubeconfig, "-n", namespace, "-o", "json")
	if err := json.Unmarshal([]byte(o.stdout), &got); err != nil {
		t.Fatalf("%v: %s%s", err, o.stdout, o.stderr)
	}
	if diff := cmp.Diff([]target{{"pod/web", []string{"main"}, true}}, got.Targets); diff != "" || got.Namespace != namespace {
		t.Errorf("in %q (-want +got):\n%s", got.Namespace, diff)
	}
	o = run(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/nothing-like-it", "--", "true")
	o.fails(t, 125, `finding pod "nothing-like-it" in namespace `+namespace, "it has web\n")
}
