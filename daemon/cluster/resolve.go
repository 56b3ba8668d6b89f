package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
)

// A Target is the pod and container that a session impersonates. Of a targetless
// one only Path and Namespace are set.
type Target struct {
	Path        Path // as asked for, with the container chosen
	Namespace   string
	Pod, UID    string
	Node        string
	Container   string
	ContainerID string // without the runtime's scheme
	PodIPs      []string
	HostNetwork bool
	Mounts      []string // where the container mounts volumes
	Ports       []Port   // the container's declared ones
	ProbePorts  []int    // those that kubelet connects to
	OwnProbes   []int    // of these, the container's
	UnlikeProbe []string // of the container's probes, those that cannot be told from other connections, and why
}

// Targetless tells whether there is no pod: an agent is then a pod like any other.
func (t *Target) Targetless() bool { return t.Path.Kind == Targetless }

// A Port is one that the container declares; it may listen on others.
type Port struct {
	Number   int
	Name     string // may be ""
	Protocol string // "TCP", "UDP" or "SCTP"
}

// Resolve finds the running pod that p means: the pod itself, or the newest
// ready one of a workload. A pod named by its own name need not be ready.
func (c *Cluster) Resolve(ctx context.Context, p Path) (*Target, error) {
	return c.ResolveAgain(ctx, p, "")
}

// ResolveAgain is Resolve for who had the pod of that name before: it is taken if
// it is still a ready one of the workload.
func (c *Cluster) ResolveAgain(ctx context.Context, p Path, before string) (*Target, error) {
	if p.Kind == Targetless {
		return &Target{Path: p, Namespace: c.namespace}, nil
	}
	pod, err := c.podOf(ctx, p, before)
	if err != nil {
		return nil, err
	}
	t, err := targetOf(pod, p)
	if e, ok := errors.AsType[*Error](err); ok && e.Kind == NotRunning {
		e.Hint = "see `kubectl describe pod " + pod.Name + " -n " + pod.Namespace + c.flags() + "`"
	}
	return t, err
}

// targetOf is the pod as a target, with the container that p names or its default one.
func targetOf(pod *corev1.Pod, p Path) (*Target, error) {
	con, err := container(pod, p.Container)
	if err != nil {
		return nil, err
	}
	if why := idle(pod, con.Name); why != "" {
		return nil, &Error{Kind: NotRunning, Msg: fmt.Sprintf("using pod %s in namespace %s", pod.Name, pod.Namespace), Err: errors.New(why)}
	}
	p.Container = con.Name
	id := withoutScheme(containerStatus(pod, con.Name).ContainerID)
	t := &Target{
		Path: p, Namespace: pod.Namespace, Pod: pod.Name, UID: string(pod.UID), Node: pod.Spec.NodeName,
		Container: con.Name, ContainerID: id, HostNetwork: pod.Spec.HostNetwork,
		ProbePorts: probePorts(pod, candidates(pod)), OwnProbes: probePorts(pod, []*corev1.Container{con}), UnlikeProbe: unlikeProbes(con),
	}
	for _, ip := range pod.Status.PodIPs {
		t.PodIPs = append(t.PodIPs, ip.IP)
	}
	for _, m := range con.VolumeMounts {
		t.Mounts = append(t.Mounts, m.MountPath)
	}
	for _, port := range con.Ports {
		t.Ports = append(t.Ports, Port{int(port.ContainerPort), port.Name, string(cmp.Or(port.Protocol, corev1.ProtocolTCP))})
	}
	return t, nil
}

// withoutScheme takes the runtime's name from a container's id.
func withoutScheme(id string) string {
	_, id, _ = strings.Cut(id, "://")
	return id
}

func (c *Cluster) podOf(ctx context.Context, p Path, before string) (*corev1.Pod, error) {
	if p.Kind == pods.name {
		pod := new(corev1.Pod)
		if err := c.get(ctx, pods, c.namespace, p.Name, pod); err != nil {
			return nil, c.unknown(ctx, pods, p.Name, err)
		}
		return pod, nil
	}
	selector, err := c.selector(ctx, p)
	if err != nil {
		return nil, err
	}
	var all corev1.PodList
	if err := c.list(ctx, pods, c.namespace, selector, "", &all); err != nil {
		return nil, err
	}
	list := pointers(all.Items)
	for _, pod := range list {
		if pod.Name == before && best([]*corev1.Pod{pod}) != nil {
			return pod, nil
		}
	}
	if pod := best(list); pod != nil {
		return pod, nil
	}
	return nil, c.noPod(ctx, p, all.Items)
}

// selector says which pods are those of p, which is no pod.
func (c *Cluster) selector(ctx context.Context, p Path) (string, error) {
	if p.Kind == "label" {
		return p.Name, nil
	}
	k := kindNamed(p.Kind)
	if k == nil {
		return "", &Error{Kind: BadTarget, Msg: fmt.Sprintf("resolving target %q", p), Err: errors.New("it has no pod")}
	}
	w, err := c.workload(ctx, k, p.Name)
	if err != nil {
		return "", err
	}
	selector, err := w.selector()
	if err != nil {
		return "", &Error{Kind: NotRunning, Msg: fmt.Sprintf("using %s in namespace %s", p, c.namespace), Err: err}
	}
	return selector, nil
}

// best is the newest ready pod: during a rollout the old ones are about to go.
func best(all []*corev1.Pod) *corev1.Pod {
	var b *corev1.Pod
	for _, pod := range all {
		if !isReady(pod) || pod.DeletionTimestamp != nil {
			continue
		}
		if b == nil || cmp.Or(
			pod.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(b.Name, pod.Name),
		) > 0 {
			b = pod
		}
	}
	return b
}

// noPod says why a workload offers none.
func (c *Cluster) noPod(ctx context.Context, p Path, all []corev1.Pod) error {
	msg := fmt.Sprintf("using %s in namespace %s", Path{Kind: p.Kind, Name: p.Name}, c.namespace)
	if len(all) == 0 {
		if err := c.checkNamespace(ctx); err != nil {
			return err
		}
		return &Error{Kind: NotRunning, Msg: msg, Err: errors.New("it has no pods"), Hint: "is it scaled to 0?"}
	}
	var why []string
	for i := range all[:min(3, len(all))] {
		pod := &all[i]
		reason := "not ready"
		for _, con := range candidates(pod) {
			if r := idle(pod, con.Name); r != "" {
				reason = r
				break
			}
		}
		why = append(why, pod.Name+": "+reason)
	}
	return &Error{
		Kind: NotRunning, Msg: msg,
		Err:  fmt.Errorf("none of its %d pods is ready (%s)", len(all), strings.Join(why, "; ")),
		Hint: "a pod that is not ready can be named itself: pod/NAME",
	}
}

// unknown explains a "not found": the namespace, the kind, or the name.
func (c *Cluster) unknown(ctx context.Context, k *kind, name string, err error) error {
	if !apierrors.IsNotFound(err) {
		return err
	}
	if err := c.checkNamespace(ctx); err != nil {
		return err
	}
	e := &Error{Kind: UnknownTarget, Msg: fmt.Sprintf("finding %s %q in namespace %s: there is none", k.name, name, c.namespace)}
	var all namesOnly
	if err := c.list(ctx, k, c.namespace, labelName+"!="+agentName, "", &all); err == nil { // not allowed: no suggestion
		e.Hint = suggest(name, all.names(), "it has")
	}
	e.Hint = cmp.Or(e.Hint, "choose another namespace with -n")
	return e
}

// checkNamespace is an error if the namespace is known not to exist.
func (c *Cluster) checkNamespace(ctx context.Context) error {
	err := c.get(ctx, namespaces, "", c.namespace, nil)
	if !apierrors.IsNotFound(err) {
		return nil // it exists, or we may not know
	}
	e := &Error{Kind: UnknownNamespace, Msg: fmt.Sprintf("looking into namespace %q: the cluster at %s does not have it", c.namespace, c.config.Host)}
	all, err := c.Namespaces(ctx)
	if err != nil {
		c.log.Debug("listing namespaces to name near ones", "err", err)
	}
	e.Hint = namespaceHint(c.namespace, all)
	return e
}

// namespaceHint says how to choose another one than name, which does not exist.
func namespaceHint(name string, all []string) string {
	near := suggest(name, all, "it has")
	switch {
	case near == "":
		return "choose another with -n"
	case strings.HasSuffix(near, "?"):
		return near + " choose it with -n"
	}
	return near + "; choose one with -n"
}

// Namespaces lists the cluster's namespaces by name.
func (c *Cluster) Namespaces(ctx context.Context) ([]string, error) {
	var all namesOnly
	if err := c.list(ctx, namespaces, "", "", "", &all); err != nil {
		return nil, err
	}
	return all.names(), nil
}

// namesOnly is what a list of any kind has in common.
type namesOnly struct {
	Items []struct {
		Metadata struct {
			Name string `json:"name"`
		} `json:"metadata"`
	} `json:"items"`
}

func (l *namesOnly) names() []string {
	var out []string
	for _, i := range l.Items {
		out = append(out, i.Metadata.Name)
	}
	slices.Sort(out)
	return out
}
