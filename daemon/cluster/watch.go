package cluster

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// A Fate is what has become of a target's pod.
type Fate int

const (
	// Restarted: the container runs again, as another one of the same pod.
	Restarted Fate = iota + 1
	// Ending: the pod is being deleted; its containers have their grace yet.
	Ending
	// Gone: the pod runs no more and never will again.
	Gone
)

// A Change is something that happened to a target's pod.
type Change struct {
	Fate        Fate
	Words       string // for the user: "target pod web-1 was deleted"
	ContainerID string // of Restarted
}

// watchAgain is the wait before a watch that failed is tried again.
const watchAgain = time.Second

// errGone ends a watch: there is nothing left to see.
var errGone = errors.New("the pod is gone")

// Watch tells of each change of the target's pod until the pod is gone or ctx
// is done. It lasts through an API server that does not answer: what happened
// meanwhile is told afterwards. A client that may not watch pods learns
// nothing, which is its error.
func (c *Cluster) Watch(ctx context.Context, t *Target, tell func(Change)) error {
	w := &watcher{target: t, tell: tell, container: t.ContainerID}
	for {
		err := c.watchPod(ctx, w)
		switch {
		case errors.Is(err, errGone):
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case IsKind(err, Forbidden):
			return err
		case err != nil:
			c.log.Debug("watching target", "target", t.Pod, "err", err)
		}
		if err := pause(ctx, watchAgain); err != nil {
			return err
		}
	}
}

// watchPod sees the pod's changes until the server ends the watch. It begins
// with the pod itself: of one that has been deleted in between no watch tells.
func (c *Cluster) watchPod(ctx context.Context, w *watcher) error {
	events, err := c.watch(ctx, pods, w.target.Namespace, "", "metadata.name="+w.target.Pod)
	if err != nil {
		return err
	}
	defer events.Stop()
	pod := new(corev1.Pod)
	err = c.get(ctx, pods, w.target.Namespace, w.target.Pod, pod)
	switch {
	case apierrors.IsNotFound(err):
		return w.gone("was deleted")
	case err != nil:
		return err
	}
	if err := w.see(pod); err != nil {
		return err
	}
	return drain(ctx, events, func(t watch.EventType, o runtime.Object) error {
		pod, ok := o.(*corev1.Pod)
		if !ok {
			return nil
		}
		if t == watch.Deleted && string(pod.UID) == w.target.UID {
			return w.gone("was deleted")
		}
		return w.see(pod)
	})
}

// A watcher is one call of Watch.
type watcher struct {
	target    *Target
	tell      func(Change)
	container string // the id of the one that ran last
	ending    bool   // has been told
}

func (w *watcher) gone(how string) error {
	w.tell(Change{Fate: Gone, Words: w.words(how)})
	return errGone
}

func (w *watcher) words(how string) string { return "target pod " + w.target.Pod + " " + how }

// see tells what is new about the pod; its error ends the watch.
func (w *watcher) see(pod *corev1.Pod) error {
	status := containerStatus(pod, w.target.Container)
	switch {
	case string(pod.UID) != w.target.UID:
		return w.gone("was deleted; there is another of its name")
	case pod.Status.Phase == corev1.PodFailed:
		return w.gone(words("has failed", pod.Status.Reason, pod.Status.Message))
	case pod.Status.Phase == corev1.PodSucceeded:
		return w.gone("has completed")
	case pod.DeletionTimestamp != nil:
		if !w.ending {
			w.ending = true
			w.tell(Change{Fate: Ending, Words: w.words("is being deleted")})
		}
	case status != nil && status.State.Running != nil:
		if id := withoutScheme(status.ContainerID); id != w.container && id != "" {
			w.container = id
			how := fmt.Sprintf("has restarted its container %s", w.target.Container)
			if last := status.LastTerminationState.Terminated; last != nil {
				how = words(how, ended(last), "")
			}
			w.tell(Change{Fate: Restarted, Words: w.words(how), ContainerID: id})
		}
	}
	return nil
}
