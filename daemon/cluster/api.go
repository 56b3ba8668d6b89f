package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/rest"
)

const (
	formatJSON     = "application/json"
	formatProtobuf = "application/vnd.kubernetes.protobuf,application/json"
)

// connect makes the HTTP clients.
func (c *Cluster) connect() error {
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	for _, add := range []func(*runtime.Scheme) error{corev1.AddToScheme, batchv1.AddToScheme} {
		if err := add(scheme); err != nil {
			return err
		}
	}
	c.config.NegotiatedSerializer = serializer.NewCodecFactory(scheme).WithoutConversion()
	var err error
	if c.http, err = rest.HTTPClientFor(c.config); err != nil {
		return err
	}
	if c.rest, err = rest.UnversionedRESTClientForConfigAndClient(c.config, c.http); err != nil {
		return err
	}
	upgrades := rest.CopyConfig(c.config)
	upgrades.NextProtos = []string{"http/1.1"} // HTTP/2 has no Upgrade
	c.upgrades, err = rest.TransportFor(upgrades)
	return err
}

// A request is one call of the API server, in the words of a role.
type request struct {
	verb      string // get, list, watch, create, patch, delete
	kind      *kind
	namespace string // "": the whole cluster
	name      string // "": the collection
	sub       string // subresource
}

var gerunds = map[string]string{
	"get": "reading", "list": "listing", "watch": "watching",
	"create": "creating", "patch": "changing", "delete": "deleting",
}

func (r request) String() string {
	s := gerunds[r.verb] + " "
	if r.name == "" || r.verb == "create" && r.sub == "" {
		s += r.kind.resource
	} else {
		s += r.kind.name + " " + r.name
	}
	if r.sub != "" {
		s += "/" + r.sub
	}
	if r.namespace != "" {
		s += " in namespace " + r.namespace
	}
	return s
}

func (r request) path() []string {
	path := []string{"/" + r.kind.api}
	if r.namespace != "" {
		path = append(path, "namespaces", r.namespace)
	}
	path = append(path, r.kind.resource)
	if r.name != "" && r.verb != "create" || r.sub != "" {
		path = append(path, r.name)
	}
	if r.sub != "" {
		path = append(path, r.sub)
	}
	return path
}

// do sends q, answering r, within requestTimeout. The answer goes to into:
// a typed object, or anything json.Unmarshal takes, or nil.
func (c *Cluster) do(ctx context.Context, r request, q *rest.Request, into any) error {
	limited, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	object, typed := into.(runtime.Object)
	accept := formatJSON
	if typed {
		accept = formatProtobuf
	}
	result := q.AbsPath(r.path()...).SetHeader("Accept", accept).MaxRetries(1).Do(limited)
	err := result.Error()
	switch {
	case err != nil:
	case typed:
		err = result.Into(object)
	case into != nil:
		var raw []byte
		if raw, err = result.Raw(); err == nil {
			err = json.Unmarshal(raw, into)
		}
	}
	return c.explain(ctx, r, err)
}

func (c *Cluster) get(ctx context.Context, k *kind, namespace, name string, into any) error {
	return c.do(ctx, request{verb: "get", kind: k, namespace: namespace, name: name}, c.rest.Get(), into)
}

// list reads a collection; the selectors may be "".
func (c *Cluster) list(ctx context.Context, k *kind, namespace, labels, fields string, into any) error {
	r := request{verb: "list", kind: k, namespace: namespace}
	return c.do(ctx, r, selecting(c.rest.Get(), labels, fields), into)
}

// listPage reads at most limit of a collection, 0 being all; next says where to
// go on, "" at the first.
func (c *Cluster) listPage(ctx context.Context, k *kind, namespace string, limit int, next string, into any) error {
	r := request{verb: "list", kind: k, namespace: namespace}
	q := c.rest.Get()
	if limit > 0 {
		q.Param("limit", strconv.Itoa(limit))
	}
	if next != "" {
		q.Param("continue", next)
	}
	return c.do(ctx, r, q, into)
}

func (c *Cluster) create(ctx context.Context, k *kind, namespace string, body, into runtime.Object) error {
	r := request{verb: "create", kind: k, namespace: namespace}
	return c.do(ctx, r, c.rest.Post().Body(body), into)
}

func (c *Cluster) patch(ctx context.Context, k *kind, namespace, name string, patch []byte, into runtime.Object) error {
	r := request{verb: "patch", kind: k, namespace: namespace, name: name}
	return c.do(ctx, r, c.rest.Patch(types.MergePatchType).Body(patch), into)
}

func (c *Cluster) delete(ctx context.Context, k *kind, namespace, name string, only metav1.Preconditions) error {
	r := request{verb: "delete", kind: k, namespace: namespace, name: name}
	background := metav1.DeletePropagationBackground
	options, err := json.Marshal(metav1.DeleteOptions{
		TypeMeta:          metav1.TypeMeta{Kind: "DeleteOptions", APIVersion: "v1"},
		PropagationPolicy: &background,
		Preconditions:     &only,
	})
	if err != nil {
		return fmt.Errorf("encoding delete options: %w", err)
	}
	return c.do(ctx, r, c.rest.Delete().SetHeader("Content-Type", formatJSON).Body(options), nil)
}

// watch first reports what is there, then every change, until the server ends
// it (after minutes) or ctx is done.
func (c *Cluster) watch(ctx context.Context, k *kind, namespace, labels, fields string) (watch.Interface, error) {
	r := request{verb: "watch", kind: k, namespace: namespace}
	w, err := selecting(c.rest.Get(), labels, fields).AbsPath(r.path()...).
		SetHeader("Accept", formatProtobuf).Param("watch", "true").MaxRetries(1).Watch(ctx)
	return w, c.explain(ctx, r, err)
}

func selecting(q *rest.Request, labels, fields string) *rest.Request {
	if labels != "" {
		q.Param("labelSelector", labels)
	}
	if fields != "" {
		q.Param("fieldSelector", fields)
	}
	return q
}
