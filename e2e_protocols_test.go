package mirrord_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// sockets opens a WebSocket for each user at one address, all before it uses one, and
// tells what each hears: its server's name, two messages given back, how it is closed.
const sockets = `
const [address, ...users] = process.argv.slice(1)
const long = "x".repeat(70000)
const open = user => new Promise((opened, failed) => {
	const s = new WebSocket("ws://" + address + "/" + user, {headers: {"X-User": user}})
	const heard = new Promise(done => {
		const all = []
		s.onmessage = e => {
			all.push(e.data === long ? "long" : e.data)
			if (all.length === 1) opened({s, heard})
			if (all.length === 2) s.send(long)
			if (all.length === 3) s.close(1000)
		}
		s.onclose = e => done([...all, e.code + " " + e.wasClean])
	})
	s.onerror = e => failed(e.error ?? e.message)
})
const all = await Promise.all(users.map(open))
all.forEach(({s}, i) => s.send("hello of " + users[i]))
console.log(JSON.stringify(await Promise.all(all.map(o => o.heard))))
`

// Through filtered ports WebSockets go to whom their requests are for, and a server
// that speaks first is heard though its client is silent: it is the pod's, which knows
// its client's address.
func TestFiltersOfOtherProtocols(t *testing.T) {
	t.Parallel()
	node := tool(t, "node")
	namespace := ownNamespace(t)
	program := streamsPod(t, namespace, "args: [pod, greet]")
	ownDaemon(t)
	config := file(t, "mirrord.json", `{"agent": {"metrics": "0.0.0.0:9464"}, "feature": {"network": {"incoming": {"mode": "steal",
		"http_filter": {"header_filter": "^x-user: alice$", "ports": [8025, 8080]}}}}}`)
	d := started(t, mirrord(t, append(onTarget(namespace, "-f", config, "--"), program, "alice's", "greet")...), nil)
	d.line("listening")
	ip := podIP(t, namespace, "web")

	client := exec.Command("nsenter", "--net", "--target", fmt.Sprint(processOf(t, namespace, "client")), node,
		"--experimental-websocket", "--no-warnings", "--input-type=module", "-e", sockets, "--", ip+":8080", "alice", "bob", "carol")
	client.Stderr = t.Output()
	kill := time.AfterFunc(patience, func() { client.Process.Kill() })
	out, err := client.Output()
	kill.Stop()
	if err != nil {
		t.Fatal(err)
	}
	var got [][]string
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := [][]string{
		{"alice's", "hello of alice", "long", "1000 true"},
		{"pod", "hello of bob", "long", "1000 true"},
		{"pod", "hello of carol", "long", "1000 true"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("WebSockets heard (-want +got):\n%s", diff)
	}
	if got := d.line("heard"); got != "heard /alice" {
		t.Errorf("the debuggee %s", got)
	}

	greeted := "220 pod hears " + podIP(t, namespace, "client") + "\r\n"
	for range 3 {
		c := dialFrom(t, namespace, "client", ip+":8025")
		c.SetDeadline(time.Now().Add(patience))
		r := bufio.NewReader(c)
		if got, err := r.ReadString('\n'); err != nil || got != greeted {
			t.Fatalf("greeted with %q, %v, not %q", got, err, greeted)
		}
		if _, err := io.WriteString(c, "EHLO client\r\n"); err != nil {
			t.Fatal(err)
		}
		if got, err := r.ReadString('\n'); err != nil || got != "EHLO client\r\n" {
			t.Fatalf("answered with %q, %v", got, err)
		}
	}
	agent := podIP(t, namespace, agentPod(t, namespace))
	metrics := kubectl(t, "exec", "-n", namespace, "client", "--", "/shop", "get", "http://"+agent+":9464/metrics")
	if want := "mirrord_agent_ports{mode=\"filter\"} 2\n"; !strings.Contains(metrics, want) {
		t.Errorf("the agent's metrics lack %s:\n%s", want, metrics)
	}
	d.signal(syscall.SIGTERM)
	d.wait()
}
