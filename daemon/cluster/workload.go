package cluster

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// A workload is what all kinds that own or select pods have in common: read as
// JSON, so that one type serves built-in kinds and Argo's rollouts.
type workload struct {
	Metadata struct {
		Name            string                  `json:"name"`
		Created         metav1.Time             `json:"creationTimestamp"`
		OwnerReferences []metav1.OwnerReference `json:"ownerReferences"`
	} `json:"metadata"`
	Spec struct {
		Selector    json.RawMessage `json:"selector"` // a service's is a plain map
		WorkloadRef *struct {       // a rollout may take its pods from a deployment
			Kind string `json:"kind"`
			Name string `json:"name"`
		} `json:"workloadRef"`
	} `json:"spec"`
}

type workloadList struct {
	Items []workload `json:"items"`
}

// workload reads one; a cronjob's is the newest job it started, a rollout's may
// be the deployment it refers to.
func (c *Cluster) workload(ctx context.Context, k *kind, name string) (*workload, error) {
	w := new(workload)
	if err := c.get(ctx, k, c.namespace, name, w); err != nil {
		return nil, c.unknown(ctx, k, name, err)
	}
	if ref := w.Spec.WorkloadRef; k == rollouts && ref != nil && w.Spec.Selector == nil {
		if k := kindNamed(strings.ToLower(ref.Kind)); k != nil && k != rollouts {
			return c.workload(ctx, k, ref.Name)
		}
	}
	if k != cronjobs {
		return w, nil
	}
	var all workloadList
	if err := c.list(ctx, jobs, c.namespace, "", "", &all); err != nil {
		return nil, err
	}
	newest := newestJob(all.Items, name)
	if newest == nil {
		return nil, &Error{Kind: NotRunning, Msg: "using cronjob " + name + " in namespace " + c.namespace, Err: errors.New("it has started no job yet")}
	}
	return newest, nil
}

func newestJob(all []workload, cronjob string) *workload {
	all = slices.DeleteFunc(slices.Clone(all), func(w workload) bool { return !w.ownedBy("CronJob", cronjob) })
	if len(all) == 0 {
		return nil
	}
	newest := slices.MaxFunc(all, func(a, b workload) int {
		return cmp.Or(a.Metadata.Created.Compare(b.Metadata.Created.Time), strings.Compare(a.Metadata.Name, b.Metadata.Name))
	})
	return &newest
}

func (w *workload) ownedBy(kind, name string) bool {
	return slices.ContainsFunc(w.Metadata.OwnerReferences, func(o metav1.OwnerReference) bool {
		return o.Kind == kind && o.Name == name
	})
}

// selector says which pods are the workload's.
func (w *workload) selector() (string, error) {
	s, err := w.parseSelector()
	if err != nil {
		return "", err
	}
	if s.Empty() {
		return "", errors.New("it selects no pods")
	}
	return s.String(), nil
}

func (w *workload) parseSelector() (labels.Selector, error) {
	if w.Spec.Selector == nil {
		return nil, errors.New("it selects no pods")
	}
	var full metav1.LabelSelector
	decoder := json.NewDecoder(strings.NewReader(string(w.Spec.Selector)))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&full); err == nil {
		return metav1.LabelSelectorAsSelector(&full)
	}
	var plain map[string]string
	if err := json.Unmarshal(w.Spec.Selector, &plain); err != nil {
		return nil, errors.New("its selector is of an unknown form")
	}
	return labels.SelectorFromSet(plain), nil
}

// absent says that the cluster does not have the kind at all, or that we may
// not see it.
func absent(err error) bool {
	return apierrors.IsNotFound(err) || IsKind(err, Forbidden)
}
