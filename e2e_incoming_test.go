package mirrord_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// Kubelet's probes reach the pod also while its port is stolen: a debuggee that
// stands still, as at a breakpoint, makes the pod neither unready nor restart.
func TestProbesOfStolenPort(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	const probes = `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]
    readinessProbe: {httpGet: {path: /, port: 8080}, periodSeconds: 1, failureThreshold: 1}
    livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 1}`
	apply(t, namespace, pod("web", probes))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	const still = `import socket, sys; l = socket.create_server(("", 8080)); print("listening", flush=True); sys.stdin.read()`
	cmd := mirrord(t, append(onTarget(namespace, "--steal"), "--", "python3", "-c", still)...)
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	d := started(t, cmd, nil)
	d.line("listening")
	if out, err := tryKubectl("wait", "pod/web", "-n", namespace, "--for=condition=Ready=false", "--timeout=6s"); err == nil {
		t.Errorf("the pod became unready: %s", out)
	}
	if n := kubectl(t, "get", "pod", "web", "-n", namespace, "-o", "jsonpath={.status.containerStatuses[0].restartCount}"); n != "0" {
		t.Errorf("the container was restarted %s times", n)
	}
	stdin.Close()
	if code := d.wait(); code != 0 {
		t.Errorf("the debuggee's exit code is %d", code)
	}
}

// Where kubelet's probes are wanted, the debuggee gets them as other requests.
func TestStolenProbes(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	apply(t, namespace, pod("web", `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]
    readinessProbe: {httpGet: {path: /ready, port: 8080}, periodSeconds: 1, failureThreshold: 1}`))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	config := file(t, "mirrord.json", `{"feature": {"network": {"incoming": {"mode": "steal", "steal_probes": true}}}}`)
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), "python3", "-c", hearing("HTTP/1.0 503 x\\r\\n\\r\\n"))...), nil)
	d.line("listening")
	if got := d.line("heard"); got != "heard GET /ready HTTP/1.1" {
		t.Errorf("the debuggee %s", got)
	}
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready=false", "--timeout=60s")
	d.signal(syscall.SIGTERM)
	d.wait()
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
}

// The target's port that is taken, the one that the debuggee listens on and the one
// that it has here may be three.
func TestPairedPorts(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	config := file(t, "mirrord.json", `{"feature": {"network": {"incoming": {"mode": "steal", "port_mapping": [[3000, 8080]],
		"listen_ports": [[3000, 13000]], "http_filter": {"header_filter": "^x-user: alice$", "ports": [8080]}}}}}`)
	program := strings.Replace(naming("alice's"), `("", 8080)`, `("", 3000)`, 1)
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), "python3", "-c", program)...), nil)
	d.line("listening")
	client := over(t, dialFrom(t, namespace, "client", address))
	if got := asUser(t, client, "alice", "/"); got != "alice's" {
		t.Errorf("alice is answered %q", got)
	}
	if got := asUser(t, client, "bob", "/"); !strings.Contains(got, fromPod) {
		t.Errorf("bob is answered %q", got)
	}
	c, err := net.Dial("tcp", "127.0.0.1:13000")
	if err != nil {
		t.Fatal(err)
	}
	if got := asUser(t, over(t, c), "", "/"); got != "alice's" {
		t.Errorf("on this machine: %q", got)
	}
	d.signal(syscall.SIGTERM)
	d.wait()
}

// The target's container is killed and restarted: the debuggee keeps the
// traffic, and soon sees the new container's files.
func TestContainerRestarted(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	w, l := stealing(t, namespace, address)
	killContainer(t, kubectl(t, "get", "pod", "web", "-n", namespace, "-o", "jsonpath={.metadata.uid}"))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=jsonpath={.status.containerStatuses[0].restartCount}=1", "--timeout=60s")
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	l.until(100, fromDebuggee)
	for read := ""; read != "100"; {
		if read = w.do("read /shop"); read != "100" && read != "EIO" {
			t.Fatalf("the new container's file: %s", read)
		}
	}
	w.finish()
	l.until(10, fromPod)
}

// killContainer kills the process of a pod's container: on this node, which is ours.
func killContainer(t *testing.T, uid string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	killed := 0
	for _, path := range all {
		b, err := os.ReadFile(path)
		if err != nil || !strings.Contains(string(b), "/pods/"+uid+"/containers/main/") {
			continue
		}
		pid, _ := strconv.Atoi(strings.Split(path, "/")[2])
		if syscall.Kill(pid, syscall.SIGKILL) == nil {
			killed++
		}
	}
	if killed == 0 {
		t.Fatal("no process of the container was found")
	}
}

// Connections that the port had before are cut once they are idle, so that their
// clients come to the debuggee, and stay the pod's where that is not wanted. The port
// is taken and given back under load: nobody is refused, and only what a debuggee had
// at its end may fail.
func TestConnectionsOfBefore(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	before := dialFrom(t, namespace, "client", address)
	before.SetDeadline(time.Now().Add(2 * patience))
	answers := bufio.NewReader(before)
	stays := func() {
		t.Helper()
		if _, err := io.WriteString(before, "GET / HTTP/1.1\r\nHost: shop\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		a, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatalf("on the connection of before: %v", err)
		}
		if b, err := io.ReadAll(a.Body); !strings.Contains(string(b), fromPod) {
			t.Errorf("on the connection of before: %q, %v", b, err)
		}
	}
	stays()
	const rate = loadRate / 5
	l := loadAt(t, namespace, "client", address, rate)
	l.until(2*rate, fromPod) // so long it is idle
	type span struct{ from, to time.Time }
	var ends []span
	for _, flush := range []string{"off", "idle"} {
		config := file(t, "mirrord.json", fmt.Sprintf(`{"agent": {"flush_connections": %q}, "feature": {"network": {"incoming": {"mode": "steal"}}}}`, flush))
		w := startWorker(t, onTarget(namespace, "-f", config)...)
		w.wants("listening", "serve")
		l.until(20, fromDebuggee)
		if flush == "off" {
			stays()
		} else if b, err := answers.ReadByte(); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("the connection of before is not cut: %q, %v", b, err)
		}
		end := span{from: time.Now()}
		w.finish()
		end.to = time.Now()
		ends = append(ends, end)
		l.until(20, fromPod)
	}
	all := l.end()
	failed := failures(all)
	for _, a := range failed {
		had := slices.ContainsFunc(ends, func(s span) bool { return a.at.After(s.from) && a.began.Before(s.to) })
		if !had || errors.Is(a.err, syscall.ECONNREFUSED) {
			t.Errorf("failed, begun %v after the first debuggee's end and %v after the second's: %v", a.began.Sub(ends[0].to), a.began.Sub(ends[1].to), a.err)
		}
	}
	t.Logf("%d of %d requests failed with their debuggees", len(failed), len(all))
}

// hearing is a program that listens at 8080, tells each request's first line and
// answers with these bytes of Python.
func hearing(answer string) string {
	return fmt.Sprintf(`
import socket
l = socket.create_server(("", 8080))
print("listening", flush=True)
while True:
    c, _ = l.accept()
    print("heard", c.recv(4096).split(b"\r\n")[0].decode(), flush=True)
    c.sendall(b"%s")
    c.close()
`, answer)
}

// Without --steal the pod answers and the debuggee gets copies, whatever it
// answers to them.
func TestMirroredPort(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	d := started(t, mirrord(t, append(onTarget(namespace), "--", "python3", "-c", hearing(`HTTP/1.0 500 Mine\r\n\r\n`))...), nil)
	d.line("listening")
	for _, path := range []string{"/one", "/two", "/three"} {
		answer := kubectl(t, "exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address+path)
		if !strings.Contains(answer, fromPod) {
			t.Errorf("%s was answered with %q", path, answer)
		}
		if got := d.line("heard"); !strings.HasPrefix(got, "heard GET "+path+" ") {
			t.Errorf("the debuggee %s", got)
		}
	}
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	d.wait()
}

// A program that ends with its answer has given it: all of it, and nobody else does.
func TestLastAnswer(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	const program = `
import socket
l = socket.create_server(("", 8080))
print("listening", flush=True)
c, _ = l.accept()
while b"\r\n\r\n" not in c.recv(4096): pass
c.sendall(b"HTTP/1.0 200 OK\r\n\r\n" + 300000 * b"x")
`
	for range 5 {
		d := started(t, mirrord(t, append(onTarget(namespace, "--steal"), "--", "python3", "-c", program)...), nil)
		d.line("listening")
		answer := kubectl(t, "exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address+"/")
		if strings.Count(answer, "x") < 300000 {
			t.Errorf("%d bytes came: %.100q", len(answer), answer)
		}
		d.wait()
	}
}

// A pod in its node's network is stolen from only where that is wanted: its port is
// the node's. So it is of each replica.
func TestHostNetworkPod(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	const line = `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]`
	web := strings.Replace(pod("web", line+"\n    env: [{name: PORT, value: \"18080\"}]"), "spec:\n", "spec:\n  hostNetwork: true\n", 1)
	apply(t, namespace, web+"---"+pod("client", line))
	kubectl(t, "wait", "pod/web", "pod/client", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	address := podIP(t, namespace, "web") + ":18080"
	answers := func(want string) {
		t.Helper()
		if got := kubectl(t, "exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address); !strings.Contains(got, want) {
			t.Errorf("answered with %q, not %q", got, want)
		}
	}
	run(t, onTarget(namespace, "--steal", "--", "true")...).fails(t, 125, `"host_network": true`)
	answers(fromPod)
	config := file(t, "mirrord.json", `{"feature": {"network": {"incoming": {"mode": "steal", "host_network": true}}}}`)
	program := strings.Replace(hearing(`HTTP/1.0 200 OK\r\n\r\nmine`), "8080", "18080", 1)
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config), "--", "python3", "-c", program)...), nil)
	d.line("listening")
	answers("mine")
	d.signal(syscall.SIGTERM)
	d.wait()
	answers(fromPod)

	apply(t, namespace, pod("plain", line))
	kubectl(t, "wait", "pod/plain", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	kubectl(t, "label", "pod", "plain", "web", "-n", namespace, "mirrord.test=mixed")
	d = started(t, mirrord(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "label/mirrord.test=mixed", "--steal", "--", "python3", "-c", program), nil)
	d.line("listening")
	d.told("replica web of label/mirrord.test=mixed/container/main keeps its own requests for now: stealing from pod web")
	answers(fromPod)
	d.signal(syscall.SIGTERM)
	d.wait()
}
