package mirrord_test

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// A pulse is a pod that counts.
type pulse struct {
	t              *testing.T
	namespace, pod string
}

// count is how far it is.
func (p pulse) count() int {
	p.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/root/data/count", processOf(p.t, p.namespace, p.pod)))
	if errors.Is(err, os.ErrNotExist) {
		return 0 // it was paused before it began
	}
	if err != nil {
		p.t.Fatal(err)
	}
	n, err := strconv.Atoi(string(b))
	if err != nil {
		p.t.Fatal(err)
	}
	return n
}

func (p pulse) goesOn() {
	p.t.Helper()
	n := p.count()
	eventually(p.t, fmt.Sprintf("going on from %d", n), func() (string, bool) {
		now := p.count()
		return strconv.Itoa(now), now > n
	})
}

// is checks what kubelet has seen of it.
func (p pulse) is(state string) {
	p.t.Helper()
	if got := p.status(); got != state {
		p.t.Errorf("pod %s: %s, not %s", p.pod, got, state)
	}
}

func (p pulse) status() string {
	p.t.Helper()
	return kubectl(p.t, "get", "pod", p.pod, "-n", p.namespace, "-o", "jsonpath={.status.containerStatuses[0].ready} {.status.containerStatuses[0].restartCount}")
}

// stands checks that it does not count while kubelet probes it some times.
func (p pulse) stands(restarts int) {
	p.t.Helper()
	n := p.count()
	first := -1
	eventually(p.t, "probed four times", func() (string, bool) {
		log, err := tryKubectl("logs", "-n", p.namespace, "-l", agentLabel, "--tail=-1")
		if err != nil {
			return err.Error(), false // kubelet has yet to tell that the agent runs
		}
		now := strings.Count(log, "as a probe of a paused pod")
		if first < 0 {
			first = now
		}
		return strconv.Itoa(now - first), now-first >= 4
	})
	if now := p.count(); now != n {
		p.t.Errorf("it went from %d to %d", n, now)
	}
	p.is(fmt.Sprintf("true %d", restarts))
}

// A paused target does nothing, is not restarted, and goes on whatever ends its pause.
func TestPause(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	loadApp(t, "pulse", "pulse:1")
	apply(t, namespace, `
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      automountServiceAccountToken: false
      containers:
      - name: main
        image: pulse:1
        imagePullPolicy: IfNotPresent
        command: [/pulse]
        livenessProbe: {httpGet: {port: 8080}, periodSeconds: 1, failureThreshold: 2}
        readinessProbe: {exec: {command: [/pulse, probe]}, periodSeconds: 1, failureThreshold: 2}
---
apiVersion: v1
kind: Pod
metadata: {name: other}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
  - name: main
    image: pulse:1
    imagePullPolicy: IfNotPresent
    command: [/pulse]
    livenessProbe: {grpc: {port: 8080}, periodSeconds: 1, failureThreshold: 2}
    readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1, failureThreshold: 2}
---`+pod("client", "args: [sleep]"))
	kubectl(t, "rollout", "status", "deployment/web", "-n", namespace, "--timeout=60s")
	kubectl(t, "wait", "pod/other", "pod/client", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	ownDaemon(t)
	web := pulse{t, namespace, podsOf(t, namespace)[0]}
	web.goesOn()
	address := "http://" + podIP(t, namespace, web.pod) + ":8080/"
	answers := func(want string) {
		t.Helper()
		if got := kubectl(t, "exec", "-n", namespace, "client", "--", "/shop", "get", address); !strings.Contains(got, want) {
			t.Errorf("%q answers, not %s", got, want)
		}
	}
	config := file(t, "mirrord.json", `{"feature": {"pause": true}, "agent": {"log_level": "debug"}}`)
	start := func(target string) workerDebuggee {
		t.Helper()
		w := startWorker(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", target, "-f", config, "--steal")
		if n := w.do("read /data/count"); n == "0" || strings.Trim(n, "0123456789") != "" {
			t.Errorf("of the paused pod's file %s was read", n)
		}
		return w
	}

	w := start("deployment/web")
	web.stands(0)
	w.wants("listening", "serve")
	answers(fromDebuggee)
	web.stands(0)
	if out := kubectl(t, "exec", "-n", namespace, web.pod, "--", "/pulse", "exec"); out != "" {
		t.Errorf("exec said %q", out)
	}
	if o := run(t, "session", "ls", "--cluster", "--kubeconfig", kubeconfig, "-n", namespace); strings.Count(o.stdout, "pause") != 1 {
		t.Errorf("who holds what:\n%s", o.stdout)
	}
	w.finish()
	web.goesOn()
	answers("the pod")

	w = start("pod/" + web.pod) // of a deployment another agent is started
	_, id, _ := strings.Cut(kubectl(t, "get", "pod", web.pod, "-n", namespace, "-o", "jsonpath={.status.containerStatuses[0].containerID}"), "://")
	agent, err := strconv.Atoi(strings.TrimPrefix(agentOf(t, id), "/proc/"))
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(agent, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	web.goesOn()
	w.told("the agent has ended")
	w.finish()
	web.is("true 0")

	// A restarted container is paused again.
	w = start("deployment/web")
	if err := syscall.Kill(processOf(t, namespace, web.pod), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "restarted", func() (string, bool) { s := web.status(); return s, s == "true 1" })
	web.stands(1)
	w.finish()
	web.goesOn()

	other := pulse{t, namespace, "other"}
	w = start("pod/other")
	other.stands(0)
	w.finish()
	other.goesOn()
	other.is("true 0")

	// One that is deleted ends; it does not wait for the session's end.
	w = start("pod/other")
	kubectl(t, "delete", "pod/other", "-n", namespace, "--grace-period=5", "--timeout=60s")
	w.finish()
}
