package mirrord_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// dialFrom connects from a pod.
func dialFrom(t *testing.T, namespace, pod, address string) net.Conn {
	t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", processOf(t, namespace, pod)))
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	var c net.Conn
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err == nil {
			c, err = net.DialTimeout("tcp", address, patience)
		}
	}()
	<-done
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// over is an HTTP client that has one connection and no other.
func over(t *testing.T, c net.Conn) *http.Client {
	first := true
	tr := &http.Transport{DialContext: func(context.Context, string, string) (net.Conn, error) {
		if !first {
			return nil, fmt.Errorf("the connection was not kept")
		}
		first = false
		return c, nil
	}}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// asUser asks as a user would.
func asUser(t *testing.T, c *http.Client, user, path string) string {
	t.Helper()
	r, err := http.NewRequest("GET", "http://shop"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	a, err := c.Do(r)
	if err != nil {
		t.Fatalf("%s as %q: %v", path, user, err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatalf("%s as %q: %v", path, user, err)
	}
	return string(b)
}

// filtering starts a debuggee of a user's own daemon, which gets his requests.
func filtering(t *testing.T, namespace, user string, program ...string) *debuggee {
	t.Helper()
	ownDaemon(t)
	return filteringHere(t, namespace, user, program...)
}

// filteringHere does so by the daemon there is.
func filteringHere(t *testing.T, namespace, user string, program ...string) *debuggee {
	t.Helper()
	config := filepath.Join(t.TempDir(), "mirrord.json")
	if err := os.WriteFile(config, []byte(filterOf(user, "")), 0o600); err != nil {
		t.Fatal(err)
	}
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), program...)...), nil)
	d.line("listening")
	return d
}

// filterOf is the configuration of a user who gets his requests; more completes
// what is said of incoming ones.
func filterOf(user, more string) string {
	return fmt.Sprintf(`{"key": %q, "feature": {"network": {"incoming": {"mode": "steal",
		"http_filter": {"header_filter": "^x-user: {{ key }}$"}%s}}}}`, user, more)
}

// naming is a program that tells what it hears at 8080, keeps connections and
// answers with its name.
func naming(name string) string {
	return fmt.Sprintf(`
from http.server import *
class H(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        print("heard", self.path, flush=True)
        self.send_response(200)
        self.send_header("Content-Length", "%d")
        self.end_headers()
        self.wfile.write(b"%s")
    def log_message(self, *a): pass
s = ThreadingHTTPServer(("", 8080), H)
print("listening", flush=True)
s.serve_forever()
`, len(name), name)
}

// Two users' daemons share a port by filters: each debuggee gets its user's
// requests and no other, all on one connection that is kept; when one ends, his
// are the pod's, on the same connection. To the pod its clients' addresses are theirs.
func TestFiltersShareAPort(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	alice := filtering(t, namespace, "alice", "python3", "-c", naming("alice's"))
	bob := filtering(t, namespace, "bob", "python3", "-c", naming("bob's"))
	agentPod(t, namespace)
	client := over(t, dialFrom(t, namespace, "client", address))
	clientIP := podIP(t, namespace, "client")
	expect := func(user, path, want string, d *debuggee) {
		t.Helper()
		got := asUser(t, client, user, path)
		if !strings.Contains(got, want) {
			t.Errorf("%s as %q: %q, not %q", path, user, got, want)
		}
		if want == fromPod && !strings.Contains(got, clientIP) {
			t.Errorf("%s as %q is for the pod not from %s: %s", path, user, clientIP, got)
		}
		if d != nil {
			if got := d.line("heard"); got != "heard "+path {
				t.Errorf("the debuggee %s, not %s", got, path)
			}
		}
	}
	for i := range 3 {
		path := func(user string) string { return fmt.Sprintf("/%s/%d", user, i) }
		expect("alice", path("alice"), "alice's", alice)
		expect("", path("nobody"), fromPod, nil)
		expect("bob", path("bob"), "bob's", bob)
		expect("carol", path("carol"), fromPod, nil)
	}
	ownDaemon(t)
	all := started(t, mirrord(t, append(onTarget(namespace, "--steal"), "--", "python3", "-c", naming("all"))...), nil)
	all.wait() // it cannot listen
	if said := all.errors(); !strings.Contains(said, "with a filter") || !strings.Contains(said, "is stolen already") {
		t.Errorf("who wants all was told %q", said)
	}
	bob.signal(syscall.SIGTERM)
	bob.wait()
	expect("bob", "/late", fromPod, nil)
	expect("alice", "/late", "alice's", alice)
	alice.signal(syscall.SIGTERM)
	alice.wait()
	expect("alice", "/last", fromPod, nil)
	if got := asUser(t, over(t, dialFrom(t, namespace, "client", address)), "alice", "/new"); !strings.Contains(got, fromPod) {
		t.Errorf("a new connection: %q", got)
	}
}

// Two sessions of one daemon share a port as those of two users do.
func TestFiltersOfOneUser(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	first := filteringHere(t, namespace, "first", "python3", "-c", naming("first's"))
	second := filteringHere(t, namespace, "second", "python3", "-c", naming("second's"))
	client := over(t, dialFrom(t, namespace, "client", address))
	for user, want := range map[string]string{"first": "first's", "second": "second's", "": fromPod} {
		if got := asUser(t, client, user, "/"); !strings.Contains(got, want) {
			t.Errorf("%q is answered %q, not %q", user, got, want)
		}
	}
	first.signal(syscall.SIGTERM)
	first.wait()
	if got := asUser(t, client, "second", "/"); !strings.Contains(got, "second's") {
		t.Errorf("after the first has ended: %q", got)
	}
	second.signal(syscall.SIGTERM)
	second.wait()
}

// streams builds a server of HTTP/2, and a pod that runs it.
func streams(t *testing.T) (program, namespace, address string) {
	t.Helper()
	namespace = ownNamespace(t)
	return streamsPod(t, namespace, "args: [pod]"), namespace, podIP(t, namespace, "web") + ":8080"
}

// streamsPod builds the server, and runs it as a pod that line completes, beside one
// to be a client in.
func streamsPod(t *testing.T, namespace, line string) (program string) {
	t.Helper()
	program = loadApp(t, "streams", "streams:3")
	web := strings.Replace(pod("web", line), "shop:1", "streams:3", 1)
	apply(t, namespace, web+"---"+pod("client", "args: [sleep]"))
	kubectl(t, "wait", "pod/web", "pod/client", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	return program
}

// loadApp builds one of testdata/apps and gives the cluster an image of it.
func loadApp(t *testing.T, app, name string) (program string) {
	t.Helper()
	program, image := built(t, "./testdata/apps/"+app, "-ldflags=-s -w"), filepath.Join(t.TempDir(), "image.tar")
	for _, command := range [][]string{
		{"go", "run", "./agent/image", "-o", image, "-name", name, program},
		{"bin/cluster", "load", image},
	} {
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", command, err, out)
		}
	}
	return program
}

// Streams of one HTTP/2 connection go to two users' debuggees and the pod, while
// all are open, as calls of gRPC are.
func TestFiltersShareStreams(t *testing.T) {
	t.Parallel()
	program, namespace, address := streams(t)
	alice := filtering(t, namespace, "alice", program, "alice's")
	bob := filtering(t, namespace, "bob", program, "bob's")
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) {
		return dialFrom(t, namespace, "client", address), nil
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	conn, err := tr.NewClientConn(t.Context(), "http", "shop:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	type call struct {
		name string
		in   *io.PipeWriter
		out  *http.Response
	}
	var calls []call
	for _, c := range []struct {
		user, name string
		by         *debuggee
	}{{"alice", "alice's", alice}, {"", "pod", nil}, {"bob", "bob's", bob}, {"carol", "pod", nil}} {
		out, in := io.Pipe()
		t.Cleanup(func() { in.Close() })
		r, err := http.NewRequest("POST", "http://shop/"+c.user, out)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-User", c.user)
		a, err := conn.RoundTrip(r)
		if err != nil {
			t.Fatalf("calling as %q: %v", c.user, err)
		}
		t.Cleanup(func() { a.Body.Close() })
		if got := a.Header.Get("X-Name"); got != c.name {
			t.Errorf("the call of %q is answered by %q, not %q", c.user, got, c.name)
		}
		if c.by != nil {
			c.by.line("heard /" + c.user)
		}
		calls = append(calls, call{c.name, in, a})
	}
	for round := range 20 {
		for _, c := range calls {
			words := fmt.Sprintf("message %d to %s", round, c.name)
			b := make([]byte, len(words))
			if _, err := io.WriteString(c.in, words); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c.out.Body, b); err != nil || string(b) != words {
				t.Fatalf("%q, %v, not %q", b, err, words)
			}
		}
	}
	for _, c := range calls {
		c.in.Close()
		if b, err := io.ReadAll(c.out.Body); err != nil || len(b) > 0 || c.out.Trailer.Get("X-End") != c.name {
			t.Errorf("%s ends with %q, %v, %v", c.name, b, err, c.out.Trailer)
		}
	}
	for _, d := range []*debuggee{alice, bob} {
		d.signal(syscall.SIGTERM)
		d.wait()
	}
	if conn, err = tr.NewClientConn(t.Context(), "http", "shop:80"); err != nil { // the first was asked to go
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	r, _ := http.NewRequest("POST", "http://shop/late", strings.NewReader("x"))
	r.Header.Set("X-User", "alice")
	a, err := conn.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if got := a.Header.Get("X-Name"); got != "pod" {
		t.Errorf("when both have gone, %q answers", got)
	}
}

// Those whose requests are not filtered notice neither a filter's begin nor its
// daemon's death; that of the agent costs them what is in flight.
func TestFilterDeaths(t *testing.T) {
	namespace, address := ownShop(t)
	l := loadFrom(t, namespace, "client", address)
	l.until(10, fromPod)
	alice := filtering(t, namespace, "alice", "python3", "-c", naming("alice's"))
	l.until(200, fromPod)
	mine := func() string {
		return asUser(t, over(t, dialFrom(t, namespace, "client", address)), "alice", "/mine")
	}
	if got := mine(); !strings.Contains(got, "alice's") {
		t.Errorf("before: %q", got)
	}
	killDaemon(t, runtimeDir(t))
	l.until(200, fromPod)
	for !strings.Contains(mine(), "alice's") { // her launcher starts another
	}
	l.mu.Lock()
	failed := failures(l.answers)
	l.mu.Unlock()
	if len(failed) > 0 {
		t.Errorf("%d of the others' requests failed, the first: %v", len(failed), failed[0].err)
	}
	agent := processOf(t, namespace, agentPod(t, namespace))
	killed := time.Now()
	if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.until(100, fromPod)
	cost := l.brief(killed, 100*time.Millisecond)
	alice.signal(syscall.SIGTERM)
	alice.wait()
	report(t, "filtered port: daemon killed, then agent killed", "others' requests do not notice the first; the second costs those in flight", "%s", cost)
}

// Sessions begin and end on a port under load, and nobody whose requests are not
// filtered notices, nor a client that keeps its connection.
func TestFiltersComeAndGoUnderLoad(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	l := loadFrom(t, namespace, "client", address)
	l.until(10, fromPod)
	const rounds = 20
	for i := range rounds {
		alice := filteringHere(t, namespace, "alice", "python3", "-c", naming("alice's"))
		l.until(50, fromPod)
		kept := over(t, dialFrom(t, namespace, "client", address))
		for user, want := range map[string]string{"alice": "alice's", "": fromPod} {
			if got := asUser(t, kept, user, "/"); !strings.Contains(got, want) {
				t.Errorf("round %d: %q is answered %q", i, user, got)
			}
		}
		alice.signal(syscall.SIGTERM)
		alice.wait()
		l.until(50, fromPod)
		if got := asUser(t, kept, "alice", "/"); !strings.Contains(got, fromPod) {
			t.Errorf("round %d: afterwards she is answered %q", i, got)
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if failed := failures(l.answers); len(failed) > 0 {
		t.Errorf("%d of %d requests failed, the first: %v", len(failed), len(l.answers), failed[0].err)
	}
	report(t, fmt.Sprintf("a filter's session begins and ends %d times", rounds), "nobody else notices", "%d requests, none failed", len(l.answers))
}

// A debuggee that mirrors by a filter hears the requests that it chooses; the pod
// answers them, and all others.
func TestFilterOfAMirror(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	config := filepath.Join(t.TempDir(), "mirrord.json")
	text := `{"feature": {"network": {"incoming": {"mode": "mirror", "http_filter": {"header_filter": "^x-user: alice$"}}}}}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), "python3", "-c", naming("the debuggee's"))...), nil)
	d.line("listening")
	client := over(t, dialFrom(t, namespace, "client", address))
	for i := range 5 {
		for _, user := range []string{"alice", "bob"} {
			path := fmt.Sprintf("/%s/%d", user, i)
			if got := asUser(t, client, user, path); !strings.Contains(got, fromPod) {
				t.Errorf("%s is answered %q", path, got)
			}
		}
		if got, want := d.line("heard"), fmt.Sprintf("heard /alice/%d", i); got != want {
			t.Errorf("the debuggee %s, not %s", got, want)
		}
	}
	d.signal(syscall.SIGTERM)
	d.wait()
}

// A session that steals once gets one of its user's requests, and one more when it
// is armed.
func TestOnceOnTheCluster(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	until := eventsOf(t)
	config := filepath.Join(t.TempDir(), "mirrord.json")
	text := `{"agent": {"metrics": "0.0.0.0:9464"},
		"feature": {"network": {"incoming": {"mode": "steal", "once": true, "http_filter": {"header_filter": "^x-user: alice$"}}}}}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), "python3", "-c", naming("hers"))...), nil)
	d.line("listening")
	kept := over(t, dialFrom(t, namespace, "client", address))
	for i := range 3 {
		for j, want := range []string{fromPod, "hers", fromPod, fromPod} {
			user := []string{"bob", "alice", "alice", "bob"}[j]
			if got := asUser(t, kept, user, fmt.Sprintf("/%d/%d", i, j)); !strings.Contains(got, want) {
				t.Errorf("%d: request %d of %s is answered %q, not %q", i, j, user, got, want)
			}
		}
		if e := until(ide.EventCaught); e.Port != 8080 {
			t.Errorf("it was caught at port %d", e.Port)
		}
		if out, err := mirrord(t, "session", "arm").CombinedOutput(); err != nil {
			t.Fatalf("arming: %v: %s", err, out)
		}
		until(ide.EventArmed)
	}
	ip := podIP(t, namespace, agentPod(t, namespace))
	metrics := kubectl(t, "exec", "-n", namespace, "client", "--", "/shop", "get", "http://"+ip+":9464/metrics")
	for _, want := range []string{`requests_total{served="holder"} 3`, `requests_total{served="pod"} 9`, `ports{mode="filter"} 1`} {
		if !strings.Contains(metrics, "mirrord_agent_"+want+"\n") {
			t.Errorf("the agent's metrics lack %s:\n%s", want, metrics)
		}
	}
	d.signal(syscall.SIGTERM)
	d.wait()
	if out, err := mirrord(t, "session", "arm").CombinedOutput(); err == nil || !strings.Contains(string(out), "once") {
		t.Errorf("arming nothing: %v: %s", err, out)
	}
}
