package cluster

import (
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

// Agents lists all agents that have targets, of namespace, or without one of
// all namespaces that the client may look into: else of its own.
func (c *Cluster) Agents(ctx context.Context, namespace string, port int) ([]RunningAgent, error) {
	const selector = labelName + "=" + agentName
	var all corev1.PodList
	err := c.list(ctx, pods, namespace, selector, "", &all)
	if namespace == "" && IsKind(err, Forbidden) {
		err = c.list(ctx, pods, c.namespace, selector, "", &all)
	}
	if err != nil {
		return nil, err
	}
	var list []RunningAgent
	for i := range all.Items {
		pod := &all.Items[i]
		path := strings.Split(pod.Annotations[targetPath], "/")
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
	return list, nil
}
