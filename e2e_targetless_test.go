package mirrord_test

import (
	"os"
	"strings"
	"testing"
)

// Without a target a debuggee has the cluster's names and network, from the
// agent's pod, and nothing else that is not its own.
func TestTargetless(t *testing.T) {
	t.Parallel()
	namespace, _ := ownShop(t)
	ownDaemon(t)
	kubectl(t, "label", "namespace", namespace, "pod-security.kubernetes.io/enforce=restricted")
	kubectl(t, "expose", "pod", "web", "--port=80", "--target-port=8080", "-n", namespace, "--labels=app=web", "--selector=app=web")
	kubectl(t, "label", "pod", "web", "-n", namespace, "app=web")
	hostname, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	own := file(t, "own", "12345")
	flags := []string{"exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "targetless"}
	w := startWorker(t, flags...)
	w.wants("connected", "dial web 80")
	w.wants("HTTP/1.0 200 OK", "ask")
	w.wants("5", "read %s", own)
	w.finish()
	o := run(t, append(flags, "--", "sh", "-c", "uname -n; env")...)
	if o.code != 0 || !strings.HasPrefix(o.stdout, hostname+"\n") || strings.Contains(o.stdout, "KUBERNETES_SERVICE_HOST") {
		t.Errorf("exit code %d: %s%s", o.code, o.stdout, o.stderr)
	}
	run(t, append(flags, "--steal", "--", "true")...).fails(t, 125, "stealing needs a target")
	pausing := file(t, "mirrord.json", `{"feature": {"pause": true}}`)
	run(t, append(flags, "-f", pausing, "--", "true")...).fails(t, 125, "feature.pause needs a target")
}

// A daemon that nobody needs ends, and so does its agent, each after a time
// that can be set.
func TestIdleEnds(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	dir := ownDaemon(t)
	setenv(t, "MIRRORD_DAEMON_IDLE", "100ms")
	config := file(t, "mirrord.json", `{"agent": {"idle_timeout": 1, "ttl": 1}}`)
	d := started(t, mirrord(t, onTarget(namespace, "-f", config, "--", "echo", "up")...), nil)
	d.line("up")
	var family []int
	for _, pid := range daemonsIn(t, dir) {
		family = append(family, pidfd(t, pid)...)
	}
	d.wait()
	for _, fd := range family {
		waitGone(t, fd)
	}
	if pids := daemonsIn(t, dir); len(pids) > 0 {
		t.Errorf("the daemons are %v", pids)
	}
	noAgentLeft(t, namespace)
	setenv(t, "MIRRORD_DAEMON_IDLE", "soon")
	run(t, onTarget(namespace, "--", "true")...).fails(t, 125, "reading MIRRORD_DAEMON_IDLE", "soon")
}
