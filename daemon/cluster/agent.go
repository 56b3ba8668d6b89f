package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// An Agent is a running agent pod.
type Agent struct {
	c         *Cluster
	Namespace string
	Job, Pod  string
	Created   bool // by this StartAgent; otherwise it was there already
	uid       string
	job       types.UID
	port      int
}

// Dial opens one connection to the agent: one port-forward, with no local
// listener. That nobody listens in the pod shows at the first Read.
func (a *Agent) Dial(ctx context.Context) (net.Conn, error) {
	return a.c.forward(ctx, a.Namespace, a.Pod, a.port)
}

// Gone asks whether the agent's pod has ended: nil while it runs. A connection
// that ends does not tell.
func (a *Agent) Gone(ctx context.Context) error {
	pod := new(corev1.Pod)
	err := a.c.get(ctx, pods, a.Namespace, a.Pod, pod)
	switch {
	case apierrors.IsNotFound(err) || err == nil && string(pod.UID) != a.uid:
		return a.failed(errors.New(cmp.Or(a.lastEvent(ctx), "the pod was deleted")))
	case err != nil:
		return err
	}
	why, err := state(pod)
	switch {
	case err != nil:
		return a.failed(err)
	case pod.DeletionTimestamp != nil:
		return a.failed(errors.New("the pod is being deleted"))
	case why == ended0:
		return a.failed(errors.New("it has ended by itself (exit code 0)"))
	}
	return nil
}

// Wait returns when the agent's pod has ended, with why. Other errors, but
// ctx's, say that the client may not watch it.
func (a *Agent) Wait(ctx context.Context) error {
	for {
		err := a.watch(ctx)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case IsKind(err, AgentFailed) || IsKind(err, Forbidden):
			return err
		case err != nil:
			a.c.log.Debug("watching agent", "err", err)
		}
		if err := pause(ctx, watchAgain); err != nil {
			return err
		}
	}
}

// watch looks at the pod itself at each of its changes; Gone has the words.
func (a *Agent) watch(ctx context.Context) error {
	events, err := a.c.watch(ctx, pods, a.Namespace, "", "metadata.name="+a.Pod)
	if err != nil {
		return err
	}
	defer events.Stop()
	if err := a.Gone(ctx); err != nil { // there may have been no change to see
		return err
	}
	return drain(ctx, events, func(watch.EventType, runtime.Object) error { return a.Gone(ctx) })
}

// Delete ends the agent for everybody: its target is gone.
func (a *Agent) Delete(ctx context.Context) error {
	err := a.c.delete(ctx, jobs, a.Namespace, a.Job, metav1.Preconditions{UID: &a.job})
	if gone(err) {
		return nil
	}
	return err
}

func (a *Agent) failed(err error) error {
	return &Error{Kind: AgentFailed, Msg: fmt.Sprintf("running agent pod %s in namespace %s", a.Pod, a.Namespace), Err: err}
}

// lastEvent is the newest thing that happened to the pod, "" if unknown.
func (a *Agent) lastEvent(ctx context.Context) string {
	var all corev1.EventList
	if err := a.c.list(ctx, events, a.Namespace, "", "involvedObject.uid="+a.uid, &all); err != nil {
		return "" // not allowed, or the cluster is out of reach: then the caller's error says so
	}
	return newest(all.Items)
}

func newest(all []corev1.Event) string {
	var last *corev1.Event
	for i := range all {
		if e := &all[i]; last == nil || when(e).After(when(last)) {
			last = e
		}
	}
	if last == nil {
		return ""
	}
	return words(last.Reason, "", last.Message)
}

// when an event happened: which field says it depends on who wrote it.
func when(e *corev1.Event) time.Time {
	if !e.EventTime.IsZero() {
		return e.EventTime.Time
	}
	return cmp.Or(e.LastTimestamp, e.FirstTimestamp, e.CreationTimestamp).Time
}
