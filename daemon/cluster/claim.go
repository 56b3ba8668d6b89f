package cluster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	releaseTimeout = 10 * time.Second
	releaseTries   = 10 // the job controller changes a job a few times meanwhile
)

// claim creates the job, or marks the one that is there as used by us too.
func (s *start) claim(ctx context.Context) (claimed *batchv1.Job, created bool, err error) {
	name, namespace := s.manifest.Name, s.manifest.Namespace
	mark, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": map[string]string{adopted: "true"}}})
	if err != nil {
		return nil, false, fmt.Errorf("encoding a patch: %w", err)
	}
	if node := s.manifest.Spec.Template.Spec.NodeName; node != "" {
		s.progress("creating the agent on node " + node)
	} else {
		s.progress("creating the agent in namespace " + namespace)
	}
	for {
		job := new(batchv1.Job)
		err := s.c.create(ctx, jobs, namespace, s.manifest, job)
		if !apierrors.IsAlreadyExists(err) {
			s.refused = isStatus(err)
			return job, err == nil, err
		}
		err = s.c.patch(ctx, jobs, namespace, name, mark, job)
		switch {
		case apierrors.IsNotFound(err):
			continue // it went in between
		case err != nil:
			return nil, false, err
		case job.DeletionTimestamp == nil && !finished(job):
			return job, false, nil
		}
		if err := s.c.delete(ctx, jobs, namespace, name, metav1.Preconditions{UID: &job.UID}); err != nil && !gone(err) {
			return nil, false, err
		}
		if err := pause(ctx, tryEach); err != nil {
			return nil, false, err
		}
	}
}

func finished(job *batchv1.Job) bool {
	return slices.ContainsFunc(job.Status.Conditions, func(c batchv1.JobCondition) bool {
		switch c.Type {
		case batchv1.JobComplete, batchv1.JobFailed, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet:
			return c.Status == corev1.ConditionTrue
		}
		return false
	})
}

// gone: somebody else has deleted it, or put another in its place.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// release deletes the job after a failed start: if its pod can never run, for
// everybody, otherwise only our own that nobody has adopted. Ours may be there
// even though its creation, interrupted, gave an error.
func (s *start) release(ctx context.Context, why error) {
	if s.refused {
		return
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releaseTimeout)
	defer cancel()
	dead := errors.As(why, new(deadError)) || errors.Is(why, errEnded)
	name, namespace := s.manifest.Name, s.manifest.Namespace
	for range releaseTries {
		job := new(batchv1.Job)
		err := s.c.get(ctx, jobs, namespace, name, job)
		if err == nil && !dead && (job.Annotations[creator] != s.manifest.Annotations[creator] || job.Annotations[adopted] != "") {
			return
		}
		if err == nil {
			// The version makes an adoption between looking and deleting a conflict.
			err = s.c.delete(ctx, jobs, namespace, name, metav1.Preconditions{UID: &job.UID, ResourceVersion: &job.ResourceVersion})
		}
		if !apierrors.IsConflict(err) {
			s.logRelease(name, err)
			return
		}
	}
}

func (s *start) logRelease(name string, err error) {
	if err != nil && !gone(err) {
		s.c.log.Warn("agent left behind", "job", name, "err", err)
	}
}
