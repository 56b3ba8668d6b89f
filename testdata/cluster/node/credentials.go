package node

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"mirrord/testdata/cluster/pki"
)

// users have a kubeconfig inside of the node.
var users = []pki.Leaf{
	{Name: "admin", CommonName: "kubernetes-admin", Organization: "system:masters"},
	{Name: "controller", CommonName: "system:kube-controller-manager"},
	{Name: "scheduler", CommonName: "system:kube-scheduler"},
	{Name: "kubelet", CommonName: "system:node:" + Name, Organization: "system:nodes"},
	{Name: "proxy", CommonName: "system:kube-proxy"},
	{Name: "coredns", CommonName: "coredns", Organization: "system:masters"},
}

var servers = []pki.Leaf{
	{Name: "apiserver", CommonName: "kube-apiserver", Hosts: []string{
		Name, address, apiService, "127.0.0.1", "localhost",
		"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local",
	}},
	{Name: "kubelet-serving", CommonName: "system:node:" + Name, Organization: "system:nodes", Hosts: []string{Name, address, "127.0.0.1"}},
	{Name: "kubelet-client", CommonName: "kube-apiserver-kubelet-client", Organization: "system:masters"},
	{Name: "front-proxy", CommonName: "front-proxy-client"},
	{Name: "service-accounts", CommonName: "service-accounts"},
}

// Credentials makes state/pki unless it is there and complete, and writes
// state/kubeconfig for clients on the host.
func Credentials(state string, port int) error {
	dir := filepath.Join(state, "pki")
	last := filepath.Join(dir, "complete")
	if _, err := os.Stat(last); errors.Is(err, fs.ErrNotExist) {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("making a directory for certificates: %w", err)
		}
		if err := pki.Issue(dir, append(servers, users...)); err != nil {
			return err
		}
		for _, u := range users {
			if err := pki.Kubeconfig(filepath.Join(dir, u.Name+".kubeconfig"), dir, u.Name, Cluster, "https://"+apiServer); err != nil {
				return err
			}
		}
		if err := os.WriteFile(last, nil, 0o600); err != nil {
			return fmt.Errorf("marking the certificates as complete: %w", err)
		}
	}
	return pki.Kubeconfig(filepath.Join(state, "kubeconfig"), dir, "admin", Cluster, fmt.Sprintf("https://127.0.0.1:%d", port))
}
