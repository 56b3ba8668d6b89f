package config

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

var incomingModes = []string{"mirror", "steal", "off"}

var networkSettings = []setting{
	{key: "feature.network", takes: boolean, doc: "false: everything below is off.", field: func(c *Config) any { return &c.network }},
	{key: "feature.network.incoming", takes: boolean | text, enum: incomingModes,
		doc: "The mode, or true for mirror, false for off.", set: setIncoming},
	{key: "feature.network.incoming.mode", takes: text, enum: incomingModes,
		doc: "What happens to connections to the target's ports.", set: setIncoming},
	{key: "feature.network.incoming.ports", takes: ports, doc: "Only these ports are taken.",
		field: func(c *Config) any { return &c.Incoming.Ports }},
	{key: "feature.network.incoming.ignore_ports", takes: ports, doc: "All listened ports but these are taken.",
		field: func(c *Config) any { return &c.Incoming.IgnorePorts }},
	{key: "feature.network.incoming.while_restarting", takes: seconds,
		doc:   "How long connections wait for a debuggee that is being restarted; 0: they go to the pod; else 10.",
		field: func(c *Config) any { return &c.Incoming.WhileRestarting }},
	{key: "feature.network.incoming.while_stopped", takes: seconds | text, enum: []string{"wait", "pass"},
		doc: "While the debuggee stands at a breakpoint, connections wait for so long, or for wait (3600), and then go to the pod; pass (0): at once.",
		set: setWhileStopped},
	{key: "feature.network.incoming.once", takes: boolean,
		doc:   "Steal a single request, or without a filter connection, and after it one for each `mirrord session arm`.",
		field: func(c *Config) any { return &c.Incoming.Once }},
	{key: "feature.network.incoming.port_mapping", takes: pairs,
		doc: "Pairs of a port that the debuggee listens on and the target's port that is taken for it.",
		set: func(c *Config, v *node) error { return setPairs(&c.Incoming.PortMapping, v) }},
	{key: "feature.network.incoming.listen_ports", takes: pairs,
		doc: "Pairs of a port that the debuggee listens on and the port of your machine that it has then.",
		set: func(c *Config, v *node) error { return setPairs(&c.Incoming.ListenPorts, v) }},
	{key: "feature.network.incoming.ignore_localhost", takes: boolean, doc: "Take no port for listeners on loopback.",
		field: func(c *Config) any { return &c.Incoming.IgnoreLocalhost }},
	{key: "feature.network.incoming.steal_probes", takes: boolean,
		doc:   "mirrord's own: kubelet's probes of a stolen port are the debuggee's, as other requests; else they are the pod's.",
		field: func(c *Config) any { return &c.Incoming.StealProbes }},
	{key: "feature.network.incoming.host_network", takes: boolean, doc: "mirrord's own: steal also from a pod that is in its node's network, where a port is stolen at all addresses of the node.",
		field: func(c *Config) any { return &c.Incoming.HostNetwork }},
	{key: "feature.network.incoming.on_concurrent_steal", takes: text, enum: []string{Abort, Override, Continue},
		doc:   "What to do where another steals the port: abort, the debuggee cannot listen; override, the other loses it; continue, the debuggee listens without it.",
		field: func(c *Config) any { return &c.Incoming.OnConcurrentSteal }},

	{key: "feature.network.outgoing", takes: boolean, doc: "Connect from the target.", set: func(c *Config, v *node) error {
		c.Outgoing.TCP, c.Outgoing.UDP = v.text == "true", v.text == "true"
		return nil
	}},
	{key: "feature.network.outgoing.tcp", takes: boolean, doc: "TCP connections come from the target.",
		field: func(c *Config) any { return &c.Outgoing.TCP }},
	{key: "feature.network.outgoing.udp", takes: boolean, doc: "UDP datagrams come from the target.",
		field: func(c *Config) any { return &c.Outgoing.UDP }},
	{key: "feature.network.outgoing.ignore_localhost", takes: boolean, ours: "true", doc: "Loopback is your machine's."},
	{key: "feature.network.outgoing.filter.local", takes: texts, doc: "[tcp://|udp://][NAME|IP|CIDR][:PORT] that your machine connects to.",
		set: func(c *Config, v *node) error { return setFilter(&c.Outgoing.Local, v) }},
	{key: "feature.network.outgoing.filter.remote", takes: texts, doc: "Only these are connected to from the target."},
	{key: "feature.network.outgoing.unix_streams", takes: texts, doc: "Unix sockets to connect to in the target."},
	{key: "feature.network.dns", takes: boolean, doc: "Look names up in the target.", field: func(c *Config) any { return &c.DNS }},
	{key: "feature.network.dns.enabled", takes: boolean, doc: "Look names up in the target.", field: func(c *Config) any { return &c.DNS }},
	{key: "feature.network.dns.filter.local", takes: texts, doc: "Names that your machine looks up."},
	{key: "feature.network.dns.filter.remote", takes: texts, doc: "Only these names are looked up in the target."},
	{key: "feature.network.ipv6", takes: boolean, ours: "true", doc: "Let the debuggee use IPv6."},
}

func setIncoming(c *Config, v *node) error {
	c.said = true
	switch v.text {
	case "true":
		c.Incoming.Mode = "mirror"
	case "false":
		c.Incoming.Mode = "off"
	default:
		c.Incoming.Mode = v.text
	}
	return nil
}

// waitStopped is how long a connection waits if nothing is said.
const waitStopped = time.Hour

func setWhileStopped(c *Config, v *node) error {
	switch v.text {
	case "wait":
		c.Incoming.WhileStopped = waitStopped
	case "pass":
		c.Incoming.WhileStopped = 0
	default:
		n, _ := strconv.Atoi(v.text) // check passed it
		c.Incoming.WhileStopped = time.Duration(n) * time.Second
	}
	return nil
}

func setFilter(to *[]string, v *node) error {
	items := v.list
	if v.kind == isText {
		items = []*node{v}
	}
	for _, item := range items {
		if err := checkFilter(item.text); err != nil {
			return &positioned{item.pos, fmt.Sprintf("%v: %v", item, err)}
		}
	}
	*to = v.texts()
	return nil
}

// checkFilter judges [tcp://|udp://][NAME|IP|CIDR][:PORT].
func checkFilter(s string) error {
	if proto, rest, ok := strings.Cut(s, "://"); ok {
		if proto != "tcp" && proto != "udp" {
			return fmt.Errorf("%q is none of tcp, udp", proto)
		}
		s = rest
	}
	if s == "" {
		return errors.New("it is empty")
	}
	host, port := splitPort(s)
	if port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n > 65535 {
			return fmt.Errorf("%q is not a port", port)
		}
	}
	if strings.Contains(host, "/") {
		if _, err := netip.ParsePrefix(strings.Trim(host, "[]")); err != nil {
			return fmt.Errorf("%q is not an address range such as 10.0.0.0/8", host)
		}
	}
	return nil
}

// splitPort cuts :PORT off a filter; an IPv6 address has its own colons.
func splitPort(s string) (host, port string) {
	if i := strings.LastIndexByte(s, ':'); i >= 0 && (strings.Count(s, ":") == 1 || i > 0 && s[i-1] == ']') {
		return s[:i], s[i+1:]
	}
	return s, ""
}

// tlsSettings are those of TLS: tls, which the peer has in its operator's
// configuration instead, and tls_delivery, also by its old name.
var tlsSettings = append([]setting{
	{key: tlsKey + ".cert", takes: text, doc: "mirrord's own: the pod's certificate (PEM), a path in the target's container. With http_filter and mode steal, TLS that is answered with it is opened for the filter; read again when the pod has a new one.",
		field: func(c *Config) any { return &c.Incoming.TLS.Cert }},
	{key: tlsKey + ".key", takes: text, doc: "mirrord's own: the key of tls.cert (PEM), a path in the target's container.",
		field: func(c *Config) any { return &c.Incoming.TLS.Key }},
	{key: tlsKey + ".secret", takes: text, doc: "mirrord's own, instead of tls.cert and tls.key: a Secret of the target's namespace with tls.crt and tls.key, which is read when the session starts.",
		field: func(c *Config) any { return &c.Incoming.TLS.Secret }},
}, slices.Concat(deliverySettings(deliveryKey, ""), deliverySettings(incomingKey+".https_delivery", "Old name of tls_delivery. "))...)

func deliverySettings(key, old string) []setting {
	return []setting{
		{key: key + ".protocol", takes: text, enum: []string{DeliverTLS, DeliverTCP}, doc: old + "How what was opened is delivered to the debuggee: tls, as TLS again; tcp, without.",
			field: func(c *Config) any { return &c.Incoming.Delivery.Protocol }},
		{key: key + ".trust_roots", takes: texts, doc: old + "Files of certificates (PEM), or directories of such, that the debuggee's certificate is checked by; else any will do.",
			field: func(c *Config) any { return &c.Incoming.Delivery.TrustRoots }},
		{key: key + ".server_name", takes: text, doc: old + "The name that the debuggee is asked for; else that of server_cert, of the client, or localhost.",
			field: func(c *Config) any { return &c.Incoming.Delivery.ServerName }},
		{key: key + ".server_cert", takes: text, doc: old + "The debuggee's own certificate (PEM): no other will do.",
			field: func(c *Config) any { return &c.Incoming.Delivery.ServerCert }},
		{key: key + ".client_cert", takes: text, doc: old + "A certificate (PEM) to show to a debuggee that wants one.",
			field: func(c *Config) any { return &c.Incoming.Delivery.ClientCert }},
		{key: key + ".client_key", takes: text, doc: old + "The key of client_cert (PEM).",
			field: func(c *Config) any { return &c.Incoming.Delivery.ClientKey }},
	}
}

// OpensTLS tells whether TLS is opened: of what is stolen by a filter.
func (in *Incoming) OpensTLS() bool {
	return in.Mode == "steal" && in.Filter != nil && (in.TLS.Cert != "" || in.TLS.Secret != "")
}
