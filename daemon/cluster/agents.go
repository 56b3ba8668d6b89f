package cluster

import (
	"cmp"
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// A RunningAgent is anybody's, with the target that it serves.
type RunningAgent struct {
	Agent
	TargetNamespace, TargetPod, Container string
	State                                 string // as the cluster says, which lags behind
	Err                                   error  // why it cannot be asked; nil: perhaps it can
}

// Agents lists all agents whose targets are in namespace, or without one in any. They
// are looked for in all namespaces, as one may be in another than its target; where
// the client may not do that, in these places: namespace, or its own, and that of its
// own agents ("": they are where their targets are).
func (c *Cluster) Agents(ctx context.Context, namespace, agents string, port int) (list []RunningAgent, places []string, err error) {
	const selector = labelName + "=" + agentName
	var all corev1.PodList
	err = c.list(ctx, pods, "", selector, "", &all)
	if IsKind(err, Forbidden) {
		places = []string{cmp.Or(namespace, c.namespace)}
		if agents != "" && agents != places[0] {
			places = append(places, agents)
		}
		all = corev1.PodList{}
		for _, place := range places {
			var some corev1.PodList
			if err = c.list(ctx, pods, place, selector, "", &some); err != nil {
				break
			}
			all.Items = append(all.Items, some.Items...)
		}
	}
	if err != nil {
		return nil, nil, err
	}
	for i := range all.Items {
		pod := &all.Items[i]
		path := strings.Split(pod.Annotations[targetPath], "/")
		if len(path) == 3 && namespace != "" && path[0] != namespace {
			continue
		}
		if len(path) != 3 || hasEnded(pod) || pod.Status.Phase == corev1.PodSucceeded {
			continue
		}
		a := RunningAgent{
			Agent:           Agent{c: c, Namespace: pod.Namespace, Job: pod.Labels[labelJob], Pod: pod.Name, uid: string(pod.UID), port: port},
			TargetNamespace: path[0], TargetPod: path[1], Container: path[2],
		}
		a.State, a.Err = state(pod)
		list = append(list, a)
	}
	return list, places, nil
}
