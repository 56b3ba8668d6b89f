package cluster

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A Listed is something in a namespace that can be a target, now or later.
type Listed struct {
	Path       Path
	Containers []string // the default one first
	Available  bool
	Reason     string // why not, if not
}

// Targets lists a namespace ("": the client's): workloads first, pods last.
// Agents themselves, and kinds that the client may not list, are
// left out.
func (c *Cluster) Targets(ctx context.Context, namespace string) ([]Listed, error) {
	if namespace != "" && namespace != c.namespace {
		c = c.in(namespace)
	}
	var all corev1.PodList
	if err := c.list(ctx, pods, c.namespace, "", "", &all); err != nil {
		return nil, err
	}
	if len(all.Items) == 0 {
		if err := c.checkNamespace(ctx); err != nil {
			return nil, err
		}
	}
	var out []Listed
	for _, k := range []*kind{deployments, rollouts, statefulsets} {
		var workloads workloadList
		if err := c.list(ctx, k, c.namespace, "", "", &workloads); absent(err) {
			continue
		} else if err != nil {
			return nil, err
		}
		for i := range workloads.Items {
			out = append(out, listWorkload(k, &workloads.Items[i], all.Items))
		}
	}
	for i := range all.Items {
		if pod := &all.Items[i]; pod.Labels[labelName] != agentName {
			l := describe(pod)
			l.Path = Path{Kind: pods.name, Name: pod.Name}
			out = append(out, l)
		}
	}
	return out, nil
}

// in is the same cluster, looking into another namespace.
func (c *Cluster) in(namespace string) *Cluster {
	return &Cluster{
		log: c.log, config: c.config, context: c.context, namespace: namespace,
		http: c.http, rest: c.rest, upgrades: c.upgrades,
	}
}

func listWorkload(k *kind, w *workload, all []corev1.Pod) Listed {
	l := Listed{Reason: "it has no pods"}
	if s, err := w.parseSelector(); err == nil && !s.Empty() {
		var own []corev1.Pod
		for i := range all {
			if s.Matches(labels.Set(all[i].Labels)) {
				own = append(own, all[i])
			}
		}
		if pod := best(own); pod != nil {
			l = describe(pod)
		} else if len(own) > 0 {
			l = describe(&own[0])
			l.Available = false
			if l.Reason == "" {
				l.Reason = "no pod is ready"
			}
		}
	}
	l.Path = Path{Kind: k.name, Name: w.Metadata.Name}
	return l
}

func describe(pod *corev1.Pod) Listed {
	all := names(candidates(pod))
	l := Listed{Containers: all}
	if len(all) > 0 {
		l.Reason = idle(pod, all[0])
	}
	l.Available = l.Reason == ""
	return l
}
