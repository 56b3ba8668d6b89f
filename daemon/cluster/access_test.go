package cluster

import (
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// writeConfig makes a kubeconfig with contexts one and two.
func writeConfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "config")
	content := fmt.Sprintf(`
apiVersion: v1
kind: Config
current-context: one
clusters: [{name: c, cluster: {server: %q}}]
users: [{name: u, user: {token: t}}]
contexts:
- {name: one, context: {cluster: c, user: u, namespace: shop}}
- {name: two, context: {cluster: c, user: u}}
- {name: dangling, context: {cluster: absent, user: u}}
`, server)
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestAccess(t *testing.T) {
	path := writeConfig(t, "https://127.0.0.1:1")
	dir, file := filepath.Split(path)
	home := t.TempDir()
	if err := os.MkdirAll(filepath.Join(home, ".kube"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(path, filepath.Join(home, ".kube", "config")); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(home, "broken")
	if err := os.WriteFile(broken, []byte("contexts: {"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("KUBECONFIG", "/of/the/daemon")
	t.Setenv("HOME", home)
	for name, test := range map[string]struct {
		a         Access
		namespace string // else an error:
		kind      Kind
		want      string
	}{
		"explicit":          {a: Access{Kubeconfig: path}, namespace: "shop"},
		"list":              {a: Access{Kubeconfig: "/absent:" + path}, namespace: "shop"},
		"relative":          {a: Access{Kubeconfig: file, Dir: dir}, namespace: "shop"},
		"client's variable": {a: Access{Env: []string{"KUBECONFIG=/absent", "KUBECONFIG=" + path}}, namespace: "shop"},
		"client's home":     {a: Access{Env: []string{"HOME=" + home}}, namespace: "shop"},
		"context":           {a: Access{Kubeconfig: path, Context: "two"}, namespace: "default"},
		"namespace":         {a: Access{Kubeconfig: path, Namespace: "other"}, namespace: "other"},
		"none": {a: Access{Env: []string{"HOME=/absent"}},
			kind: NoKubeconfig, want: "none at /absent/.kube/config"},
		"explicit, absent": {a: Access{Kubeconfig: "/absent", Env: []string{"HOME=" + home}},
			kind: NoKubeconfig, want: "reading kubeconfig /absent"},
		"broken":          {a: Access{Kubeconfig: broken}, kind: BadConfig, want: broken},
		"unknown context": {a: Access{Kubeconfig: path, Context: "tow"}, kind: UnknownContext, want: "did you mean two?"},
		"far context":     {a: Access{Kubeconfig: path, Context: "production"}, kind: UnknownContext, want: "its contexts are dangling, one, two"},
		"dangling":        {a: Access{Kubeconfig: path, Context: "dangling"}, kind: BadConfig, want: `context "dangling"`},
	} {
		t.Run(name, func(t *testing.T) {
			c, err := Open(t.Context(), slog.New(slog.DiscardHandler), test.a)
			if test.kind != "" {
				if !IsKind(err, test.kind) || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Open = %v\nwant %s, %q", err, test.kind, test.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.Namespace() != test.namespace {
				t.Errorf("namespace = %q, want %q", c.Namespace(), test.namespace)
			}
		})
	}
}

// A proxy and a credential plugin are the client's, not the daemon's.
func TestClientEnvironment(t *testing.T) {
	t.Setenv("HTTPS_PROXY", "http://daemon.test")
	path := writeConfig(t, "https://cluster.test")
	q, err := http.NewRequest(http.MethodGet, "https://cluster.test", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		a    Access
		want string
	}{
		{Access{}, "<nil>"},
		{Access{Env: []string{"HTTPS_PROXY=http://client.test"}}, "http://client.test"},
		{Access{Env: []string{"HTTPS_PROXY=http://client.test", "NO_PROXY=cluster.test"}}, "<nil>"},
		{Access{Env: []string{"HTTPS_PROXY=http://client.test"}, IgnoreProxy: true}, "<nil>"},
	} {
		test.a.Kubeconfig = path
		c, err := Open(t.Context(), slog.New(slog.DiscardHandler), test.a)
		if err != nil {
			t.Fatal(err)
		}
		if u, err := c.config.Proxy(q); err != nil || fmt.Sprint(u) != test.want {
			t.Errorf("%v: proxy %v, %v; want %s", test.a.Env, u, err, test.want)
		}
	}

	dir := t.TempDir()
	plugin := filepath.Join(dir, "plugin")
	script := `#!/bin/sh
echo "{\"apiVersion\":\"client.authentication.k8s.io/v1\",\"kind\":\"ExecCredential\",\"status\":{\"token\":\"$OF_CLIENT\"}}"
`
	if err := os.WriteFile(plugin, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	content := must(os.ReadFile(path))
	withPlugin := strings.Replace(string(content), "{token: t}",
		"{exec: {apiVersion: client.authentication.k8s.io/v1, command: plugin, interactiveMode: Never}}", 1)
	if err := os.WriteFile(path, []byte(withPlugin), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: path, Env: []string{"PATH=/absent:" + dir, "OF_CLIENT=secret"}})
	if err != nil {
		t.Fatal(err)
	}
	if got := c.config.ExecProvider; got.Command != plugin || got.Env[1].Value != "secret" {
		t.Errorf("plugin %q runs with %v", got.Command, got.Env)
	}
}
