package mirrord_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"syscall"
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
	eventually(t, "pods that are all ready", func() (string, bool) { // others may be gone by then
		got := kubectl(t, "get", "pod", "-l", "app=web", "-n", namespace, "-o",
			`jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		pods := strings.Fields(got)
		return got, len(pods) > 0 && !slices.ContainsFunc(pods, func(p string) bool { return !strings.HasSuffix(p, "=True") })
	})
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
	t.Parallel()
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

// onWeb runs a program on a target of the deployment's, which settles what to do
// where another has the port.
func onWeb(t *testing.T, namespace, target, concurrent string, program ...string) *debuggee {
	t.Helper()
	config := file(t, "mirrord.json", fmt.Sprintf(`{"feature": {"network": {"incoming": {"mode": "steal", "on_concurrent_steal": %q}}}}`, concurrent))
	args := []string{"exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", target, "-f", config, "--"}
	return started(t, mirrord(t, append(args, program...)...), nil)
}

// Three users at one deployment: one has a pod, another the rest; the third does
// without, and then takes all over.
func TestReplicasOfSeveral(t *testing.T) {
	t.Parallel()
	namespace, address := ownDeployment(t, 2)
	l := loadFrom(t, namespace, "client", address)
	l.until(10, fromPod)

	ownDaemon(t)
	bob := startWorker(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "deployment/web", "--steal")
	bob.wants("100", "open /shop")
	main := replicasAre(t, namespace, 2).Pod
	pods := podsOf(t, namespace)
	other := pods[0]
	if other == main {
		other = pods[1]
	}

	ownDaemon(t)
	alice := onWeb(t, namespace, "pod/"+other, "abort", "python3", "-c", naming("alice's"))
	alice.line("listening")
	l.until(20, "alice's")
	l.until(20, fromPod)
	bob.wants("listening", "serve")
	bob.told("replica " + other + " keeps its own requests to port 8080 for now: ")
	l.until(20, "alice's")
	l.until(20, fromDebuggee)

	ownDaemon(t)
	without := onWeb(t, namespace, "deployment/web", "continue", "python3", "-c", naming("nobody's"))
	without.line("listening")
	without.told("listens without port 8080 of the target")
	without.told("is stolen already")
	carol := onWeb(t, namespace, "deployment/web", "override", "python3", "-c", naming("carol's"))
	carol.line("listening")
	held := holdersOf(t, namespace)
	var sessions ide.SessionListResult
	if err := json.Unmarshal([]byte(run(t, "session", "ls", "-o", "json").stdout), &sessions); err != nil || len(sessions.Sessions) != 2 {
		t.Fatalf("%v: %+v", err, sessions)
	}
	for i, h := range held {
		if len(held) != 2 || h.Pod != pods[i] || h.Session != sessions.Sessions[1].ID || h.Port != 8080 || h.Mode != "steal" || h.User == "" || h.Container != "main" {
			t.Errorf("the holders are %+v", held)
		}
	}
	all := time.Now()
	l.until(50, "carol's")
	bob.told("port 8080 of pod/" + main)
	bob.told("session " + sessions.Sessions[1].ID + " has taken it over")
	alice.told("has taken it over")
	ended := time.Now()
	for _, d := range []*debuggee{carol, without, alice} {
		d.signal(syscall.SIGTERM)
		d.wait()
	}
	bob.finish()
	l.until(50, fromPod)
	l.brief(ended, time.Second)
	for _, a := range l.answers {
		if a.began.After(all) && a.at.Before(ended) && !strings.Contains(a.body, "carol's") {
			t.Errorf("%v after all was hers: %q, %v", round(a.began.Sub(all)), a.body, a.err)
		}
	}
}

// A pod that cannot be taken is told of, and the rest works. The agents may die:
// another takes the main pod's place, and each is started again.
func TestReplicasBroken(t *testing.T) {
	namespace, address := ownDeployment(t, 2)
	broken := strings.Replace(pod("broken", ""), "metadata: {name: broken}", "metadata: {name: broken, labels: {app: web}}", 1)
	apply(t, namespace, strings.ReplaceAll(broken, "shop:1", "none:1\n    command: [none]"))
	eventually(t, "waiting", func() (string, bool) {
		why := kubectl(t, "get", "pod", "broken", "-n", namespace, "-o", "jsonpath={.status.containerStatuses[*].state.waiting.reason}")
		return why, why != ""
	})
	l := loadFrom(t, namespace, "client", address)
	l.until(10, fromPod)
	ownDaemon(t)
	w := startWorker(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "label/app=web", "--steal")
	w.wants("listening", "serve")
	w.told("not taken yet of label/app=web/container/main: broken (container main is waiting")
	kubectl(t, "delete", "pod", "broken", "-n", namespace, "--wait=false")
	main := replicasAre(t, namespace, 2).Pod
	agent := kubectl(t, "get", "pod", "-n", namespace, "-l", agentLabel+",mirrord/target="+main, "-o", "jsonpath={.items[0].metadata.name}")
	pid := processOf(t, namespace, agent)
	killed := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	w.told("from now on")
	w.wants("100", "open /shop")
	s := replicasAre(t, namespace, 2)
	if s.Pod == main {
		t.Errorf("the session is still on pod %s", main)
	}
	back := time.Now()
	l.until(100, fromDebuggee)
	again := time.Since(back)
	ended := time.Now()
	w.finish()
	failed, all := 0, l.end()
	for _, a := range failures(all) {
		switch after := a.began.Sub(killed); {
		case a.at.After(ended): // in flight
		case after > 100*time.Millisecond:
			t.Errorf("%v after the agent was killed: %v", round(after), a.err)
		default:
			failed++
		}
	}
	report(t, "agent of one of a deployment's pods killed", "what is in flight there fails; the pod answers, then the debuggee again",
		"%d requests failed then, in all %s; another agent after %v, 100 answers %v later", failed, tally(all), round(back.Sub(killed)), round(again))
}

// Of all pods the debuggee gets copies, and the pods answer. After the daemon's
// death it is so again.
func TestReplicasMirrored(t *testing.T) {
	t.Parallel()
	namespace, _ := ownDeployment(t, 2)
	dir := ownDaemon(t)
	d := started(t, mirrord(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "deployment/web", "--", "python3", "-c", naming("nobody's")), nil)
	d.line("listening")
	each := func(path string) {
		t.Helper()
		for _, name := range podsOf(t, namespace) {
			client := over(t, dialFrom(t, namespace, "client", podIP(t, namespace, name)+":8080"))
			if got := asUser(t, client, "", path+name); !strings.Contains(got, fromPod) {
				t.Errorf("pod %s answers %q", name, got)
			}
			if got := d.line("heard " + path); got != "heard "+path+name {
				t.Errorf("of pod %s is %s", name, got)
			}
		}
	}
	each("/first/")
	main := replicasAre(t, namespace, 2).Pod
	killDaemon(t, dir)
	eventually(t, "2 holders of the next daemon", func() (string, bool) {
		pids := daemonsIn(t, dir)
		held := holdersOf(t, namespace)
		return fmt.Sprint(pids, held), len(pids) == 1 && len(held) == 2 && !held[0].Away && !held[1].Away
	})
	if now := replicasAre(t, namespace, 2).Pod; now != main {
		t.Errorf("the session is on pod %s, it was on %s", now, main)
	}
	each("/second/")
	d.signal(syscall.SIGTERM)
	d.wait()
}
