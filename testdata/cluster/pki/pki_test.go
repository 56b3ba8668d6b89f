package pki

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"os"
	"path/filepath"
	"testing"
)

func TestIssue(t *testing.T) {
	dir := t.TempDir()
	err := Issue(dir, []Leaf{{
		Name: "api", CommonName: "kube-apiserver", Organization: "system:masters",
		Hosts: []string{"kubernetes.default.svc", "10.96.0.1"},
	}})
	if err != nil {
		t.Fatal(err)
	}
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "api.crt"), filepath.Join(dir, "api.key"))
	if err != nil {
		t.Fatal(err)
	}
	ca, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	for _, host := range []string{"kubernetes.default.svc", "10.96.0.1"} {
		if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: host}); err != nil {
			t.Errorf("verifying for %s: %v", host, err)
		}
	}
	if _, err := pair.Leaf.Verify(x509.VerifyOptions{Roots: roots, DNSName: "10.96.0.2"}); err == nil {
		t.Error("verified for an address that is not in it")
	}
	if got := pair.Leaf.Subject.Organization; len(got) != 1 || got[0] != "system:masters" {
		t.Errorf("organization is %q", got)
	}
	if st, err := os.Stat(filepath.Join(dir, "api.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key is %v, %v; want mode 0600", st, err)
	}
}

func TestKubeconfig(t *testing.T) {
	dir := t.TempDir()
	if err := Issue(dir, []Leaf{{Name: "admin", CommonName: "kubernetes-admin"}}); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "kubeconfig")
	if err := Kubeconfig(file, dir, "admin", "test", "https://127.0.0.1:1"); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		Clusters []struct {
			Cluster struct {
				Server string
				CA     []byte `json:"certificate-authority-data"`
			}
		}
	}
	if err := json.Unmarshal(b, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Clusters) != 1 || got.Clusters[0].Cluster.Server != "https://127.0.0.1:1" || len(got.Clusters[0].Cluster.CA) == 0 {
		t.Errorf("got %s", b)
	}
	if err := Kubeconfig(file, dir, "nobody", "test", ""); err == nil {
		t.Error("wrote a kubeconfig for a user without a certificate")
	}
}
