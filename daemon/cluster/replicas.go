package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// A Replica is one of a workload's pods, as it is now.
type Replica struct {
	Pod, UID string
	Target   *Target // nil: its container does not run
	Ready    bool
	Why      string // where it is not, for the user: "container web is waiting (CrashLoopBackOff)"
	Gone     bool   // it is deleted, or is about to be
}

// A workload's selector is looked up as often. One that cannot be looked up, as one
// that is deleted, is tried again with pauses that grow.
const (
	lookEach      = 15 * time.Second
	replicasAgain = time.Minute
)

// Replicates tells whether the path names a workload, which may have several pods.
func (p Path) Replicates() bool { return p.Kind != pods.name && p.Kind != Targetless }

// Replicas tells of the pods of the workload that p names until ctx is done: of
// all there are, now and then again, and in between of each that changes. It
// lasts through an API server that does not answer, and through a workload's
// deletion: one of its name may follow. A client that may not watch pods learns
// nothing, which is its error.
func (c *Cluster) Replicas(ctx context.Context, p Path, tell func(list []Replica, all bool)) error {
	wait := watchAgain
	for {
		err := c.watchReplicas(ctx, p, lookEach, tell)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case IsKind(err, Forbidden):
			return err
		case err == nil || errors.Is(err, errSelector):
			wait = watchAgain
		default:
			c.log.Debug("watching replicas", "target", p.String(), "err", err)
		}
		if err := pause(ctx, wait); err != nil {
			return err
		}
		wait = min(2*wait, replicasAgain)
	}
}

var errSelector = errors.New("the selector has changed")

// watchReplicas watches until the server ends that, or the selector is another, which
// is an error.
//
// Goroutines: one that looks it up; it is waited for.
func (c *Cluster) watchReplicas(ctx context.Context, p Path, each time.Duration, tell func([]Replica, bool)) error {
	selector, err := c.selector(ctx, p)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	var looking sync.WaitGroup
	defer looking.Wait()
	defer cancel(nil)
	looking.Go(func() {
		for pause(ctx, each) == nil {
			if now, err := c.selector(ctx, p); err == nil && now != selector {
				cancel(errSelector)
			}
		}
	})
	events, err := c.watch(ctx, pods, c.namespace, selector, "")
	if err != nil {
		return err
	}
	defer events.Stop()
	var all corev1.PodList // of one that has been deleted in between no watch tells
	if err := c.list(ctx, pods, c.namespace, selector, "", &all); err != nil {
		return err
	}
	var list []Replica
	for _, pod := range pointers(all.Items) {
		if !isAgent(pod) {
			list = append(list, replicaOf(pod, p))
		}
	}
	tell(list, true)
	return drain(ctx, events, func(t watch.EventType, o runtime.Object) error {
		pod, ok := o.(*corev1.Pod)
		if !ok || isAgent(pod) {
			return nil
		}
		r := replicaOf(pod, p)
		if t == watch.Deleted {
			r = Replica{Pod: r.Pod, UID: r.UID, Why: "the pod was deleted", Gone: true}
		}
		tell([]Replica{r}, false)
		return nil
	})
}

func replicaOf(pod *corev1.Pod, p Path) Replica {
	r := Replica{Pod: pod.Name, UID: string(pod.UID)}
	t, err := targetOf(pod, p)
	switch {
	case err != nil:
		r.Why = why(err)
	case !isReady(pod):
		r.Target, r.Why = t, "it is not ready"
	default:
		r.Target, r.Ready = t, true
	}
	r.Gone = pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	return r
}

// why is an error's cause without what was tried, if it has one.
func why(err error) string {
	if e, ok := err.(*Error); ok && e.Err != nil {
		return e.Err.Error()
	}
	return err.Error()
}

func isAgent(pod *corev1.Pod) bool { return pod.Labels[labelName] == agentName }
