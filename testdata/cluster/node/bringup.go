package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"time"
)

// stepTimeout is far above what any step takes on a loaded machine.
const stepTimeout = 90 * time.Second

// Where the objects that make CoreDNS a Service go.
const (
	servicesPath       = "/api/v1/namespaces/kube-system/services"
	endpointSlicesPath = "/apis/discovery.k8s.io/v1/namespaces/kube-system/endpointslices"
)

// A node is what pid 1 brings up.
type node struct {
	log   *slog.Logger
	procs *processes
	step  func(string)
}

// start brings the node up and returns when pods can be created and names resolved.
func (n *node) start(ctx context.Context, cfg Config, l net.Listener) error {
	if err := mounts(cfg); err != nil {
		return err
	}
	if err := identity(); err != nil {
		return err
	}
	if err := network(); err != nil {
		return err
	}
	if err := writeConfigs(); err != nil {
		return err
	}
	api, err := NewAPI("https://"+apiServer, pkiDir)
	if err != nil {
		return err
	}
	go forward(n.log, l)
	n.step("namespaces, mounts and network are made")

	if err := n.run(storage()); err != nil {
		return err
	}
	if err := n.images(ctx); err != nil {
		return err
	}
	if err := wait(ctx, "the API server", api.Ready); err != nil {
		return err
	}
	n.step("the API server answers")

	if err := n.run(clients()); err != nil {
		return err
	}
	if err := n.resolver(ctx, api); err != nil {
		return err
	}
	if err := n.pods(ctx, api); err != nil {
		return err
	}
	return n.names(ctx)
}

func (n *node) run(components []component) error {
	for _, c := range components {
		path := cmp.Or(c.path, cacheDir+"/kube")
		if err := n.procs.supervise(path, c.name, c.args...); err != nil {
			return err
		}
	}
	return nil
}

// images readies containerd: what the last run left has lost its processes,
// and the pause image must be there before the first pod.
func (n *node) images(ctx context.Context) error {
	err := wait(ctx, "containerd", func(context.Context) error {
		_, err := n.ctr("version")
		return err
	})
	if err != nil {
		return err
	}
	left, err := n.ctr("containers", "ls", "-q")
	if err != nil {
		return err
	}
	if ids := strings.Fields(left); len(ids) > 0 {
		if _, err := n.ctr(append([]string{"containers", "rm"}, ids...)...); err != nil {
			return err
		}
	}
	if _, err := n.ctr("images", "import", cacheDir+"/pause.tar"); err != nil {
		return err
	}
	n.step("containerd answers")
	return nil
}

func (n *node) ctr(args ...string) (string, error) {
	return n.procs.run("/usr/bin/ctr", append([]string{"--namespace", "k8s.io"}, args...)...)
}

// pods waits until a pod can be created and will run.
func (n *node) pods(ctx context.Context, api *API) error {
	err := wait(ctx, "the node to be ready", func(ctx context.Context) error {
		node, err := GetStatus(ctx, api)
		if err == nil && !node.Ready {
			err = errors.New(node.Reason)
		}
		return err
	})
	if err != nil {
		return err
	}
	n.step("the node is ready")
	return wait(ctx, "the default service account", func(ctx context.Context) error {
		return api.Get(ctx, "/api/v1/namespaces/default/serviceaccounts/default", nil)
	})
}

// resolver makes CoreDNS, a process of the node, the cluster's.
func (n *node) resolver(ctx context.Context, api *API) error {
	for _, o := range []struct{ path, file string }{
		{servicesPath, "dns-service.json"},
		{endpointSlicesPath, "dns-endpoints.json"},
	} {
		object, err := configFiles.ReadFile("files/" + o.file)
		if err != nil {
			return fmt.Errorf("reading %s: %w", o.file, err)
		}
		err = wait(ctx, "creating "+o.file, func(ctx context.Context) error {
			return api.Create(ctx, o.path, object)
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// names waits until they are resolved.
func (n *node) names(ctx context.Context) error {
	resolver := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, net.JoinHostPort(dnsService, "53"))
	}}
	err := wait(ctx, "names to be resolved", func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
		defer cancel()
		_, err := resolver.LookupHost(ctx, "kubernetes.default.svc.cluster.local.")
		return err
	})
	if err != nil {
		return err
	}
	n.step("names are resolved")
	return nil
}

// wait calls try until it succeeds.
func wait(ctx context.Context, what string, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, stepTimeout)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("waiting %v for %s: %w", stepTimeout, what, err)
		}
	}
}
