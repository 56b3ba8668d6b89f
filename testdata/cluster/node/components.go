package node

import (
	"embed"
	"fmt"
	"os"
	"path/filepath"
)

// configFiles are the components' own configurations.
//
//go:embed files
var configFiles embed.FS

// writeConfigs puts the configurations where the components look.
func writeConfigs() error {
	for from, to := range map[string]string{
		"containerd.toml": "containerd.toml",
		"kubelet.yaml":    "kubelet.yaml",
		"kube-proxy.yaml": "kube-proxy.yaml",
		"Corefile":        "Corefile",
		"cni.conflist":    "cni/10-mirrord.conflist",
	} {
		b, err := configFiles.ReadFile("files/" + from)
		if err != nil {
			return fmt.Errorf("reading the configuration %s: %w", from, err)
		}
		to = filepath.Join(configDir, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			return fmt.Errorf("making a directory for configurations: %w", err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			return fmt.Errorf("writing a configuration: %w", err)
		}
	}
	return nil
}

// A component is a process of the node; without a path it is one of Kubernetes.
type component struct {
	name string
	path string
	args []string
}

// storage needs nothing but the mounts; the API server waits for etcd by itself.
func storage() []component {
	return []component{
		{name: "containerd", path: "/usr/bin/containerd", args: []string{"--config", configDir + "/containerd.toml"}},
		{name: "etcd", args: []string{"--data-dir", stateDir + "/etcd", "--listen-client-url", etcdEndpoint}},
		{name: "kube-apiserver", args: []string{
			"--etcd-servers=" + etcdEndpoint,
			"--advertise-address=" + address,
			"--bind-address=0.0.0.0",
			"--secure-port=6443",
			"--service-cluster-ip-range=" + services,
			"--authorization-mode=Node,RBAC",
			"--enable-admission-plugins=NodeRestriction", // beside the default ones
			"--allow-privileged=true",
			"--client-ca-file=" + pkiDir + "/ca.crt",
			"--tls-cert-file=" + pkiDir + "/apiserver.crt",
			"--tls-private-key-file=" + pkiDir + "/apiserver.key",
			"--kubelet-client-certificate=" + pkiDir + "/kubelet-client.crt",
			"--kubelet-client-key=" + pkiDir + "/kubelet-client.key",
			"--kubelet-certificate-authority=" + pkiDir + "/ca.crt",
			"--kubelet-preferred-address-types=InternalIP",
			"--service-account-issuer=https://kubernetes.default.svc.cluster.local",
			"--service-account-key-file=" + pkiDir + "/service-accounts.crt",
			"--service-account-signing-key-file=" + pkiDir + "/service-accounts.key",
			"--requestheader-client-ca-file=" + pkiDir + "/ca.crt",
			"--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User",
			"--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pkiDir + "/front-proxy.crt",
			"--proxy-client-key-file=" + pkiDir + "/front-proxy.key",
			"--profiling=false",
		}},
	}
}

// clients need an API server that answers.
func clients() []component {
	return []component{
		{name: "kubelet", args: []string{
			"--config=" + configDir + "/kubelet.yaml",
			"--kubeconfig=" + pkiDir + "/kubelet.kubeconfig",
			"--hostname-override=" + Name,
			"--node-ip=" + address,
			"--oom-score-adj=0", // lower needs CAP_SYS_RESOURCE
		}},
		{name: "kube-controller-manager", args: []string{
			"--kubeconfig=" + pkiDir + "/controller.kubeconfig",
			"--leader-elect=false",
			"--kube-api-qps=500", // with the default the first service account comes 5 s late
			"--kube-api-burst=1000",
			"--use-service-account-credentials=true",
			"--root-ca-file=" + pkiDir + "/ca.crt",
			"--service-account-private-key-file=" + pkiDir + "/service-accounts.key",
			"--cluster-signing-cert-file=" + pkiDir + "/ca.crt",
			"--cluster-signing-key-file=" + pkiDir + "/ca.key",
			"--allocate-node-cidrs=true",
			"--cluster-cidr=" + pods,
			"--service-cluster-ip-range=" + services,
			"--profiling=false",
		}},
		{name: "kube-scheduler", args: []string{
			"--kubeconfig=" + pkiDir + "/scheduler.kubeconfig",
			"--leader-elect=false",
			"--profiling=false",
		}},
		{name: "kube-proxy", args: []string{"--config=" + configDir + "/kube-proxy.yaml"}},
		{name: "coredns", args: []string{"-conf", configDir + "/Corefile"}},
	}
}
