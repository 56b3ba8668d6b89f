package mirrord_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// An outcome is all that a command has left.
type outcome struct {
	code           int // or minus the signal that ended it
	stdout, stderr string
}

// run runs bin/mirrord to its end.
func run(t *testing.T, args ...string) outcome {
	t.Helper()
	return finish(t, mirrord(t, args...), (*exec.Cmd).Start)
}

func finish(t *testing.T, cmd *exec.Cmd, start func(*exec.Cmd) error) outcome {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := start(cmd); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(patience, func() { cmd.Process.Kill() })
	defer timer.Stop()
	var exit *exec.ExitError
	if err := cmd.Wait(); err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	o := outcome{code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if status := cmd.ProcessState.Sys().(syscall.WaitStatus); status.Signaled() {
		o.code = -int(status.Signal())
	}
	return o
}

// fails checks that o is a failure told in one message, which has the words.
func (o outcome) fails(t *testing.T, code int, words ...string) {
	t.Helper()
	if o.code != code {
		t.Errorf("exit code %d, want %d", o.code, code)
	}
	if o.stdout != "" {
		t.Errorf("standard output is the debuggee's alone, and there is %q", o.stdout)
	}
	message := o.message()
	for _, w := range words {
		if !strings.Contains(message, w) {
			t.Errorf("the message does not say %q", w)
		}
	}
	if lines := strings.Count(message, "\n"); lines > 4 {
		t.Errorf("the message has %d lines", lines)
	}
	if t.Failed() {
		t.Logf("standard error:\n%s", o.stderr)
	}
}

// message is the last one; those before it tell of progress.
func (o outcome) message() string {
	i := strings.LastIndex("\n"+o.stderr, "\nmirrord: ")
	if i < 0 {
		return ""
	}
	return o.stderr[i:]
}

// onTarget is the command line of an exec in a namespace with a pod of ownTarget.
func onTarget(namespace string, args ...string) []string {
	return append([]string{"exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/web"}, args...)
}

// ownNamespace makes a namespace that goes with the test.
func ownNamespace(t *testing.T) string {
	t.Helper()
	needCluster(t)
	namespace := "e2e-" + strings.ToLower(rand.Text()[:10])
	kubectl(t, "create", "namespace", namespace)
	t.Cleanup(func() { kubectl(t, "delete", "namespace", namespace, "--wait=false") })
	return namespace
}

// ownTarget runs pod web in a namespace of the test's own.
func ownTarget(t *testing.T) (namespace string) {
	t.Helper()
	namespace = ownNamespace(t)
	apply(t, namespace, pod("web", "args: [sleep]"))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	return namespace
}

// pod is the manifest of a pod of the shop's image, its container completed by line.
func pod(name, line string) string {
	return fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: %s}
spec:
  terminationGracePeriodSeconds: 0
  automountServiceAccountToken: false
  containers:
  - name: main
    image: shop:1
    imagePullPolicy: IfNotPresent
    %s
`, name, line)
}

func apply(t *testing.T, namespace, manifest string) {
	t.Helper()
	kubectl(t, "apply", "-n", namespace, "-f", file(t, "manifest.yaml", manifest))
}

func file(t *testing.T, name, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const agentLabel = "app.kubernetes.io/name=mirrord-agent"

// noAgentLeft waits until a namespace has no agent, nor its job.
func noAgentLeft(t *testing.T, namespace string) {
	t.Helper()
	kubectl(t, "wait", "--for=delete", "pod,job", "-l", agentLabel, "-n", namespace, "--timeout=60s")
}

// The API server takes connections and never answers.
func TestClusterSilent(t *testing.T) {
	t.Parallel()
	needCluster(t) // else bin/mirrord need not be there
	ownDaemon(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	config := file(t, "kubeconfig", fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: silent
clusters: [{name: c, cluster: {server: "https://%s"}}]
contexts: [{name: silent, context: {cluster: c, user: u}}]
users: [{name: u, user: {token: t}}]
`, l.Addr()))
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	cmd := mirrord(t, "exec", "--kubeconfig", config, "-t", "deployment/web", "--", "true")
	defer context.AfterFunc(ctx, func() { cmd.Process.Kill() })()
	finish(t, cmd, (*exec.Cmd).Start).fails(t, 125,
		"reaching the cluster at https://"+l.Addr().String(), "no answer", "kubectl version --context silent")
}

// A pod that does not run is no target, whatever keeps it from it.
func TestTargetNotRunning(t *testing.T) {
	t.Parallel()
	namespace := ownNamespace(t)
	ownDaemon(t)
	reason := "jsonpath={.status.containerStatuses[0].state.waiting.reason}="
	for name, test := range map[string]struct {
		line, until string
		words       []string
	}{
		"unscheduled": {"args: [sleep]\n  nodeSelector: {no: where}", "condition=PodScheduled=false", []string{"not scheduled"}},
		"crashing":    {"args: [no-such-command]", reason + "CrashLoopBackOff", []string{"CrashLoopBackOff", "container main"}},
		"completed":   {"args: [get, 'http://inventory.shop/']\n  restartPolicy: Never", "jsonpath={.status.phase}=Succeeded", []string{"the pod has completed"}},
		"failed":      {"args: [no-such-command]\n  restartPolicy: Never", "jsonpath={.status.phase}=Failed", []string{"the pod has failed"}},
	} {
		t.Run(name, func(t *testing.T) {
			apply(t, namespace, pod(name, test.line))
			kubectl(t, "wait", "pod/"+name, "-n", namespace, "--for="+test.until, "--timeout=60s")
			run(t, "exec", "--kubeconfig", kubeconfig, "-n", namespace, "-t", "pod/"+name, "--", "true").
				fails(t, 125, append(test.words, "using pod "+name+" in namespace "+namespace, "kubectl describe pod "+name)...)
		})
	}
	noAgentLeft(t, namespace)
}

// A missing right is told with its verb and resource, and a line that shows it.
func TestForbidden(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	const (
		seePods  = `{apiGroups: [""], resources: [pods], verbs: [get, list, watch]}`
		makeJobs = `{apiGroups: [batch], resources: [jobs], verbs: [get, create, patch, delete]}`
	)
	for name, test := range map[string]struct {
		rules, target, verb, resource, canI string
	}{
		"get pods":    {"", "pod/web", "reading pod web", `cannot get resource "pods"`, "auth can-i get pods"},
		"create jobs": {seePods, "pod/web", "creating jobs", `cannot create resource "jobs"`, "auth can-i create jobs.batch"},
		"create pods/portforward": {seePods + ", " + makeJobs, "pod/web", "creating pod mirrord-agent-", `cannot create resource "pods/portforward"`,
			"auth can-i create pods --subresource=portforward"},
	} {
		t.Run(name, func(t *testing.T) {
			config := account(t, namespace, test.rules)
			o := run(t, "exec", "--kubeconfig", config, "-n", namespace, "-t", test.target, "--", "true")
			o.fails(t, 125, test.verb, test.resource, test.canI+" -n "+namespace)
			_, line, _ := strings.Cut(o.message(), "`kubectl ")
			line, _, _ = strings.Cut(line, "`")
			can := exec.Command(kubectlPath(), append(strings.Fields(line), "--kubeconfig", config)...)
			if out, _ := can.Output(); string(out) != "no\n" { // which is an exit code of 1 as well
				t.Errorf("kubectl %s says %q", line, out)
			}
			noAgentLeft(t, namespace)
		})
	}
}

// account makes a service account that may do only what rules say, and returns
// its kubeconfig.
func account(t *testing.T, namespace, rules string) string {
	t.Helper()
	name := "user-" + strings.ToLower(rand.Text()[:6])
	apply(t, namespace, fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: %[1]s}
rules: [%[3]s]
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[1]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[2]s}]
`, name, namespace, rules))
	config := file(t, "kubeconfig", kubectl(t, "config", "view", "--raw", "--flatten"))
	token := kubectl(t, "create", "token", name, "-n", namespace)
	kubectl(t, "config", "set-credentials", "user", "--token", token, "--kubeconfig", config)
	kubectl(t, "config", "set-context", "--current", "--user", "user", "--kubeconfig", config)
	return config
}

// An agent that cannot come to run ends the start in the cluster's own words.
func TestAgentCannotRun(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	t.Run("image missing", func(t *testing.T) {
		config := file(t, "mirrord.json", `{"agent": {"image": "mirrord.test/absent:1"}}`)
		run(t, onTarget(namespace, "-f", config, "--", "true")...).
			fails(t, 125, "starting agent mirrord-agent-web-", "namespace "+namespace, "ErrImagePull", "mirrord.test/absent:1", "the setting agent.image")
		noAgentLeft(t, namespace)
	})
	t.Run("quota", func(t *testing.T) {
		apply(t, namespace, `
apiVersion: v1
kind: ResourceQuota
metadata: {name: one-pod}
spec: {hard: {pods: "1"}}
`)
		run(t, onTarget(namespace, "--", "true")...).
			fails(t, 125, "starting agent mirrord-agent-web-", "exceeded quota: one-pod", "limited: pods=1", "the setting agent.namespace")
		noAgentLeft(t, namespace)
	})
}

// Whoever ends a start that waits leaves nothing in the cluster.
func TestStartInterrupted(t *testing.T) {
	t.Parallel()
	namespace, other := ownTarget(t), ownTarget(t)
	ownDaemon(t)
	// The registry is a debuggee, too: the node reaches it by its pod's address.
	registry := started(t, mirrord(t, onTarget(other, "--steal", "--", "python3", "-c", silentRegistry)...), nil)
	registry.line("listening")
	address := podIP(t, other, "web") + ":5000"
	for s, code := range map[syscall.Signal]int{syscall.SIGINT: 130, syscall.SIGTERM: 130, syscall.SIGKILL: -9} {
		t.Run(s.String(), func(t *testing.T) {
			image := fmt.Sprintf("%s/agent:%s", address, strings.ToLower(rand.Text()[:6]))
			config := file(t, "mirrord.json", fmt.Sprintf(`{"agent": {"image": %q, "image_pull_policy": "Always"}}`, image))
			d := started(t, mirrord(t, onTarget(namespace, "-f", config, "--", "true")...), nil)
			registry.line("asked") // the node pulls
			if out := kubectl(t, "get", "job", "-n", namespace, "-l", agentLabel, "-o", "name"); out == "" {
				t.Error("there is no job that could be left")
			}
			d.signal(s)
			if got := d.wait(); got != code {
				t.Errorf("exit code %d, want %d", got, code)
			}
			if words := d.errors(); s != syscall.SIGKILL && !strings.HasSuffix(words, "mirrord: cancelled\n") {
				t.Errorf("it says %q", words)
			}
			noAgentLeft(t, namespace)
		})
	}
	registry.signal(syscall.SIGTERM)
	registry.wait()
}

// silentRegistry takes connections and never answers.
const silentRegistry = `
import socket
l = socket.create_server(("", 5000))
print("listening", flush=True)
kept = []
while True:
    kept.append(l.accept())
    print("asked", flush=True)
`

// A command that the kernel will not execute is told as a shell tells it.
func TestCommandCannotRun(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	garbage, script := file(t, "garbage", "\x01\x02"), file(t, "script", "#!/no/such/interpreter\n")
	for _, path := range []string{garbage, script} {
		if err := os.Chmod(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, test := range []struct {
		command string
		code    int
		words   string
	}{
		{"no-such-command", 127, "no-such-command: command not found"},
		{"/etc/passwd", 126, "/etc/passwd: not executable"},
		{"/etc", 126, "/etc: is a directory"},
		{garbage, 126, "exec format error"},
		{script, 127, "its interpreter is not"},
	} {
		run(t, onTarget(namespace, "--", test.command)...).fails(t, test.code, test.words)
	}
	bin, err := filepath.Abs("bin/mirrord")
	if err != nil {
		t.Fatal(err)
	}
	nested := run(t, onTarget(namespace, append([]string{"--", bin}, onTarget(namespace, "--", "true")...)...)...)
	nested.fails(t, 125, "mirrord exec inside mirrord exec", "run the command itself")
}

// Standard input and output are the debuggee's alone, even while an agent starts.
func TestStandardStreams(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	cmd := mirrord(t, onTarget(namespace, "--", "sh", "-c", "cat; echo error >&2; exit 3")...)
	cmd.Stdin = io.LimitReader(endless{}, 1<<20)
	o := finish(t, cmd, (*exec.Cmd).Start)
	if o.stdout != strings.Repeat("x", 1<<20) {
		t.Errorf("%d bytes came back, beginning with %.80q", len(o.stdout), o.stdout)
	}
	if want := regexp.MustCompile(`(?m)^mirrord: in the context of pod/web/container/main in ` + namespace + `, after [0-9.]+ s\nerror\n$`); !want.MatchString(o.stderr) || o.code != 3 {
		t.Errorf("exit code %d, standard error %q", o.code, o.stderr)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, bytes.Repeat([]byte("x"), len(p))), nil }
