package cluster

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

func podWith(names ...string) *corev1.Pod {
	pod := &corev1.Pod{}
	for _, n := range names {
		pod.Spec.Containers = append(pod.Spec.Containers, corev1.Container{Name: n})
	}
	return pod
}

func TestDefaultContainer(t *testing.T) {
	annotated := podWith("istio-proxy", "app", "db")
	annotated.Annotations = map[string]string{"kubectl.kubernetes.io/default-container": "db"}
	native := podWith("app")
	native.Spec.InitContainers = []corev1.Container{
		{Name: "migrate"},
		{Name: "logs", RestartPolicy: new(corev1.ContainerRestartPolicyAlways)},
	}
	for _, test := range []struct {
		pod  *corev1.Pod
		want []string
	}{
		{podWith("app"), []string{"app"}},
		{podWith("istio-proxy", "app", "db"), []string{"app", "db", "istio-proxy"}},
		{podWith("linkerd-proxy"), []string{"linkerd-proxy"}},
		{annotated, []string{"db", "app", "istio-proxy"}},
		{native, []string{"app", "logs"}},
	} {
		if got := names(candidates(test.pod)); !slices.Equal(got, test.want) {
			t.Errorf("containers %q, want %q", got, test.want)
		}
	}
	if _, err := container(native, "migrate"); !IsKind(err, UnknownContainer) {
		t.Errorf("an init container that has ended: %v", err)
	}
}

func TestIdle(t *testing.T) {
	for want, status := range map[string]corev1.PodStatus{
		"": {Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}},
		}},
		"container app is waiting (CrashLoopBackOff): back-off": {Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off"}}},
		}},
		"container app has ended (OOMKilled, exit code 137)": {Phase: corev1.PodRunning, ContainerStatuses: []corev1.ContainerStatus{
			{Name: "app", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "OOMKilled", ExitCode: 137}}},
		}},
		"the pod has failed (Evicted): disk": {Phase: corev1.PodFailed, Reason: "Evicted", Message: "disk"},
		"the pod has completed":              {Phase: corev1.PodSucceeded},
		"the pod is pending":                 {},
		"the pod is not scheduled (Unschedulable): 0/3 nodes": {Phase: corev1.PodPending, Conditions: []corev1.PodCondition{
			{Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: "Unschedulable", Message: "0/3 nodes"},
		}},
	} {
		pod := podWith("app")
		pod.Status = status
		if got := idle(pod, "app"); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
	pod := podWith("app")
	pod.DeletionTimestamp = new(metav1.Now())
	if got := idle(pod, "app"); got != "the pod is being deleted" {
		t.Error(got)
	}
}

func TestSelector(t *testing.T) {
	for raw, want := range map[string]string{
		`{"matchLabels":{"app":"web"}}`:                                            "app=web",
		`{"matchExpressions":[{"key":"tier","operator":"In","values":["a","b"]}]}`: "tier in (a,b)",
		`{"app":"web","tier":"front"}`:                                             "app=web,tier=front",
		`{}`:                                                                       "",
		``:                                                                         "",
		`[1]`:                                                                      "",
	} {
		var w workload
		if raw != "" {
			w.Spec.Selector = []byte(raw)
		}
		got, err := w.selector()
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v; want %q", raw, got, err, want)
		}
	}
}

func TestJob(t *testing.T) {
	target := &Target{Namespace: "shop", Pod: "web.1-" + strings.Repeat("x", 300), UID: "u", Container: "app", Node: "n1"}
	spec := AgentSpec{Image: "i", Build: "1.0+dirty", DisabledCapabilities: []string{"NET_RAW"}, Labels: map[string]string{labelName: "mine", "team": "a"}}
	j, err := job(target, spec)
	if err != nil {
		t.Fatal(err)
	}
	if len(j.Name) > 63 || strings.Contains(j.Name, ".") {
		t.Errorf("name %q", j.Name)
	}
	pod := j.Spec.Template
	if pod.Labels[labelName] != agentName || pod.Labels["team"] != "a" || pod.Labels[labelBuild] != "1.0-dirty" || len(pod.Labels[labelTarget]) != 63 {
		t.Errorf("labels %v", pod.Labels)
	}
	if pod.Spec.NodeName != "n1" || !pod.Spec.HostPID || *pod.Spec.AutomountServiceAccountToken {
		t.Errorf("pod spec %+v", pod.Spec)
	}
	want := []corev1.Capability{"SYS_ADMIN", "SYS_PTRACE", "NET_ADMIN", "DAC_READ_SEARCH", "KILL", "SETUID", "SETGID", "CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"}
	if got := pod.Spec.Containers[0].SecurityContext.Capabilities.Add; !slices.Equal(got, want) {
		t.Errorf("capabilities %v, want %v", got, want)
	}
	again, other := *target, *target
	again.Path.Container, again.ContainerID, other.Container = "app", "restarted", "another"
	if jobName(&again, spec) != j.Name || jobName(&other, spec) == j.Name {
		t.Error("the name does not follow the target")
	}
}

// Probes that the agent cannot know are named.
// Istio's injection leaves in the spec only probes of its proxy, and has the
// application's in the proxy's environment.
func TestRewrittenProbes(t *testing.T) {
	ask := func(port int) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(port)}}}
	}
	web := corev1.Container{Name: "web", LivenessProbe: ask(15020), Ports: []corev1.ContainerPort{{Name: "http", ContainerPort: 8080}}}
	for env, want := range map[string][2][]int{
		`{"/app-health/web/livez":{"httpGet":{"path":"/healthz","port":8081},"timeoutSeconds":1},
		  "/app-health/web/readyz":{"httpGet":{"port":"http"}},
		  "/app-health/web-admin/livez":{"tcpSocket":{"port":9090}},
		  "/app-health/web/startupz":{"grpc":{"port":7070,"service":null}}}`: {{7070, 8080, 8081, 15020}, {7070, 8080, 8081, 9090, 15020}},
		"not JSON": {{15020}, {15020}},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{
			web, {Name: "web-admin"}, {Name: "istio-proxy", Env: []corev1.EnvVar{{Name: "ISTIO_KUBE_APP_PROBERS", Value: env}}},
		}}}
		if got := probePorts(pod, []*corev1.Container{&pod.Spec.Containers[0]}); !slices.Equal(got, want[0]) {
			t.Errorf("%s: the container's: %v, want %v", env, got, want[0])
		}
		if got := probePorts(pod, candidates(pod)); !slices.Equal(got, want[1]) {
			t.Errorf("%s: the pod's: %v, want %v", env, got, want[1])
		}
	}
}

func TestUnlikeProbes(t *testing.T) {
	get := func(port int, scheme corev1.URIScheme, headers ...corev1.HTTPHeader) *corev1.Probe {
		return &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt(port), Scheme: scheme, HTTPHeaders: headers}}}
	}
	got := unlikeProbes(&corev1.Container{
		LivenessProbe:  get(8443, corev1.URISchemeHTTPS),
		ReadinessProbe: get(8080, corev1.URISchemeHTTP, corev1.HTTPHeader{Name: "user-agent", Value: "mine"}),
		StartupProbe:   get(8081, "", corev1.HTTPHeader{Name: "X-Mine", Value: "1"}),
	})
	if want := []string{"the liveness probe at port 8443 is over TLS", "the readiness probe at port 8080 has a User-Agent of its own"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

// Of a long log the end is told, from the beginning of a line.
func TestLastWords(t *testing.T) {
	long := strings.Repeat("x", 600)
	for log, want := range map[string]string{
		" short\n":           "short",
		"first\nlast" + long: "…" + ("first\nlast" + long)[10:],
		long + "y\nlast\n":   "…last",

		"level=I" + strings.Repeat("x", 2041) + "\nlast": "last",

		"time=T level=INFO msg=serving\nlistening on 127.0.0.1:7777\n":        "",
		"time=T level=INFO msg=serving\npanic: x\n\ngoroutine 1 [running]:\n": "panic: x\n\ngoroutine 1 [running]:",
	} {
		if got := lastWords(log); got != want {
			t.Errorf("lastWords(%q) = %q, want %q", log, got, want)
		}
	}
}
