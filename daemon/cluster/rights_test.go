package cluster

import (
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// rule is one of a role; no verbs, no rule.
func rule(group, resources, verbs string) string {
	if verbs == "" {
		return ""
	}
	return fmt.Sprintf("- {apiGroups: [%q], resources: [%s], verbs: [%s]}\n", group, resources, verbs)
}

// restricted opens the cluster as a service account that may do only this.
func restricted(t *testing.T, namespace string, rules ...string) *Cluster {
	t.Helper()
	user := fmt.Sprintf("user-%x", time.Now().UnixNano())
	all := strings.Join(rules, "")
	if all == "" {
		all = " []\n"
	} else {
		all = "\n" + all
	}
	manifest := fmt.Sprintf(`
apiVersion: v1
kind: ServiceAccount
metadata: {name: %[1]s, namespace: %[2]s}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: Role
metadata: {name: %[1]s, namespace: %[2]s}
rules:%[3]s
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata: {name: %[1]s, namespace: %[2]s}
roleRef: {apiGroup: rbac.authorization.k8s.io, kind: Role, name: %[1]s}
subjects: [{kind: ServiceAccount, name: %[1]s, namespace: %[2]s}]
`, user, namespace, all)
	kubectl(t, manifest, "apply", "-f", "-")
	t.Cleanup(func() { kubectl(t, manifest, "delete", "-f", "-", "--wait=false") })
	return withToken(t, namespace, kubectl(t, "", "create", "token", user, "-n", namespace))
}

// withToken opens the cluster by a bearer token.
func withToken(t *testing.T, namespace, token string) *Cluster {
	t.Helper()
	return configured(t, namespace,
		[]string{"set-credentials", "user", "--token", token},
		[]string{"set-context", "--current", "--user", "user"})
}

// configured opens the cluster by a copy of its kubeconfig, changed by
// `kubectl config`.
func configured(t *testing.T, namespace string, changes ...[]string) *Cluster {
	t.Helper()
	file := filepath.Join(t.TempDir(), "kubeconfig")
	content := kubectl(t, "", "config", "view", "--raw", "--flatten")
	if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, change := range changes {
		kubectl(t, "", append([]string{"--kubeconfig", file, "config"}, change...)...)
	}
	c, err := Open(t.Context(), slog.New(slog.DiscardHandler), Access{Kubeconfig: file, Namespace: namespace})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// An agent may be in another namespace than its target, by which it is listed.
func TestAgentsElsewhere(t *testing.T) {
	c := openShop(t)
	elsewhere := shop.namespace + "-agents"
	kubectl(t, "", "create", "namespace", elsewhere)
	t.Cleanup(func() { kubectl(t, "", "delete", "namespace", elsewhere, "--wait=false") })
	kubectl(t, fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata: {name: agent, labels: {%s: %s}, annotations: {%s: %s/web/app}}
spec: {nodeName: nowhere, automountServiceAccountToken: false, containers: [{name: main, image: %s}]}
`, labelName, agentName, targetPath, shop.namespace, echoImage), "apply", "-n", elsewhere, "-f", "-")
	list := func(c *Cluster, namespace string) (pods []string) {
		t.Helper()
		all, _, err := c.Agents(t.Context(), namespace, elsewhere, 1)
		if err != nil {
			t.Error(err)
		}
		for _, a := range all {
			if a.Namespace == elsewhere {
				pods = append(pods, a.TargetNamespace)
			}
		}
		return pods
	}
	for namespace, want := range map[string]int{shop.namespace: 1, "": 1, elsewhere: 0} {
		if got := list(c, namespace); len(got) != want {
			t.Errorf("in namespace %q: %q", namespace, got)
		}
	}
	may := rule("", "pods", "list")
	poor := restricted(t, shop.namespace, may)
	if _, _, err := poor.Agents(t.Context(), shop.namespace, elsewhere, 1); !IsKind(err, Forbidden) || !strings.Contains(err.Error(), elsewhere) {
		t.Errorf("who may not look there: %v", err)
	}
	if _, places, err := poor.Agents(t.Context(), "", "", 1); err != nil || !slices.Equal(places, []string{shop.namespace}) {
		t.Errorf("who may look into one namespace: looked into %q, %v", places, err)
	}
}
