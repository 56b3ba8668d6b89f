package mirrord_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"mirrord/protocol/ide"
)

// opened is a readiness gate: a pod is ready when the test says so.
const opened = "mirrord.test/open"

// ownDeployment runs n pods of a deployment, which a Service is before, and pod
// client. It returns the Service's address.
func ownDeployment(t *testing.T, n int) (namespace, address string) {
	t.Helper()
	namespace = ownNamespace(t)
	const line = `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]`
	apply(t, namespace, fmt.Sprintf(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: %d
  selector: {matchLabels: {app: web}}
  strategy: {rollingUpdate: {maxSurge: 100%%, maxUnavailable: 0}}
  template:
    metadata: {labels: {app: web}}
    spec:
      readinessGates: [{conditionType: %s}]
      automountServiceAccountToken: false
      containers:
      - name: main
        image: shop:1
        imagePullPolicy: IfNotPresent
        %s
        lifecycle: {preStop: {sleep: {seconds: 3}}} # till nobody sends it anything
---
apiVersion: v1
kind: Service
metadata: {name: web}
spec: {selector: {app: web}, ports: [{port: 80, targetPort: 8080}]}
---`, n, opened, line)+pod("client", line))
	kubectl(t, "wait", "pod/client", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	openPods(t, namespace, n)
	return namespace, kubectl(t, "get", "service", "web", "-n", namespace, "-o", "jsonpath={.spec.clusterIP}") + ":80"
}

// podsOf are those of a deployment that are not being deleted.
func podsOf(t *testing.T, namespace string) (names []string) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct {
				Name    string
				Deleted string `json:"deletionTimestamp"`
			}
		}
	}
	if err := json.Unmarshal([]byte(kubectl(t, "get", "pod", "-n", namespace, "-l", "app=web", "-o", "json")), &list); err != nil {
		t.Fatal(err)
	}
	for _, p := range list.Items {
		if p.Metadata.Deleted == "" {
			names = append(names, p.Metadata.Name)
		}
	}
	slices.Sort(names)
	return names
}

// openPods makes all pods ready once they are n.
func openPods(t *testing.T, namespace string, n int) {
	t.Helper()
	var names []string
	eventually(t, fmt.Sprintf("%d pods", n), func() (string, bool) {
		names = podsOf(t, namespace)
		return fmt.Sprint(names), len(names) == n
	})
	for _, name := range names {
		kubectl(t, "patch", "pod", name, "-n", namespace, "--subresource=status", "-p",
			fmt.Sprintf(`{"status": {"conditions": [{"type": %q, "status": "True"}]}}`, opened))
	}
	kubectl(t, "wait", "pod", "-l", "app=web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
}

// eventually asks until it is so.
func eventually(t *testing.T, what string, ask func() (got string, ok bool)) {
	t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(20 * time.Millisecond) {
		got, ok := ask()
		if ok {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("not %s, but %s", what, got)
		}
	}
}

// replicasAre waits until the only session has the ports of all the deployment's pods.
func replicasAre(t *testing.T, namespace string, n int) ide.Session {
	t.Helper()
	var s ide.Session
	eventually(t, fmt.Sprintf("all %d pods", n), func() (string, bool) {
		var r ide.SessionListResult
		out := run(t, "session", "ls", "-o", "json").stdout
		if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Sessions) != 1 {
			t.Fatalf("%v: %s", err, out)
		}
		s = r.Sessions[0]
		want := podsOf(t, namespace)
		return fmt.Sprint(s.Replicas, " of ", want), len(want) == n && slices.Equal(s.Replicas, want)
	})
	return s
}

// A deployment is stolen from as a whole: each request comes to the debuggee,
// whichever pod it reaches, while it is scaled and rolled out; in the end the pods
// answer. Files and outgoing connections move with the pod that they were of.
func TestReplicas(t *testing.T) {
	namespace, address := ownDeployment(t, 3)
	ownDaemon(t)
	l := loadFrom(t, namespace, "client", address)
	l.until(50, fromPod)
	w := startWorker(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "deployment/web", "--steal")
	began := time.Now()
	w.wants("listening", "serve")
	stolen := time.Now()
	first := replicasAre(t, namespace, 3)
	l.until(200, fromDebuggee)
	held := holdersOf(t, namespace)
	if len(held) != 3 {
		t.Errorf("the holders are %+v", held)
	}

	kubectl(t, "scale", "deployment/web", "-n", namespace, "--replicas=5")
	replicasAre(t, namespace, 5)
	openPods(t, namespace, 5)
	l.until(200, fromDebuggee)

	kubectl(t, "scale", "deployment/web", "-n", namespace, "--replicas=2")
	replicasAre(t, namespace, 2)
	l.until(200, fromDebuggee)

	before := podsOf(t, namespace)
	kubectl(t, "rollout", "restart", "deployment/web", "-n", namespace)
	eventually(t, "4 pods", func() (string, bool) { n := podsOf(t, namespace); return fmt.Sprint(n), len(n) == 4 })
	replicasAre(t, namespace, 4)
	openPods(t, namespace, 4)
	last := replicasAre(t, namespace, 2)
	if slices.Contains(before, last.Pod) || last.Pod == first.Pod {
		t.Errorf("the session is on pod %s, of those before the rollout: %v", last.Pod, before)
	}
	w.told("are those of pod " + last.Pod + " from now on")
	w.wants("100", "open /shop")
	w.wants("connected", "dial %s 8080", podIP(t, namespace, "client"))
	l.until(200, fromDebuggee)

	ended := time.Now()
	w.finish()
	l.until(50, fromPod)
	if held := holdersOf(t, namespace); len(held) > 0 {
		t.Errorf("in the end the holders are %+v", held)
	}
	cost := l.brief(ended, 200*time.Millisecond)
	served := 0
	for _, a := range l.answers {
		if a.began.After(stolen) && a.at.Before(ended) {
			if served++; a.err != nil || !strings.Contains(a.body, fromDebuggee) {
				t.Errorf("%v after the port was taken: %q, %v", round(a.began.Sub(stolen)), a.body, a.err)
			}
		}
	}
	report(t, "deployment of 3 is scaled to 5, to 2, and rolled out", "each request comes to the debuggee, none fails",
		"%d requests; listen(2) took %v for 3 pods; the end: %s", served, round(stolen.Sub(began)), cost)
}

// holdersOf asks who has ports of a namespace's pods.
func holdersOf(t *testing.T, namespace string) []ide.Holder {
	t.Helper()
	var r ide.HoldersResult
	out := run(t, "session", "ls", "--cluster", "-o", "json", "--kubeconfig", kubeconfig, "-n", namespace).stdout
	if err := json.Unmarshal([]byte(out), &r); err != nil || len(r.Problems) > 0 {
		t.Fatalf("%v, %q: %s", err, r.Problems, out)
	}
	return r.Holders
}
