package mirrord_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Two users' daemons share one pod's agent. A port has one holder, whom the
// other is told of.
func TestTwoDaemons(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	dir := ownDaemon(t)
	first, l := stealing(t, namespace, address)
	agent := agentPod(t, namespace)
	pids := daemonsIn(t, dir)

	other := ownDaemon(t)
	second := startWorker(t, onTarget(namespace, "--steal")...)
	second.wants("100", "open /shop")
	second.wants("EADDRINUSE", "serve")
	second.told("port 8080 of the target could not be stolen: ")
	second.told("is stolen already")
	if now := daemonsIn(t, other); len(now) != 1 || slices.Equal(now, pids) {
		t.Errorf("the daemons are %v and %v", pids, now)
	}
	if now := agentPod(t, namespace); now != agent {
		t.Errorf("the agent is %s, it was %s", now, agent)
	}
	ended := time.Now()
	first.finish()
	l.until(50, fromPod)
	second.wants("listening", "serve")
	l.until(50, fromDebuggee)
	cost := l.brief(ended, 200*time.Millisecond)
	second.wants("4096", "more 5000000")
	second.finish()
	report(t, "two daemons on one pod: the debuggee of one ends", "the other was told that the port is stolen; now the pod has it, then whoever steals it next", "%s", cost)
}

// One user's daemon is killed: the other's connections, files and stolen port
// do not notice, and both share the agent as before.
func TestOneOfTwoDaemonsKilled(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	w, l := stealing(t, namespace, address)
	agent := agentPod(t, namespace)
	other := ownDaemon(t)
	second := startWorker(t, onTarget(namespace)...)
	second.wants("100", "open /shop")
	_, killed := killDaemon(t, other)
	second.wants("EIO", "more 5000000")
	second.wants("100", "open /shop")
	back := time.Since(killed)
	w.wants("4096", "more 5000000")
	w.wants("HTTP/1.0 200 OK", "ask")
	l.until(100, fromDebuggee)
	all := l.end()
	if failed := failures(all); len(failed) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(failed), failed[0].err)
	}
	if now := agentPod(t, namespace); now != agent {
		t.Errorf("the agent is %s, it was %s", now, agent)
	}
	second.finish()
	w.finish()
	report(t, "two daemons on one pod: one killed", "the other's user notices nothing; this one's debuggee has a new daemon",
		"to the other's stolen port %s; new operations work after %v", tally(all), round(back))
}

// Sessions of one daemon on two pods do not mix.
func TestTwoPods(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	one, l := stealing(t, namespace, address)
	other := loadFrom(t, namespace, "web", podIP(t, namespace, "client")+":8080")
	two := startWorker(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/client", "--steal")
	two.wants("listening", "serve")
	other.until(50, fromDebuggee)
	if o := run(t, "session", "ls"); strings.Count(o.stdout, "8080") != 2 {
		t.Errorf("the sessions are\n%s", o.stdout)
	}
	if all := agents(t, namespace); len(all) != 2 {
		t.Errorf("the agents are %v", all)
	}
	ended := time.Now()
	one.finish()
	l.until(50, fromPod)
	l.brief(ended, 200*time.Millisecond)
	other.until(50, fromDebuggee)
	ended = time.Now()
	two.finish()
	other.until(50, fromPod)
	other.brief(ended, 200*time.Millisecond)
}

// A second build of mirrord has a daemon and an agent of its own beside the first.
func TestTwoBuilds(t *testing.T) {
	t.Parallel()
	namespace, _ := ownShop(t)
	ownDaemon(t)
	w := startWorker(t, onTarget(namespace)...)
	w.wants("100", "open /shop")

	const build = "e2e000000002"
	bin := filepath.Join(t.TempDir(), "mirrord")
	full := filepath.Join(filepath.Dir(bin), "mirrord-full")
	agent := filepath.Join(t.TempDir(), "mirrord-agent")
	image := filepath.Join(t.TempDir(), "image.tar")
	flags := "-s -w -E _rt0_mirrord -X mirrord/protocol.Build=" + build
	for _, command := range [][]string{
		{"go", "build", "-ldflags", flags, "-o", bin, "./daemon/mirrord"},
		{"go", "build", "-ldflags", flags, "-o", full, "./daemon"},
		{"go", "build", "-ldflags", flags, "-o", agent, "./agent"},
		{"go", "run", "./agent/image", "-o", image, "-name", "mirrord-agent:" + build, agent},
		{"bin/cluster", "load", image},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	second := func() outcome {
		cmd := exec.Command(bin, onTarget(namespace, "--", "cat", "/etc/hostname")...)
		cmd.Env = environ(t)
		return finish(t, cmd, (*exec.Cmd).Start)
	}
	second().fails(t, 125, "this mirrord is build "+build, "1 session(s) run")
	base, err := os.MkdirTemp("", "mirrord")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(base) })
	setenv(t, "XDG_RUNTIME_DIR", base)
	if o := second(); o.code != 0 || o.stdout != "web\n" {
		t.Errorf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	if all := agents(t, namespace); len(all) != 2 {
		t.Errorf("the agents are %v", all)
	}
	stop := exec.Command(bin, "daemon", "stop")
	stop.Env = environ(t)
	if out, err := stop.CombinedOutput(); err != nil {
		t.Errorf("stopping the second daemon: %v: %s", err, out)
	}
	w.wants("4096", "more 5000000")
	w.finish()
}

// Of many starters at the same instant one creates the agent, and all use it.
func TestRacingDaemons(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	const racing = 4
	ended := make(chan outcome, racing)
	for range racing {
		ownDaemon(t)
		cmd := mirrord(t, onTarget(namespace, "--", "cat", "/etc/hostname")...)
		go func() { ended <- finish(t, cmd, (*exec.Cmd).Start) }()
	}
	for range racing {
		if o := <-ended; o.code != 0 || o.stdout != "web\n" {
			t.Errorf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
		}
	}
	agentPod(t, namespace)
	if jobs := strings.Fields(kubectl(t, "get", "job", "-n", namespace, "-o", "name")); len(jobs) != 1 {
		t.Errorf("the jobs are %v", jobs)
	}
}

// One user's sessions share a port: one has it, the others get copies.
func TestSessionsOnOnePort(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	var all []*debuggee
	for _, flags := range [][]string{nil, nil, {"--steal"}} {
		d := started(t, mirrord(t, append(onTarget(namespace, flags...), "--", "python3", "-c", hearing(`HTTP/1.0 200 OK\r\n\r\nmine\n`))...), nil)
		d.line("listening")
		if errors := d.errors(); strings.Contains(errors, "could not be ") {
			t.Errorf("with %q: %s", flags, errors)
		}
		all = append(all, d)
	}
	mirrors, stealer := all[:2], all[2]
	if answer := kubectl(t, "exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address+"/stolen"); !strings.Contains(answer, "mine") {
		t.Errorf("the stolen port answers %q", answer)
	}
	stealer.line("heard GET /stolen ")
	stealer.signal(syscall.SIGTERM)
	stealer.wait()
	if answer := kubectl(t, "exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address+"/copied"); !strings.Contains(answer, fromPod) {
		t.Errorf("the pod's port answers %q", answer)
	}
	for _, d := range mirrors {
		d.line("heard GET /copied ")
		d.signal(syscall.SIGTERM)
		d.wait()
	}
}
