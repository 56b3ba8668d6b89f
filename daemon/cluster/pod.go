package cluster

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// sidecars are containers that a mesh or a secret injector adds: never meant
// when a pod is named without a container.
var sidecars = []string{
	"istio-proxy", "istio-init", "istio-validation",
	"linkerd-proxy", "linkerd-init", "linkerd-network-validator",
	"kuma-sidecar", "kuma-init", "consul-dataplane", "envoy-sidecar",
	"vault-agent", "vault-agent-init",
}

// candidates lists the pod's containers that run beside each other, the
// default one first. An init container that restarts always is a sidecar.
func candidates(pod *corev1.Pod) []*corev1.Container {
	var all []*corev1.Container
	for i := range pod.Spec.Containers {
		all = append(all, &pod.Spec.Containers[i])
	}
	wanted := pod.Annotations["kubectl.kubernetes.io/default-container"]
	rank := func(c *corev1.Container) int {
		switch {
		case c.Name == wanted:
			return 0
		case !slices.Contains(sidecars, c.Name):
			return 1
		}
		return 2
	}
	slices.SortStableFunc(all, func(a, b *corev1.Container) int { return rank(a) - rank(b) })
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			all = append(all, c)
		}
	}
	return all
}

func names(containers []*corev1.Container) []string {
	var out []string
	for _, c := range containers {
		out = append(out, c.Name)
	}
	return out
}

// container finds one by name, "" being the default one.
func container(pod *corev1.Pod, name string) (*corev1.Container, error) {
	all := candidates(pod)
	for _, c := range all {
		if name == "" || c.Name == name {
			return c, nil
		}
	}
	return nil, &Error{
		Kind: UnknownContainer,
		Msg:  fmt.Sprintf("finding container %q: pod %s in namespace %s does not have it", name, pod.Name, pod.Namespace),
		Hint: suggest(name, names(all), "its containers are"),
	}
}

// containerStatus is nil before kubelet has looked at the pod.
func containerStatus(pod *corev1.Pod, name string) *corev1.ContainerStatus {
	for _, all := range [][]corev1.ContainerStatus{pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses} {
		for i := range all {
			if all[i].Name == name {
				return &all[i]
			}
		}
	}
	return nil
}

// idle says why the pod's container cannot be a target, "" if it can.
func idle(pod *corev1.Pod, name string) string {
	if pod.DeletionTimestamp != nil {
		return "the pod is being deleted"
	}
	switch pod.Status.Phase {
	case corev1.PodSucceeded:
		return "the pod has completed"
	case corev1.PodFailed:
		return words("the pod has failed", pod.Status.Reason, pod.Status.Message)
	}
	status := containerStatus(pod, name)
	if status == nil {
		for _, c := range pod.Status.Conditions {
			if c.Type == corev1.PodScheduled && c.Status == corev1.ConditionFalse {
				return words("the pod is not scheduled", c.Reason, c.Message)
			}
		}
		return words("the pod is "+strings.ToLower(string(cmp.Or(pod.Status.Phase, corev1.PodPending))), pod.Status.Reason, pod.Status.Message)
	}
	switch s := status.State; {
	case s.Running != nil:
		return ""
	case s.Waiting != nil:
		return words("container "+name+" is waiting", s.Waiting.Reason, s.Waiting.Message)
	case s.Terminated != nil:
		return words("container "+name+" has ended", ended(s.Terminated), "")
	}
	return "container " + name + " has not started"
}

// ended puts a container's end into words.
func ended(t *corev1.ContainerStateTerminated) string {
	s := fmt.Sprintf("exit code %d", t.ExitCode)
	if t.Signal != 0 {
		s = fmt.Sprintf("signal %d", t.Signal)
	}
	if t.Reason != "" && t.Reason != "Error" && t.Reason != "Completed" {
		s = t.Reason + ", " + s
	}
	return s
}

// words joins what, (why) and its details.
func words(what, why, details string) string {
	if why != "" {
		what += " (" + why + ")"
	}
	if details != "" {
		what += ": " + strings.TrimSpace(details)
	}
	return what
}

func isReady(pod *corev1.Pod) bool {
	return slices.ContainsFunc(pod.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.PodReady && c.Status == corev1.ConditionTrue
	})
}

// portNumber resolves a probe's port, which may be a name; 0 if unknown.
func portNumber(c *corev1.Container, port intstr.IntOrString) int {
	if port.Type == intstr.Int {
		return port.IntValue()
	}
	for _, p := range c.Ports {
		if p.Name == port.StrVal {
			return int(p.ContainerPort)
		}
	}
	return 0
}

// unlikeProbes tells of kubelet's connections to probe a container that do not show
// what they are.
func unlikeProbes(c *corev1.Container) (list []string) {
	for name, p := range map[string]*corev1.Probe{"liveness": c.LivenessProbe, "readiness": c.ReadinessProbe, "startup": c.StartupProbe} {
		if p == nil || p.HTTPGet == nil {
			continue
		}
		what := ""
		if p.HTTPGet.Scheme == corev1.URISchemeHTTPS {
			what = "is over TLS"
		}
		for _, h := range p.HTTPGet.HTTPHeaders {
			if strings.EqualFold(h.Name, "User-Agent") {
				what = "has a User-Agent of its own"
			}
		}
		if what != "" {
			list = append(list, fmt.Sprintf("the %s probe at port %d %s", name, portNumber(c, p.HTTPGet.Port), what))
		}
	}
	slices.Sort(list)
	return list
}

// probePorts lists the TCP ports that kubelet itself connects to, to probe
// containers of a pod, which share one address, or has a mesh's proxy connect to.
func probePorts(pod *corev1.Pod, containers []*corev1.Container) []int {
	var ports []int
	for _, c := range containers {
		for _, p := range append(rewritten(pod, c), c.LivenessProbe, c.ReadinessProbe, c.StartupProbe) {
			port := 0
			switch {
			case p == nil:
			case p.HTTPGet != nil:
				port = portNumber(c, p.HTTPGet.Port)
			case p.TCPSocket != nil:
				port = portNumber(c, p.TCPSocket.Port)
			case p.GRPC != nil:
				port = int(p.GRPC.Port)
			}
			if port != 0 && !slices.Contains(ports, port) {
				ports = append(ports, port)
			}
		}
	}
	slices.Sort(ports)
	return ports
}

// rewritten are the probes of c that Istio's injection has turned into ones of its
// proxy, which carries them out with kubelet's User-Agent: it has them in its
// environment, by paths such as /app-health/CONTAINER/livez.
func rewritten(pod *corev1.Pod, c *corev1.Container) (list []*corev1.Probe) {
	for _, proxy := range candidates(pod) {
		i := slices.IndexFunc(proxy.Env, func(e corev1.EnvVar) bool { return e.Name == "ISTIO_KUBE_APP_PROBERS" })
		if proxy.Name != "istio-proxy" || i < 0 {
			continue
		}
		var probes map[string]*corev1.Probe
		if json.Unmarshal([]byte(proxy.Env[i].Value), &probes) != nil {
			continue // as if there were none
		}
		for path, p := range probes {
			if strings.HasPrefix(path, "/app-health/"+c.Name+"/") {
				list = append(list, p)
			}
		}
	}
	return list
}
