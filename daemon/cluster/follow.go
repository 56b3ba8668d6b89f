package cluster

import (
	"context"
	"errors"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
)

// follow calls see for every object of a collection, now and whenever one
// changes, until see returns an error or ctx is done.
func (s *start) follow(ctx context.Context, k *kind, labels, fields string, see func(watch.EventType, runtime.Object) error) error {
	for ctx.Err() == nil {
		w, err := s.c.watch(ctx, k, s.manifest.Namespace, labels, fields)
		if err != nil {
			return err
		}
		err = drain(ctx, w, see)
		w.Stop()
		if err != nil {
			return err
		}
		if err := pause(ctx, tryEach); err != nil { // the server ended the watch
			return err
		}
	}
	return context.Cause(ctx)
}

func drain(ctx context.Context, w watch.Interface, see func(watch.EventType, runtime.Object) error) error {
	for {
		select {
		case e, ok := <-w.ResultChan():
			if !ok || e.Type == watch.Error {
				return nil
			}
			if err := see(e.Type, e.Object); err != nil {
				return err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// followPod reports the job's pod once it exists and returns why it ended.
// The failed pod of a job that was there before is no verdict on a new one: the
// job's own status only lags behind, or nobody was left to clean up.
func (s *start) followPod(ctx context.Context, job *batchv1.Job, created bool, found chan<- *corev1.Pod) error {
	reported := false
	return s.follow(ctx, pods, labelJob+"="+job.Name, "", func(t watch.EventType, o runtime.Object) error {
		pod, ok := o.(*corev1.Pod)
		if !ok || !metav1.IsControlledBy(pod, job) {
			return nil
		}
		if t == watch.Deleted {
			return errEnded
		}
		now, err := state(pod)
		switch {
		case now == ended0 || err != nil && !created && (hasEnded(pod) || stale(job)):
			return errEnded
		case err != nil:
			return s.dead(err, hintOf(err))
		}
		s.progress("agent pod " + pod.Name + " on node " + pod.Spec.NodeName + ": " + now)
		if !reported {
			reported = true
			found <- pod
		}
		return nil
	})
}

// staleAge is when a job that does not come to run has lost whoever made it:
// its maker would have deleted it.
const staleAge = 10 * time.Second

func stale(job *batchv1.Job) bool { return time.Since(job.CreationTimestamp.Time) > staleAge }

// followEvents returns an error when the job controller may not create the
// pod: a quota, a policy, a missing service account. A client that may not see
// events learns it only when time is up.
func (s *start) followEvents(ctx context.Context, job *batchv1.Job, created bool) error {
	fields := "involvedObject.uid=" + string(job.UID) + ",reason=FailedCreate"
	err := s.follow(ctx, events, "", fields, func(_ watch.EventType, o runtime.Object) error {
		e, ok := o.(*corev1.Event)
		if !ok || e.Type != corev1.EventTypeWarning {
			return nil
		}
		var all corev1.PodList
		if err := s.c.list(ctx, pods, job.Namespace, labelJob+"="+job.Name, "", &all); err != nil {
			return err
		}
		for i := range all.Items {
			if metav1.IsControlledBy(&all.Items[i], job) {
				return nil // an old event: it came to be later
			}
		}
		if !created && stale(job) {
			return errEnded
		}
		return s.dead(errors.New(strings.TrimPrefix(e.Message, "Error creating: ")),
			"the setting agent.namespace starts it in another namespace")
	})
	if IsKind(err, Forbidden) {
		s.c.log.Debug("events cannot be seen", "err", err)
		return nil
	}
	return err
}
