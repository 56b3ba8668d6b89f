package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
)

// A Path names a target: KIND/NAME[/container/CONTAINER], or "targetless".
type Path struct {
	Kind      string // "pod", "deployment", …, "label", or Targetless
	Name      string // for a label: the selector
	Container string // "": the pod's default one
}

// Targetless is the path of a session without a pod to impersonate.
const Targetless = "targetless"

// A kind is one of Kubernetes' resources.
type kind struct {
	name     string
	short    []string
	api      string // "api/v1" or "apis/GROUP/VERSION"
	resource string
}

var (
	pods       = &kind{"pod", []string{"po"}, "api/v1", "pods"}
	services   = &kind{"service", []string{"svc"}, "api/v1", "services"}
	namespaces = &kind{"namespace", nil, "api/v1", "namespaces"}
	events     = &kind{"event", nil, "api/v1", "events"}
	jobs       = &kind{"job", nil, "apis/batch/v1", "jobs"}
	secrets    = &kind{"secret", nil, "api/v1", "secrets"}
	cronjobs   = &kind{"cronjob", []string{"cj"}, "apis/batch/v1", "cronjobs"}
	rollouts   = &kind{"rollout", nil, "apis/argoproj.io/v1alpha1", "rollouts"}

	deployments  = &kind{"deployment", []string{"deploy"}, "apis/apps/v1", "deployments"}
	statefulsets = &kind{"statefulset", []string{"sts"}, "apis/apps/v1", "statefulsets"}
	daemonsets   = &kind{"daemonset", []string{"ds"}, "apis/apps/v1", "daemonsets"}
	replicasets  = &kind{"replicaset", []string{"rs"}, "apis/apps/v1", "replicasets"}
)

// targets are the kinds a path may name, in the order of the listing.
var targets = []*kind{
	deployments, rollouts, statefulsets, daemonsets, jobs, cronjobs, replicasets, services, pods,
}

// ParseTarget reads a target as a user writes it.
func ParseTarget(s string) (Path, error) {
	if s == Targetless {
		return Path{Kind: Targetless}, nil
	}
	name, rest, ok := strings.Cut(s, "/")
	if !ok || name == "" || rest == "" {
		return Path{}, badTarget(s, "not KIND/NAME", "")
	}
	if name == "label" {
		return parseLabel(s, rest)
	}
	k := kindNamed(name)
	if k == nil {
		var names []string
		for _, k := range targets {
			names = append(names, k.name)
		}
		return Path{}, badTarget(s, fmt.Sprintf("%q is no kind of target", name), suggest(name, append(names, "label"), "the kinds are"))
	}
	p := Path{Kind: k.name}
	parts := strings.Split(rest, "/")
	p.Name = parts[0]
	switch {
	case len(parts) == 3 && parts[1] == "container" && parts[2] != "":
		p.Container = parts[2]
	case len(parts) != 1:
		return Path{}, badTarget(s, "after the name only /container/CONTAINER may follow", "")
	}
	if p.Name == "" || strings.ContainsAny(p.Name+p.Container, " \t\n?#%\\") {
		return Path{}, badTarget(s, fmt.Sprintf("%q is no name", p.Name), "")
	}
	return p, nil
}

// parseLabel reads label/k=v[,k=v…][/container/C]; a key may hold a slash.
func parseLabel(s, rest string) (Path, error) {
	p := Path{Kind: "label", Name: rest}
	if before, container, ok := strings.Cut(rest, "/container/"); ok {
		p.Name, p.Container = before, container
		if container == "" || strings.Contains(container, "/") {
			return Path{}, badTarget(s, fmt.Sprintf("%q is no container's name", container), "")
		}
	}
	if _, err := labels.Parse(p.Name); err != nil {
		return Path{}, badTarget(s, err.Error(), "")
	}
	return p, nil
}

func badTarget(s, why, hint string) error {
	return &Error{
		Kind: BadTarget,
		Msg:  fmt.Sprintf("reading target %q", s),
		Err:  errors.New(why),
		Hint: cmp.Or(hint, "write pod/NAME, deployment/NAME or KIND/NAME/container/CONTAINER"),
	}
}

func kindNamed(name string) *kind {
	for _, k := range targets {
		if k.name == name || slices.Contains(k.short, name) {
			return k
		}
	}
	return nil
}

func (p Path) String() string {
	if p.Kind == Targetless {
		return Targetless
	}
	s := p.Kind + "/" + p.Name
	if p.Container != "" {
		s += "/container/" + p.Container
	}
	return s
}
