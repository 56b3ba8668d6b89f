package mirrord_test

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// seen is what the probes print; see testdata/apps/probe.
type seen struct {
	Language, Greeting, Hostname, Secret, Mode, Mapped string
	Config                                             []string
	Large                                              int64
	LargeHash, Absent                                  string
	Address, NoName, Inventory, Refused, Local, Peer   string
}

// goProbe builds the Go probe, static and stripped.
func goProbe(t *testing.T) string {
	t.Helper()
	return built(t, "./testdata/apps/probe", "-ldflags=-s -w")
}

// One debuggee of each kind sees the pod's environment, files, names and
// network, and takes its traffic.
func TestContext(t *testing.T) {
	needCluster(t)
	pod, podIP := podOf(t, "app=web")
	_, clientIP := podOf(t, "app=client")
	service := kubectl(t, "get", "service", "-n", "shop", "inventory", "-o", "jsonpath={.spec.clusterIP}")
	large := largeFile(t)
	for language, command := range map[string][]string{
		"go":     {goProbe(t)},
		"python": {"python3", "testdata/apps/probe/probe.py"},
		"node":   {"node", "testdata/apps/probe/probe.js"},
	} {
		t.Run(language, func(t *testing.T) {
			d := execute(t, []string{"PROBE_REFUSED=" + podIP}, append([]string{"--steal", "--"}, command...)...)
			var got seen
			if err := json.Unmarshal([]byte(d.line("{")), &got); err != nil {
				t.Fatal(err)
			}
			if local, err := netip.ParseAddrPort(got.Local); err != nil || local.Addr().String() != podIP {
				t.Errorf("getsockname says %q, the pod is %s", got.Local, podIP)
			}
			if !strings.Contains(got.Inventory, "asked by "+podIP+":") {
				t.Errorf("inventory answered %q, want: asked by %s", got.Inventory, podIP)
			}
			got.Local, got.Inventory = "", ""
			want := seen{
				Language: language, Greeting: "hello from the cluster", Hostname: pod,
				Secret: "sample-token-1f2e", Mode: "644", Mapped: "sample-token-1f2e",
				Config: got.Config, Large: int64(len(large)), LargeHash: hash(large), Absent: "ENOENT",
				Address: service, NoName: "ENOTFOUND", Refused: "ECONNREFUSED", Peer: service + ":80",
			}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("it saw (-want +got):\n%s", diff)
			}
			if !strings.Contains(strings.Join(got.Config, " "), "config.yaml") {
				t.Errorf("/etc/shop lists %q", got.Config)
			}

			listening := d.line("listening")
			if !strings.HasSuffix(listening, ":8080") {
				t.Errorf("getsockname of the listener: %q", listening)
			}
			// On a dual-stack listener node shows mapped addresses, as it would in the pod.
			answer := strings.ReplaceAll(ask(t, "http://web/"), "::ffff:", "")
			if !strings.HasPrefix(answer, "probe "+language+" for "+clientIP+":") || !strings.Contains(answer, " at "+podIP+":8080") {
				t.Errorf("the Service answered %q, want the probe for %s at %s:8080", answer, clientIP, podIP)
			}
			d.signal(syscall.SIGTERM)
			d.line("ending")
			if code := d.wait(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if answer := ask(t, "http://web/"); !strings.Contains(answer, `"copy": "cluster"`) && !strings.Contains(answer, `"copy":"cluster"`) {
				t.Errorf("after the end the Service answered %q, want the pod", answer)
			}
		})
	}
}

// largeFile is the content of /shop in the pod, as kubectl has it.
func largeFile(t *testing.T) []byte {
	t.Helper()
	b, err := os.ReadFile("bin/shop")
	if err != nil {
		t.Fatalf("%v: ./task shop makes it", err)
	}
	return b
}

func hash(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:])
}

// A Kubernetes client in the pod's context is the pod's service account,
// without being told anything.
func TestKubectlAsThePod(t *testing.T) {
	needCluster(t)
	pod, _ := podOf(t, "app=web")
	list := execute(t, nil, "--", kubectlPath(), "get", "pods", "-o", "name")
	list.line("pod/" + pod)
	if code := list.wait(); code != 0 {
		t.Errorf("kubectl get pods: exit code %d: %s", code, list.errors())
	}
	who := execute(t, nil, "--", kubectlPath(), "auth", "whoami", "-o", "jsonpath={.status.userInfo.username}")
	who.line("system:serviceaccount:shop:web")
	who.wait()
	denied := execute(t, nil, "--", kubectlPath(), "get", "secrets")
	if code := denied.wait(); code == 0 || !strings.Contains(denied.errors(), "Forbidden") {
		t.Errorf("kubectl get secrets: exit code %d: %s", code, denied.errors())
	}
}

// A debuggee has the descriptors that its launcher was started with, at their
// numbers, and nobody else has them once it has ended: not the daemon either.
func TestInheritedDescriptors(t *testing.T) {
	needCluster(t)
	ownDaemon(t)
	for _, words := range [][]string{
		{"exec", "--target", "deployment/inventory", "--namespace", "shop", "--kubeconfig", kubeconfig, "--"},
		{"exec", "--agent", "127.0.0.1:1", "--"}, // no session: nothing is started
	} {
		third, w3, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		fifth, w5, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := mirrord(t, append(words, "sh", "-c", "echo three >&3; echo five >&5; [ ! -e /proc/self/fd/6 ]")...)
		cmd.ExtraFiles = []*os.File{w3, nil, w5}
		out, err := cmd.CombinedOutput()
		w3.Close()
		w5.Close()
		want := words[1] == "--target"
		if (err == nil) != want {
			t.Errorf("%q: %v: %s", words, err, out)
		}
		for file, text := range map[*os.File]string{third: "three\n", fifth: "five\n"} {
			if !want {
				text = ""
			}
			if got, err := io.ReadAll(file); err != nil || string(got) != text {
				t.Errorf("%q: it has written %q, %v, want %q", words, got, err, text)
			}
			file.Close()
		}
	}
}

// A debuggee's timers are as exact as without mirrord; mirrord's own need not be.
func TestTimers(t *testing.T) {
	needCluster(t)
	first, err := os.ReadFile("/proc/self/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	d := execute(t, nil, "--", "sh", "-c", `cat /proc/self/timerslack_ns
		until grep -x 1000000 /proc/$PPID/timerslack_ns; do sleep .01; done # its keeper's, once it has been started`)
	if got := d.line(""); got != strings.TrimSpace(string(first)) {
		t.Errorf("the debuggee's slack is %s ns; mirrord was started with %s", got, first)
	}
	if got := d.line(""); got != "1000000" {
		t.Errorf("its keeper's slack is %s ns", got)
	}
}

// explain knows the volumes of the target that the configuration names.
func TestExplainConfigured(t *testing.T) {
	needCluster(t)
	file := filepath.Join(t.TempDir(), "mirrord.json")
	if err := os.WriteFile(file, []byte(`{"target": {"path": "deployment/web", "namespace": "shop"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	for cluster, want := range map[string]string{
		kubeconfig: "/etc/shop/config.yaml: remote, read-only",
		file:       "note: where the target has volumes is not known",
	} {
		out, err := mirrord(t, "explain", "path", "/etc/shop/config.yaml", "-f", file, "--kubeconfig", cluster).CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("with kubeconfig %s: %v, %s, want %q", cluster, err, out, want)
		}
	}
}
