// Package cluster is the daemon's side of Kubernetes: it finds targets, keeps
// an agent pod on a target's node, and reaches that agent through the API server.
//
//	Access ──Open──▶ Cluster ──Resolve──▶ Target ──StartAgent──▶ Agent ──Dial──▶ net.Conn
//
// It is the only importer of k8s.io. Requests go through one REST client with a
// scheme of two groups; the generated clientset would add 10 ms to every start
// of the binary and 35 MB to it.
//
// Every failure is an *Error: what was tried, on what, why, what to do next.
package cluster

import (
	"context"
	"crypto/sha256"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"
)

// requestTimeout bounds every request but a watch, connecting included: users
// learn within 10 s that a cluster is out of reach.
const requestTimeout = 8 * time.Second

// Access says how a client reaches its cluster. It comes from the client,
// never from the daemon's own environment.
type Access struct {
	Kubeconfig string   // path list as in $KUBECONFIG; "": the client's KUBECONFIG, else $HOME/.kube/config, else in-cluster
	Context    string   // "": the kubeconfig's current context
	Namespace  string   // "": the context's, else "default"
	Env        []string // the client's environment
	Dir        string   // the client's working directory, for relative paths

	InsecureSkipTLSVerify *bool // nil: as the kubeconfig says
	IgnoreProxy           bool  // do not use HTTPS_PROXY and its kin of Env
}

// A Cluster is one way to one API server. It is safe for concurrent use and
// starts no goroutine; Close only drops idle connections.
type Cluster struct {
	log        *slog.Logger
	config     *rest.Config
	context    string // the kubeconfig's; "" in a cluster
	kubeconfig string // the one file that the client names; "": what kubectl finds, too
	namespace  string

	http     *http.Client
	rest     *rest.RESTClient
	upgrades http.RoundTripper // HTTP/1.1, for port-forwards

	spdyRefused atomic.Bool // a proxy on the way or a role lets only WebSocket pass
}

// Open reads the client's configuration. It sends nothing: what is wrong with
// the cluster itself shows at the first request.
func Open(_ context.Context, log *slog.Logger, a Access) (*Cluster, error) {
	hushKlog()
	c := &Cluster{log: log}
	var err error
	if c.config, c.context, c.namespace, err = a.load(); err != nil {
		return nil, err
	}
	if paths, explicit := a.paths(); explicit && len(paths) == 1 {
		c.kubeconfig = paths[0]
	}
	c.config.WarningHandler = warnings{log}
	if err := c.connect(); err != nil {
		return nil, &Error{Kind: BadConfig, Msg: "using the kubeconfig's credentials for " + c.config.Host, Err: err}
	}
	return c, nil
}

// hushKlog silences client-go's own logger, which is global and writes to
// stderr what every call here returns as an error anyway.
var hushKlog = sync.OnceFunc(func() { klog.SetSlogLogger(slog.New(slog.DiscardHandler)) })

// Namespace is where targets are looked for unless a call names another.
func (c *Cluster) Namespace() string { return c.namespace }

// Server is the API server's address.
func (c *Cluster) Server() string { return c.config.Host }

// Identity is the same for two clusters only if they are one, reached with the
// same credentials.
func (c *Cluster) Identity() string {
	b := fmt.Appendf(nil, "%+v %s %s", c.config.Impersonate, c.config.Username, c.config.Password)
	b = fmt.Appendf(b, "%s %s %v %v", c.config.BearerToken, c.config.BearerTokenFile, c.config.AuthProvider, c.config.ExecProvider)
	tls := c.config.TLSClientConfig
	b = fmt.Appendf(b, "%s %s %s %s", tls.CertFile, tls.CertData, tls.KeyFile, tls.KeyData)
	return fmt.Sprintf("%s %x", c.config.Host, sha256.Sum256(b))
}

// Context is the kubeconfig context in use, "" inside a cluster.
func (c *Cluster) Context() string { return c.context }

func (c *Cluster) Close() {
	utilnet.CloseIdleConnectionsFor(c.http.Transport)
	utilnet.CloseIdleConnectionsFor(c.upgrades)
}

// warnings hands the API server's warning headers to the log.
type warnings struct{ log *slog.Logger }

func (w warnings) HandleWarningHeader(_ int, _, text string) {
	w.log.Debug("api server warns", "text", text)
}
