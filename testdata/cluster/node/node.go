// Package node is the cluster's only node: a tree of processes in namespaces
// of its own whose pid 1 is this program again. Killing pid 1 ends every
// process, mount, link and listener of the cluster, whatever state it was in;
// only its control groups outlive it.
//
//	host                          │ the node's mount, network, pid, uts, ipc, cgroup namespaces
//	Start ── clone ───────────────┼─▶ pid 1: Init ─▶ Serve
//	  joins it to its groups      │     mounts, network, forwarding of the API's port
//	  sends the configuration ────┼─▶   containerd etcd kube-apiserver kubelet … (restarted when they end)
//	  reads the progress ◀────────┼──   "ready", or why not
//	127.0.0.1:PORT (a listener of the host's network namespace, held by pid 1)
//
// Inside, the state and the cache have fixed paths, so that no configuration
// depends on where the checkout lies.
package node

import "mirrord/testdata/cluster/cgroup"

// What the node is called and where it is; the files in files/ agree.
const (
	Name    = "mirrord-node"
	Cluster = "mirrord-test"

	address      = "10.200.0.1"
	addressNet   = "10.200.0.1/24"
	apiService   = "10.96.0.1"
	dnsService   = "10.96.0.10"
	services     = "10.96.0.0/16"
	pods         = "10.244.0.0/16"
	apiServer    = "127.0.0.1:6443"
	etcdEndpoint = "http://127.0.0.1:2379"

	// Containerd's socket, seen by the node.
	Containerd = "/run/containerd/containerd.sock"
)

// Where the node sees what it was given.
const (
	top       = "/run/mirrord"
	stateDir  = top + "/state"
	cacheDir  = top + "/cache"
	configDir = top + "/config"
	pkiDir    = stateDir + "/pki"
	logDir    = stateDir + "/log"
)

// A Config is all that a node needs to know.
type Config struct {
	State  string         `json:"state"` // directory of this cluster
	Cache  string         `json:"cache"` // directory of the programs and the packages
	Groups []cgroup.Group `json:"groups"`
}
