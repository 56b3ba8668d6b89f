package mirrord_test

import (
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// worker is a debuggee that serves on 8080 and does what its standard input
// says, one line after the other; it answers "command = result".
const worker = "testdata/apps/probe/worker.py"

// A workerDebuggee is a running one.
type workerDebuggee struct {
	*debuggee
	stdin io.WriteCloser
}

func startWorker(t *testing.T, args ...string) workerDebuggee {
	t.Helper()
	return startWorkerOf(t, worker, args...)
}

func startWorkerOf(t *testing.T, script string, args ...string) workerDebuggee {
	t.Helper()
	cmd := mirrord(t, append(args, "--", "python3", script)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	w := workerDebuggee{started(t, cmd, nil), stdin}
	return w
}

// do has the debuggee do something and returns the result.
func (w workerDebuggee) do(format string, args ...any) string {
	w.t.Helper()
	command := fmt.Sprintf(format, args...)
	if _, err := fmt.Fprintln(w.stdin, command); err != nil {
		w.t.Fatal(err)
	}
	return strings.TrimPrefix(w.line(command+" = "), command+" = ")
}

func (w workerDebuggee) wants(want, format string, args ...any) {
	w.t.Helper()
	if got := w.do(format, args...); got != want {
		w.t.Errorf("%s: %s, want %s", fmt.Sprintf(format, args...), got, want)
	}
}

// finish ends the debuggee in good order.
func (w workerDebuggee) finish() {
	w.t.Helper()
	w.stdin.Close()
	if code := w.wait(); code != 0 {
		w.t.Errorf("the debuggee's exit code is %d", code)
	}
}

// ownShop runs pods web and client, which answer, in a namespace of the test's
// own, and returns web's address.
func ownShop(t *testing.T) (namespace, address string) {
	t.Helper()
	namespace = ownNamespace(t)
	const line = `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]`
	apply(t, namespace, pod("web", line)+"---"+pod("client", line))
	kubectl(t, "wait", "pod/web", "pod/client", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	return namespace, podIP(t, namespace, "web") + ":8080"
}

func podIP(t *testing.T, namespace, name string) string {
	t.Helper()
	kubectl(t, "wait", "pod/"+name, "-n", namespace, "--for=jsonpath={.status.podIP}", "--timeout=60s") // kubelet may tell it late
	return kubectl(t, "get", "pod", name, "-n", namespace, "-o", "jsonpath={.status.podIP}")
}

const (
	fromPod      = `"copy":"cluster"`
	fromDebuggee = "the debuggee"
)

// stealing starts a debuggee that has the traffic of ownShop's web.
func stealing(t *testing.T, namespace, address string) (workerDebuggee, *load) {
	t.Helper()
	l := loadFrom(t, namespace, "client", address)
	l.until(10, fromPod)
	w := startWorker(t, onTarget(namespace, "--steal")...)
	w.wants("100", "open /shop")
	w.wants("connected", "dial %s 8080", podIP(t, namespace, "client"))
	w.wants("listening", "serve")
	l.until(100, fromDebuggee)
	return w, l
}

// A laptop that sleeps for most of a minute has all that it had: the pod answers meanwhile.
func TestAsleep(t *testing.T) {
	t.Parallel()
	const asleep = 50 * time.Second
	namespace, address := ownShop(t)
	dir := ownDaemon(t)
	w, l := stealing(t, namespace, address)
	pid := onlyDaemon(t, dir)
	wake := func() { _ = syscall.Kill(pid, syscall.SIGCONT) }
	t.Cleanup(wake)
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	l.until(10, fromPod)
	answered := time.Since(began)
	time.Sleep(asleep - answered) // what the test is about
	wake()
	woken := time.Now()
	w.wants("HTTP/1.0 200 OK", "ask")
	w.wants("4096", "more 5000000")
	took := time.Since(woken)
	l.until(50, fromDebuggee)
	stolen := time.Since(woken)
	cost := tally(l.end())
	w.finish()
	report(t, fmt.Sprintf("daemon stopped for %v, as a laptop that sleeps", asleep), "everything; the pod answers meanwhile",
		"open connections and files work %v after waking, the port is stolen again after %v, the pod had answered after %v; %s",
		round(took), round(stolen), round(answered), cost)
}

// agentPod is the name of a namespace's only agent.
func agentPod(t *testing.T, namespace string) string {
	t.Helper()
	names := strings.Fields(kubectl(t, "get", "pod", "-n", namespace, "-l", agentLabel, "-o", "jsonpath={.items[*].metadata.name}"))
	if len(names) != 1 {
		t.Fatalf("the agents are %q", names)
	}
	return names[0]
}

// A deleted target is told at once; the debuggee lives on, and what is remote fails.
func TestTargetDeleted(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	w, l := stealing(t, namespace, address)
	began := time.Now()
	kubectl(t, "delete", "pod", "web", "-n", namespace, "--wait=false")
	w.told("target pod web was deleted")
	told := time.Since(began)
	w.told("start anew")
	l.end()
	w.wants("ECONNRESET", "wait")
	w.wants("EIO", "more 5000000")
	w.wants("EIO", "read /shop")
	w.wants("ENETDOWN", "dial 10.96.0.1 443")
	noAgentLeft(t, namespace)
	run(t, onTarget(namespace, "--", "true")...).fails(t, 125, `finding pod "web" in namespace `+namespace)
	w.finish()
	report(t, "target pod deleted", "told it, and to start anew; the debuggee lives, what is remote fails: ECONNRESET, EIO, ENETDOWN",
		"told after %v", round(told))
}

// A killed agent costs the requests in flight; the pod has its traffic back, the
// debuggee lives and its user is told why.
func TestAgentKilled(t *testing.T) {
	namespace, address := ownShop(t)
	ownDaemon(t)
	w, l := stealing(t, namespace, address)
	before := agentPod(t, namespace)
	pid := processOf(t, namespace, before)
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.until(100, fromPod)
	w.told("the agent has ended (exit code 137)")
	told := time.Since(killed)
	cost := l.brief(killed, 100*time.Millisecond)
	w.wants("ECONNRESET", "wait")
	w.wants("EIO", "more 5000000")
	if o := run(t, onTarget(namespace, "--", "cat", "/etc/hostname")...); o.code != 0 || o.stdout != "web\n" {
		t.Errorf("afterwards: exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	w.finish()
	report(t, "agent killed", "told why; the pod answers; the debuggee lives, what is remote fails: ECONNRESET, EIO; the next start has a new agent",
		"%s; told after %v", cost, round(told))
}

// bin/cluster kills a component of the cluster and waits until it is back.
func restart(t *testing.T, component string) {
	t.Helper()
	if out, err := exec.Command("bin/cluster", "restart", component).CombinedOutput(); err != nil {
		t.Fatalf("restarting %s: %v\n%s", component, err, out)
	}
}

// While a part of the cluster is away nothing breaks, and afterwards everything works.
func TestClusterComponentRestarted(t *testing.T) {
	for _, component := range []string{"kubelet", "kube-apiserver"} {
		t.Run(component, func(t *testing.T) {
			namespace, address := ownShop(t)
			ownDaemon(t)
			w, l := stealing(t, namespace, address)
			began := time.Now()
			restart(t, component)
			back := time.Now()
			w.wants("4096", "more 5000000")
			read := time.Since(back)
			l.until(100, fromDebuggee)
			all := l.end()
			if failed := failures(all); len(failed) > 0 {
				t.Errorf("%d requests failed, the first: %v", len(failed), failed[0].err)
			}
			w.wants("HTTP/1.0 200 OK", "ask") // on the connection of before
			if words := w.errors(); strings.Contains(words, "gone") {
				t.Errorf("the user is told %q", words)
			}
			w.finish()
			report(t, component+" killed", "everything: open connections and files, the stolen port",
				"found ready after %v, a remote read ends %v later; %s", round(back.Sub(began)), round(read), tally(all))
		})
	}
}

// The API server's death while much is moved loses nothing, as a cut link's does not.
// Both tests come early, before other packages' tests that need the server.
func TestServerKilledInATransfer(t *testing.T) {
	linkCut{"", "kube-apiserver killed in a transfer", "it was found ready", 1, func(t *testing.T, _ *relay) { restart(t, "kube-apiserver") }, 0}.test(t)
}

// A target's container that restarts is followed: its files are the new one's,
// connections and the stolen port stay.
func TestTargetRestarted(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	w, l := stealing(t, namespace, address)
	before := agentPod(t, namespace)
	pid := processOf(t, namespace, "web")
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.told("target pod web has restarted its container main (exit code 137)")
	told := time.Since(killed)
	w.wants("100", "open /shop")
	w.wants("4096", "more 5000000")
	w.wants("HTTP/1.0 200 OK", "ask")
	l.until(100, fromDebuggee)
	all := l.end()
	if failed := failures(all); len(failed) > 0 {
		t.Errorf("%d requests failed, the first: %v", len(failed), failed[0].err)
	}
	// Another session has the same agent.
	if o := run(t, onTarget(namespace, "--", "cat", "/etc/hostname")...); o.code != 0 || o.stdout != "web\n" {
		t.Errorf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	if now := agentPod(t, namespace); now != before {
		t.Errorf("the agent is %s, it was %s", now, before)
	}
	w.finish()
	report(t, "target container killed", "told it; connections and the stolen port stay, files are the new container's",
		"told after %v; %s", round(told), tally(all))
}

// Launcher and keeper take the debuggee along, and the pod has its traffic back.
func TestLauncherOrKeeperKilledUnderLoad(t *testing.T) {
	t.Parallel()
	for _, who := range []string{"launcher", "keeper"} {
		t.Run(who, func(t *testing.T) {
			namespace, address := ownShop(t)
			ownDaemon(t)
			w, l := stealing(t, namespace, address)
			victim := w.cmd.Process.Pid
			tree := []int{victim}
			for i := 0; i < len(tree); i++ {
				tree = append(tree, childrenOf(t, tree[i])...)
			}
			if len(tree) < 3 {
				t.Fatalf("launcher, keeper and debuggee are %v", tree)
			}
			if who == "keeper" {
				victim = tree[1]
			}
			var family []int
			for _, pid := range tree {
				family = append(family, pidfd(t, pid)...)
			}
			killed := time.Now()
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				w.cmd.Wait()
			}()
			for _, fd := range family {
				waitGone(t, fd)
			}
			gone := time.Since(killed)
			<-ended
			l.until(100, fromPod)
			report(t, who+" killed", "the debuggee and all its processes end; the pod has its traffic back",
				"all are gone after %v; %s", round(gone), l.brief(killed, 200*time.Millisecond))
		})
	}
}
