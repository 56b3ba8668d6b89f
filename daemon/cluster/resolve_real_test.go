package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestResolve(t *testing.T) {
	c := openShop(t)
	pod := web(t, c)
	for _, path := range []string{
		"deployment/web", "deploy/web", "service/web", "label/app=web", "pod/" + pod.Pod, "po/" + pod.Pod + "/container/app",
		"replicaset/" + pod.Pod[:strings.LastIndex(pod.Pod, "-")],
	} {
		p, err := ParseTarget(path)
		if err != nil {
			t.Fatal(err)
		}
		got, err := c.Resolve(t.Context(), p)
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		got.Path = pod.Path
		if diff := cmp.Diff(pod, got); diff != "" {
			t.Errorf("%s (-deployment/web +this):\n%s", path, diff)
		}
	}
	if pod.Container != "app" || pod.Namespace != shop.namespace || len(pod.ContainerID) != 64 || pod.Node == "" || len(pod.PodIPs) == 0 || pod.UID == "" {
		t.Errorf("target = %+v", pod)
	}
	if want := []string{"/etc/shop", serviceAccount}; !slices.Equal(pod.Mounts, want) {
		t.Errorf("mounts = %q, want %q", pod.Mounts, want)
	}
	if want := []Port{{8080, "http", "TCP"}}; !slices.Equal(pod.Ports, want) {
		t.Errorf("ports = %+v, want %+v", pod.Ports, want)
	}
	if want := []int{8080, 8081}; !slices.Equal(pod.ProbePorts, want) {
		t.Errorf("probe ports = %v, want %v", pod.ProbePorts, want)
	}
}

// A workload that selects other pods than before has those.
func TestReplicasOfAnotherSelector(t *testing.T) {
	c := openShop(t)
	service := func(app string) {
		t.Helper()
		kubectl(t, fmt.Sprintf("{apiVersion: v1, kind: Service, metadata: {name: changing}, spec: {selector: {app: %s}, ports: [{port: 80}]}}", app),
			"apply", "-n", shop.namespace, "-f", "-")
	}
	service("nobody")
	t.Cleanup(func() { kubectl(t, "", "delete", "service", "changing", "-n", shop.namespace) })
	p := Path{Kind: "service", Name: "changing"}
	for _, want := range []int{0, 1} {
		listed, ended := make(chan int, 100), make(chan error)
		go func() {
			ended <- c.watchReplicas(t.Context(), p, 50*time.Millisecond, func(list []Replica, all bool) {
				if all {
					listed <- len(list)
				}
			})
		}()
		if got := <-listed; got != want {
			t.Errorf("%d pods, not %d", got, want)
		}
		service([]string{"web", "sleeping"}[want])
		if err := <-ended; !errors.Is(err, errSelector) {
			t.Error(err)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	c := openShop(t)
	pod := web(t, c).Pod
	absent := realCluster(t, shop.namespace[:len(shop.namespace)-1])
	for _, test := range []struct {
		c    *Cluster
		path string
		kind Kind
		want string
	}{
		{c, "deployment/wen", UnknownTarget, "did you mean web?"},
		{c, "deployment/other-thing", UnknownTarget, "it has broken, sleeping, web"},
		{c, "pod/web", UnknownTarget, "did you mean " + pod + "?"},
		{c, "statefulset/db", UnknownTarget, `there is none`},
		{c, "rollout/x", UnknownTarget, `there is none`},
		{c, "deployment/web/container/ap", UnknownContainer, "did you mean app?"},
		{c, "deployment/web/container/zzz", UnknownContainer, "its containers are app, istio-proxy"},
		{c, "deployment/sleeping", NotRunning, "it has no pods"},
		{c, "deployment/broken", NotRunning, "container app is waiting (ErrImageNeverPull)"},
		{c, "label/app=absent", NotRunning, "it has no pods"},
		{absent, "deployment/web", UnknownNamespace, "did you mean " + shop.namespace + "?"},
		{absent, "label/app=web", UnknownNamespace, "did you mean " + shop.namespace + "?"},
	} {
		p, err := ParseTarget(test.path)
		if err != nil {
			t.Fatal(err)
		}
		if _, err = test.c.Resolve(t.Context(), p); !IsKind(err, test.kind) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v\nwant %s, %q", test.path, err, test.kind, test.want)
		}
	}
}

func TestTargets(t *testing.T) {
	c := openShop(t)
	all, _, err := c.Targets(t.Context(), "", nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]Listed{}
	for _, l := range all {
		got[l.Path.String()] = l
	}
	app := []string{"app", "istio-proxy"}
	for path, want := range map[string]Listed{
		"deployment/web":       {Containers: app, Available: true},
		"deployment/sleeping":  {Reason: "it has no pods"},
		"pod/" + web(t, c).Pod: {Containers: app, Available: true},
		"deployment/broken":    {Containers: []string{"app"}, Reason: "container app is waiting (ErrImageNeverPull)"},
	} {
		l := got[path]
		l.Path = Path{}
		if !strings.HasPrefix(l.Reason, want.Reason) {
			t.Errorf("%s: reason %q, want %q", path, l.Reason, want.Reason)
		}
		l.Reason = want.Reason
		if diff := cmp.Diff(want, l); diff != "" {
			t.Errorf("%s (-want +got):\n%s", path, diff)
		}
	}
	if _, _, err := c.Targets(t.Context(), "absent", nil); !IsKind(err, UnknownNamespace) {
		t.Errorf("Targets of an unknown namespace: %v", err)
	}
	if names, err := c.Namespaces(t.Context()); err != nil || !slices.Contains(names, shop.namespace) {
		t.Errorf("Namespaces = %q, %v", names, err)
	}
}

func TestRights(t *testing.T) {
	openShop(t)
	user := restricted(t, shop.namespace)
	_, err := user.Resolve(t.Context(), Path{Kind: "deployment", Name: "web"})
	line := "kubectl auth can-i get deployments.apps -n " + shop.namespace + " --context mirrord-test"
	if !IsKind(err, Forbidden) || !strings.Contains(err.Error(), line) {
		t.Errorf("Resolve = %v\nwant %s", err, line)
	}
	if _, err := user.Namespaces(t.Context()); !IsKind(err, Forbidden) || !strings.Contains(err.Error(), "can-i list namespaces --context") {
		t.Errorf("Namespaces = %v", err)
	}
	some := restricted(t, shop.namespace, rule("", "pods", "list"), rule("apps", "statefulsets", "list"))
	if all, hidden, err := some.Targets(t.Context(), "", nil); err != nil || len(all) == 0 || !slices.Equal(hidden, []string{"deployments"}) {
		t.Errorf("Targets of who may not list deployments: %d, without %q, %v", len(all), hidden, err)
	}
	expired := withToken(t, shop.namespace, "not.a.token")
	if _, _, err := expired.Targets(t.Context(), "", nil); !IsKind(err, Unauthorized) {
		t.Errorf("Targets with a bad token = %v", err)
	}
	// The lines that the errors give must be right.
	if out, err := tryKubectl(kubeconfig(t), "", append(strings.Fields(line)[1:], "--as", "nobody")...); err == nil || out != "no" {
		t.Errorf("%s: %v, %q; want no", line, err, out)
	}
	admin := strings.Fields("auth can-i create pods --subresource=portforward -n " + shop.namespace)
	if out, err := tryKubectl(kubeconfig(t), "", admin...); err != nil || out != "yes" {
		t.Errorf("can-i: %v, %q; want yes", err, out)
	}
}

// A server that is not there, or does not answer, is an error within 10 s.
func TestUnreachable(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { silent.Close() })
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	stranger := httptest.NewUnstartedServer(http.NotFoundHandler())
	stranger.Config.ErrorLog = log.New(io.Discard, "", 0)
	stranger.StartTLS()
	t.Cleanup(stranger.Close)
	for _, test := range []struct{ name, addr, want string }{
		{"closed", closed.Addr().String(), "connection refused"},
		{"silent", silent.Addr().String(), "no answer within"},
		{"unknown certificate", stranger.Listener.Addr().String(), "accept_invalid_certificates"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: writeConfig(t, "https://"+test.addr)})
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			began := time.Now()
			_, err = c.Resolve(t.Context(), Path{Kind: "pod", Name: "x"})
			if d := time.Since(began); d > 10*time.Second {
				t.Errorf("it took %v", d)
			}
			if !IsKind(err, Unreachable) || !strings.Contains(err.Error(), test.want) || !strings.Contains(err.Error(), test.addr) {
				t.Errorf("Resolve = %v", err)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: writeConfig(t, "https://"+closed.Addr().String())})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Namespaces(ctx); err != context.Canceled {
		t.Errorf("Namespaces = %v, want context.Canceled", err)
	}
}
