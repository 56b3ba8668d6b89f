package main

import (
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

const metricsAt = "127.0.0.1:9464" // in the tests' namespace, as the agent's pod

// scrape asks for the metrics as Prometheus does.
func scrape(t *testing.T) map[string]string {
	t.Helper()
	r, err := http.Get("http://" + metricsAt + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil || r.StatusCode != http.StatusOK {
		t.Fatalf("status %d, %v", r.StatusCode, err)
	}
	values := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && name != "#" {
			values[strings.TrimPrefix(name, "mirrord_agent_")] = value
		}
	}
	return values
}

// shows compares some metrics.
func shows(t *testing.T, want map[string]string) {
	t.Helper()
	got := scrape(t)
	for name, value := range want {
		if got[name] != value {
			t.Errorf("%s is %q, not %q", name, got[name], value)
		}
	}
}

// Each connection is a line of the log, and counted; at other levels none is logged.
func TestConnectionsAreTold(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p, "--log-level", "debug", "--metrics", metricsAt)
	client, _ := agenttest.New(t, a.addr)
	shows(t, map[string]string{"clients": "1", `ports{mode="steal"}`: "0", "connections_open": "0"})
	client.Steal(podPort)

	k := p.dial(t, false, podV4)
	stream, _ := client.Offered()
	relayed(t, stream)
	k.says("hello")
	k.hears("debuggee heard hello")
	shows(t, map[string]string{`ports{mode="steal"}`: "1", "connections_open": "1", `streams_total{kind="steal"}`: "1"})
	if err := k.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	k.hears("debuggee heard the end")
	a.logs("connection ended", "mode=steal", "port=8080", "client="+k.LocalAddr().String(), "in=6", "out=44", "served=", "err=<nil>")

	k = p.dial(t, false, podV4)
	stream, _ = client.Offered()
	if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
		t.Fatal(err)
	}
	k.hearsPod()
	a.logs("connection ended", `served="the pod"`, "in=6", "out=34")
	shows(t, map[string]string{
		`connections_total{served="holder"}`: "1", `connections_total{served="pod"}`: "1", "connections_open": "0",
		`bytes_total{direction="in"}`: "12", `bytes_total{direction="out"}`: "78",
	})
}

func TestRequestsAreCounted(t *testing.T) {
	f := newFiltered(t, func(by string, w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, by) }, "--metrics", metricsAt)
	for _, user := range []string{"alice", "bob", "bob"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, f.url, nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-User", user)
		answer, err := f.client(false).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	shows(t, map[string]string{`ports{mode="filter"}`: "1", `requests_total{served="holder"}`: "1", `requests_total{served="pod"}`: "2"})
}
