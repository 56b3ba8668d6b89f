// Package config turns mirrord.json (or .toml, .yaml) into a Config, told in
// the words of the peer's schema, so that a file written for the peer works here.
//
//	file ── template ── parse (JSON, TOML, YAML) ── table of settings ── lint ── Config
//	                    nodes with positions        settings.go
//
// Its rule: whatever is wrong is told with file, line, column and key. A key
// that the peer knows and this version does not serve is a warning, never an
// unknown key; where leaving it out could harm others, what depends on it is off.
package config

import (
	"encoding/json"
	"time"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A Config is everything a session is started with. Load makes it.
type Config struct {
	File     string        // as messages name it; "": none was found
	Warnings []ide.Problem // in the order of the file

	Target     string // "pod/web", "deployment/web/container/app"; "": none named
	Targetless bool   // the session has no pod to impersonate
	Namespace  string // "": the kubeconfig's
	Context    string // "": the kubeconfig's current
	Kubeconfig string // absolute; "": the client's KUBECONFIG, else its home
	Insecure   *bool  // accept_invalid_certificates; nil: as the kubeconfig says
	UseProxy   bool   // reach the API server by the client's HTTPS_PROXY

	// SkipProcesses are the names that are not served: skip_processes and,
	// unless turned off, the build tools.
	SkipProcesses []string

	Env       Env
	FS        FS
	Incoming  Incoming
	Outgoing  Outgoing
	DNS       bool // names are looked up in the target
	Hostname  bool // the debuggee sees the target's
	AutoMount bool // the target's volume mounts are Remote
	Pause     bool // the target's container stands still
	Agent     Agent

	Places []string // directories that are Local as the debuggee's own are

	Key string // session key, for templates

	container  string   // "/container/NAME" of a target that is written as a table
	targetAt   pos      // where the file names its target
	skip       []string // skip_processes as written
	skipBuild  bool
	extraBuild []string
	network    bool
	given      map[string]given
	said       bool // Incoming.Mode is file's or overrides' choice, not the default
}

// Env says which of the target's variables the debuggee gets; see Config.Environ.
type Env struct {
	Enabled  bool
	Include  []string // wildcards * and ?; empty: all
	Exclude  []string
	Override map[string]string
	File     string // absolute path of a dotenv file; "": none
	Mapping  []Replacement
	Unset    []string // of the client's variables, in any case
}

// A Replacement is one entry of a "mapping": what Pattern matches becomes Value.
type Replacement struct{ Pattern, Value string }

// FS is feature.fs; patterns are regular expressions, matched in any case.
type FS struct {
	Mode      string // local, localwithoverrides, read, write
	ReadWrite []string
	ReadOnly  []string
	Local     []string
	NotFound  []string
	Mapping   []Replacement
	ReadAhead *int          // bytes of a large file that are read ahead at most; nil: as many as it takes
	CacheTime time.Duration // what is known of files is kept so long at most, if no change is heard of
}

// Incoming is feature.network.incoming.
type Incoming struct {
	Mode        string // off, mirror, steal
	Ports       []uint16
	IgnorePorts []uint16
	PortMapping [][2]uint16      // the debuggee's port, and the target's
	ListenPorts [][2]uint16      // the debuggee's port, and the one it has here
	Filter      *protocol.Filter // of what is taken; nil: all of it
	FilterPorts []uint16         // only there; empty: everywhere
	Flush       string           // which connections of before are cut: a protocol.Flush constant
	TLS         TLS              // how TLS is opened for the filter
	Delivery    Delivery         // of what was in it
	Once        bool             // a single request is stolen, or connection without a filter

	HostNetwork       bool   // steal also from a pod in its node's network
	StealProbes       bool   // kubelet's probes are requests as others
	IgnoreLocalhost   bool   // listeners on loopback take no port
	OnConcurrentSteal string // what to do where another has the port: Abort, Override, Continue
	// WhileRestarting is how long connections wait for a debuggee that is being
	// restarted; 0: they go to the pod. WhileStopped, for one that its debugger
	// has stopped; 0 as well.
	WhileRestarting, WhileStopped time.Duration
}

// TLS is the pod's certificate and its key: paths in the target's container, or a
// Secret of its namespace.
type TLS struct{ Cert, Key, Secret string }

// Delivery is tls_delivery; its files are the client's.
type Delivery struct {
	Protocol   string // DeliverTLS, DeliverTCP
	TrustRoots []string
	ServerName string
	ServerCert string
	ClientCert string
	ClientKey  string
}

// What Delivery.Protocol may be.
const (
	DeliverTLS = "tls"
	DeliverTCP = "tcp"
)

// What OnConcurrentSteal may be.
const (
	Abort    = "abort"    // the debuggee cannot listen
	Override = "override" // the other loses it, and is told
	Continue = "continue" // the debuggee listens without it
)

// Outgoing is feature.network.outgoing.
type Outgoing struct {
	TCP, UDP bool
	Local    []string // [proto://]host|ip|cidr[:port] that stay local
}

// Agent is the section of the same name: how the agent is started, or where it is.
type Agent struct {
	Address          string // HOST:PORT of an agent outside Kubernetes
	Namespace        string // where its Job runs; "": the target's
	Image            string // "": mirrord-agent of this build
	ImagePullPolicy  string
	ImagePullSecrets []string
	StartupTimeout   time.Duration
	IdleTimeout      time.Duration // without a client it ends; 0: not given
	Grace            time.Duration // communication_timeout: a client's link may be away so long; 0: not given
	Labels           map[string]string
	Annotations      map[string]string
	ServiceAccount   string
	PriorityClass    string
	Tolerations      json.RawMessage // as in a pod's spec; nil: not given
	Resources        json.RawMessage // as in a container's spec; nil: not given

	Privileged           bool
	DisabledCapabilities []string
	MeshInjection        bool          // a mesh may put its sidecar into the agent's pod
	TTL                  time.Duration // how long its Job stays after its end; 0: not given
	NodeSelector         map[string]string
	LogLevel             string // "": the agent's default
	Metrics              string // IP:PORT in its pod; "": none

	registry, tag string // agent.image written as a table
}

// defaults is what an empty file means.
func defaults() *Config {
	return &Config{
		Env: Env{Enabled: true},
		FS:  FS{Mode: "read", CacheTime: maxCacheTime * time.Second},
		Incoming: Incoming{
			Mode: "mirror", Delivery: Delivery{Protocol: DeliverTLS}, OnConcurrentSteal: Abort, Flush: protocol.FlushIdle, WhileRestarting: 10 * time.Second, WhileStopped: waitStopped,
		},
		Outgoing:  Outgoing{TCP: true, UDP: true},
		DNS:       true,
		Hostname:  true,
		AutoMount: true,
		Agent:     Agent{StartupTimeout: 60 * time.Second},
		UseProxy:  true,
		network:   true,
		skipBuild: true,
	}
}
