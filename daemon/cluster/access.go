package cluster

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/net/http/httpproxy"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// serviceAccount is where kubelet mounts a pod's own credentials.
const serviceAccount = "/var/run/secrets/kubernetes.io/serviceaccount"

// load finds the client's configuration and says which context and namespace
// it chose.
func (a Access) load() (cfg *rest.Config, context, namespace string, err error) {
	paths, explicit := a.paths()
	kubeconfig, err := a.read(paths, explicit)
	if err != nil {
		return nil, "", "", err
	}
	if kubeconfig == nil {
		if cfg, namespace, err = a.inCluster(); err != nil {
			return nil, "", "", err
		}
		if cfg == nil {
			return nil, "", "", &Error{
				Kind: NoKubeconfig,
				Msg:  "finding a kubeconfig: none at " + strings.Join(paths, ", "),
				Hint: "set KUBECONFIG or the setting kubeconfig to its path",
			}
		}
	} else if cfg, context, namespace, err = a.choose(kubeconfig, paths); err != nil {
		return nil, "", "", err
	}
	if err := a.complete(cfg); err != nil {
		return nil, "", "", err
	}
	return cfg, context, cmp.Or(a.Namespace, namespace, "default"), nil
}

// paths lists the kubeconfig files in order of precedence; explicit ones must
// exist.
func (a Access) paths() (paths []string, explicit bool) {
	list := cmp.Or(a.Kubeconfig, a.env("KUBECONFIG"))
	if list == "" {
		return []string{filepath.Join(a.env("HOME"), ".kube", "config")}, false
	}
	for _, p := range filepath.SplitList(list) {
		if p == "" {
			continue
		}
		if rest, ok := strings.CutPrefix(p, "~/"); ok {
			p = filepath.Join(a.env("HOME"), rest)
		}
		if !filepath.IsAbs(p) {
			p = filepath.Join(a.Dir, p)
		}
		paths = append(paths, p)
	}
	return paths, a.Kubeconfig != ""
}

// read merges the files; nil means that none of them exists.
func (a Access) read(paths []string, explicit bool) (*api.Config, error) {
	unread := func(kind Kind, err error) error {
		return &Error{
			Kind: kind, Msg: "reading kubeconfig " + strings.Join(paths, ", "), Err: err,
			Hint: "name another by --kubeconfig, KUBECONFIG or the setting kubeconfig",
		}
	}
	found := slices.ContainsFunc(paths, func(p string) bool {
		_, err := os.Stat(p)
		return !errors.Is(err, fs.ErrNotExist)
	})
	if !found {
		if explicit {
			return nil, unread(NoKubeconfig, fs.ErrNotExist)
		}
		return nil, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: paths}
	config, err := rules.Load()
	if err != nil {
		return nil, unread(BadConfig, err)
	}
	return config, nil
}

func (a Access) choose(config *api.Config, paths []string) (*rest.Config, string, string, error) {
	name := cmp.Or(a.Context, config.CurrentContext)
	names := slices.Sorted(maps.Keys(config.Contexts))
	entry, ok := config.Contexts[name]
	switch {
	case name == "":
		return nil, "", "", &Error{
			Kind: UnknownContext,
			Msg:  "choosing a context: kubeconfig " + strings.Join(paths, ", ") + " has no current one",
			Hint: "choose one with --context: " + strings.Join(names, ", "),
		}
	case !ok:
		return nil, "", "", &Error{
			Kind: UnknownContext,
			Msg:  fmt.Sprintf("choosing context %q: kubeconfig %s does not have it", name, strings.Join(paths, ", ")),
			Hint: suggest(name, names, "its contexts are"),
		}
	}
	overrides := &clientcmd.ConfigOverrides{CurrentContext: name}
	cfg, err := clientcmd.NewNonInteractiveClientConfig(*config, name, overrides, nil).ClientConfig()
	if err != nil {
		return nil, "", "", &Error{Kind: BadConfig, Msg: fmt.Sprintf("using context %q of kubeconfig %s", name, strings.Join(paths, ", ")), Err: err}
	}
	return cfg, name, entry.Namespace, nil
}

// Contexts lists the kubeconfig's contexts, none where there is no kubeconfig;
// current is "" where it names none.
func (a Access) Contexts() (current string, names []string, err error) {
	kubeconfig, err := a.read(a.paths())
	if kubeconfig == nil || err != nil {
		return "", nil, err
	}
	return kubeconfig.CurrentContext, slices.Sorted(maps.Keys(kubeconfig.Contexts)), nil
}

// inCluster is for a client that runs in a pod: nil when it does not.
func (a Access) inCluster() (*rest.Config, string, error) {
	host, port := a.env("KUBERNETES_SERVICE_HOST"), a.env("KUBERNETES_SERVICE_PORT")
	if host == "" || port == "" {
		return nil, "", nil
	}
	ca, err := os.ReadFile(filepath.Join(serviceAccount, "ca.crt"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", nil // the variables were inherited, the credentials were not
	}
	if err != nil {
		return nil, "", &Error{Kind: BadConfig, Msg: "reading the pod's own credentials", Err: err}
	}
	namespace, _ := os.ReadFile(filepath.Join(serviceAccount, "namespace")) // absent: "default"
	cfg := &rest.Config{
		Host:            "https://" + net.JoinHostPort(host, port),
		BearerTokenFile: filepath.Join(serviceAccount, "token"),
		TLSClientConfig: rest.TLSClientConfig{CAData: ca},
	}
	return cfg, strings.TrimSpace(string(namespace)), nil
}

// complete adds what does not stand in a kubeconfig.
func (a Access) complete(cfg *rest.Config) error {
	cfg.UserAgent = "mirrord"
	cfg.QPS = -1 // the server has its own limits
	cfg.Dial = (&net.Dialer{Timeout: requestTimeout, KeepAlive: 15 * time.Second}).DialContext
	if cfg.Proxy == nil {
		cfg.Proxy = a.proxy()
	}
	if err := rest.LoadTLSFiles(cfg); err != nil {
		return &Error{Kind: BadConfig, Msg: "reading the kubeconfig's certificates", Err: err}
	}
	// With files client-go would start a goroutine per transport that looks for
	// new ones and never ends.
	cfg.CertFile, cfg.KeyFile, cfg.CAFile = "", "", ""
	if a.InsecureSkipTLSVerify != nil {
		cfg.Insecure = *a.InsecureSkipTLSVerify
		if cfg.Insecure {
			cfg.CAData = nil // client-go refuses both
		}
	}
	if cfg.ExecProvider != nil {
		a.prepare(cfg.ExecProvider)
	}
	return nil
}

// proxy chooses by the client's HTTPS_PROXY, HTTP_PROXY and NO_PROXY.
func (a Access) proxy() func(*http.Request) (*url.URL, error) {
	if a.IgnoreProxy {
		return func(*http.Request) (*url.URL, error) { return nil, nil }
	}
	choose := (&httpproxy.Config{
		HTTPProxy:  cmp.Or(a.env("HTTP_PROXY"), a.env("http_proxy")),
		HTTPSProxy: cmp.Or(a.env("HTTPS_PROXY"), a.env("https_proxy")),
		NoProxy:    cmp.Or(a.env("NO_PROXY"), a.env("no_proxy")),
	}).ProxyFunc()
	return func(r *http.Request) (*url.URL, error) { return choose(r.URL) }
}

// prepare makes a credential plugin run as the client would run it: found by
// the client's PATH, with the client's environment.
func (a Access) prepare(p *api.ExecConfig) {
	p.StdinUnavailable = true
	p.StdinUnavailableMessage = "mirrord's daemon has no terminal"
	if !strings.ContainsRune(p.Command, filepath.Separator) {
		for _, dir := range filepath.SplitList(a.env("PATH")) {
			file := filepath.Join(dir, p.Command)
			if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
				p.Command = file
				break
			}
		}
	}
	env := make([]api.ExecEnvVar, 0, len(a.Env)+len(p.Env))
	for _, kv := range a.Env {
		if name, value, ok := strings.Cut(kv, "="); ok {
			env = append(env, api.ExecEnvVar{Name: name, Value: value})
		}
	}
	p.Env = append(env, p.Env...)
}

// env looks a variable up in the client's environment; the last one counts.
func (a Access) env(name string) string {
	for _, kv := range slices.Backward(a.Env) {
		if n, value, ok := strings.Cut(kv, "="); ok && n == name {
			return value
		}
	}
	return ""
}
