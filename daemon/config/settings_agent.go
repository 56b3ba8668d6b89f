package config

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net/netip"
	"strconv"
	"strings"

	"mirrord/protocol"
)

var agentSettings = []setting{
	{key: "agent.address", takes: text, doc: "HOST:PORT of an agent that runs already, without Kubernetes.", set: setAddress},
	{key: "agent.namespace", takes: text, doc: "Namespace of the agent's Job; else the target's.",
		field: func(c *Config) any { return &c.Agent.Namespace }},
	{key: "agent.image", takes: text, doc: "The agent's image, as text or as {\"registry\": NAME, \"tag\": TAG}.",
		field: func(c *Config) any { return &c.Agent.Image }},
	{key: "agent.image.registry", takes: text, doc: "The image without its tag.",
		set: func(c *Config, v *node) error { c.Agent.registry = v.text; return nil }},
	{key: "agent.image.tag", takes: text, doc: "The image's tag.",
		set: func(c *Config, v *node) error { c.Agent.tag = v.text; return nil }},
	{key: "agent.image_pull_policy", takes: text, enum: []string{"Always", "IfNotPresent", "Never"}, doc: "When the image is pulled.",
		field: func(c *Config) any { return &c.Agent.ImagePullPolicy }},
	{key: "agent.image_pull_secrets", takes: anything, doc: "Secrets to pull it with: [{\"name\": NAME}].", set: setPullSecrets},
	{key: "agent.log_level", takes: text, doc: "How much the agent logs: error, warn, info (the default) or debug, which tells of each connection.", set: setLogLevel},
	{key: "agent.startup_timeout", takes: seconds, doc: "How long an agent may take to start.",
		field: func(c *Config) any { return &c.Agent.StartupTimeout }},
	{key: "agent.communication_timeout", takes: seconds, doc: "How long an agent keeps what a client has whose link is cut; else 60.",
		field: func(c *Config) any { return &c.Agent.Grace }},
	{key: "agent.idle_timeout", takes: seconds, doc: "How long an agent runs without a client; else 300.",
		field: func(c *Config) any { return &c.Agent.IdleTimeout }},
	{key: "agent.labels", takes: table, doc: "More labels of the agent's pod.", field: func(c *Config) any { return &c.Agent.Labels }},
	{key: "agent.annotations", takes: table, doc: "More annotations of the agent's pod.",
		field: func(c *Config) any { return &c.Agent.Annotations }},
	{key: "agent.service_account", takes: text, doc: "Service account of the agent's pod.",
		field: func(c *Config) any { return &c.Agent.ServiceAccount }},
	{key: "agent.priority_class", takes: text, doc: "Priority class of the agent's pod.",
		field: func(c *Config) any { return &c.Agent.PriorityClass }},
	{key: "agent.tolerations", takes: anything, doc: "Tolerations of the agent's pod, as in its spec.",
		set: func(c *Config, v *node) error { return setRaw(&c.Agent.Tolerations, v, isList) }},
	{key: "agent.resources", takes: anything, doc: "Requests and limits of the agent's container, as in its spec.",
		set: func(c *Config, v *node) error { return setRaw(&c.Agent.Resources, v, isTable) }},
	{key: "agent.privileged", takes: boolean, doc: "Run the agent privileged.", field: func(c *Config) any { return &c.Agent.Privileged }},
	{key: "agent.disabled_capabilities", takes: texts, doc: "Capabilities that the agent does without.",
		field: func(c *Config) any { return &c.Agent.DisabledCapabilities }},
	{key: "agent.disable_mesh_sidecar_injection", takes: boolean, doc: "Keep a mesh's sidecar out of the agent's pod.",
		set: func(c *Config, v *node) error { c.Agent.MeshInjection = v.text == "false"; return nil }},
	{key: "agent.ttl", takes: seconds, doc: "How long the agent's Job stays after its end.", field: func(c *Config) any { return &c.Agent.TTL }},

	{key: "agent.flush_connections", takes: boolean | text, enum: []string{"idle", "all", "off"},
		doc: "Which connections to the pod are cut that a port had before it was stolen: idle (or true), when they are; all; off (or false).",
		set: setFlush},

	{key: "agent.ephemeral", takes: boolean, ours: "false", doc: "Run as an ephemeral container of the target."},
	{key: "agent.node_selector", takes: table, doc: "Nodes for an agent without a target.",
		field: func(c *Config) any { return &c.Agent.NodeSelector }},
	{key: "agent.check_out_of_pods", takes: boolean, why: moot, doc: "Check the node's capacity first."},
	{key: "agent.security_context", takes: anything, doc: "Seccomp and AppArmor profiles of the agent."},
	{key: "agent.exclude_from_mesh", takes: boolean, ours: "false", doc: "Keep the agent's port out of a mesh."},
	{key: "agent.metrics", takes: text, doc: "IP:PORT in the agent's pod where it serves metrics for Prometheus (at /metrics). As the session says that starts the agent.",
		set: setMetrics},
	{key: "agent.dns.timeout", takes: integer, why: moot, doc: "Timeout of a name's lookup."},
	{key: "agent.dns.attempts", takes: integer, why: moot, doc: "Tries of a name's lookup."},
	{key: "agent.inject_headers", takes: boolean, ours: "false", doc: "Mark responses."},
	{key: "agent.override_cache_control", takes: boolean, ours: "false", doc: "Forbid caching of responses."},
	{key: "agent.max_body_buffer_size", takes: integer, ours: "65536", doc: "Bytes of a body that filters see."},
	{key: "agent.max_body_buffer_timeout", takes: integer, ours: "1000", doc: "Milliseconds that filters wait for a body."},
	{key: "agent.jaq_time_limit", takes: integer, doc: "How long a jq filter may run."},
	{key: "agent.http_detection_timeout", takes: integer, doc: "Seconds to tell HTTP from other protocols."},
	{key: "agent.json_log", takes: boolean, why: moot, doc: "Log as JSON."},
	// The peer's ways of redirecting; ours are chosen by trying, and their rules die with the agent.
	{key: "agent.nftables", takes: boolean, why: moot, doc: "Use nftables."},
	{key: "agent.external_ip_fix", takes: boolean, why: moot, doc: "How unmatched traffic goes on."},
	{key: "agent.clean_iptables_on_start", takes: boolean, why: moot, doc: "Remove rules left over."},
}

// mootSettings are about parts of the peer that mirrord has not: proxies,
// containers, macOS, its web page, its telemetry. $schema is the editor's.
var mootSettings = []setting{
	{key: "$schema", takes: text, why: moot, doc: "The schema of this file, for editors."},
	{key: "telemetry", takes: boolean, why: moot, doc: "mirrord sends none."},
	{key: "api", takes: boolean, why: moot, doc: "The peer's monitor."},
	{key: "sip_binaries", takes: texts, why: moot, doc: "For macOS."},
	{key: "skip_sip", takes: texts, why: moot, doc: "For macOS."},
	{key: "startup_retry", takes: anything, why: moot, doc: "Tries of requests to the cluster."},
	{key: "ci", takes: anything, why: moot, doc: "The peer's command ci."},
	{key: "internal_proxy", takes: anything, why: moot, doc: "A process that mirrord has not."},
	{key: "external_proxy", takes: anything, why: moot, doc: "A process that mirrord has not."},
	{key: "container", takes: anything, why: moot, doc: "The peer's command container."},
	{key: "experimental", takes: anything, why: moot, doc: "The peer's experiments."},
}

func setAddress(c *Config, v *node) error {
	if err := checkAddress(v.text); err != nil {
		return err
	}
	c.Agent.Address = v.text
	return nil
}

// setLogLevel also takes the peer's words for its own parts, as in "warn,mirrord=trace".
func setLogLevel(c *Config, v *node) error {
	word := strings.ToLower(v.text[strings.LastIndexAny(v.text, ",=")+1:])
	switch word {
	case "trace":
		word = "debug"
	case "off":
		word = "error"
	case "error", "warn", "info", "debug":
	default:
		return fmt.Errorf("%q is none of off, error, warn, info, debug, trace", word)
	}
	c.Agent.LogLevel = word
	return nil
}

func setMetrics(c *Config, v *node) error {
	if _, err := netip.ParseAddrPort(v.text); err != nil {
		return fmt.Errorf("%q is not IP:PORT, as in 0.0.0.0:9000", v.text)
	}
	c.Agent.Metrics = v.text
	return nil
}

func setFlush(c *Config, v *node) error {
	switch v.text {
	case "true":
		c.Incoming.Flush = protocol.FlushIdle
	case "false", "off":
		c.Incoming.Flush = protocol.FlushOff
	default:
		c.Incoming.Flush = v.text
	}
	return nil
}

// checkAddress judges HOST:PORT.
func checkAddress(s string) error {
	i := strings.LastIndexByte(s, ':')
	port, err := strconv.ParseUint(s[i+1:], 10, 16)
	if i < 1 || err != nil || port == 0 {
		return fmt.Errorf("%q is not HOST:PORT", s)
	}
	if host := s[:i]; strings.ContainsAny(host, ":[]") {
		if _, err := netip.ParseAddrPort(s); err != nil {
			return fmt.Errorf("%q is not HOST:PORT", s)
		}
	}
	return nil
}

func setPullSecrets(c *Config, v *node) error {
	c.Agent.ImagePullSecrets = nil
	for _, item := range v.list {
		name := item.field("name")
		if name == nil || name.kind != isText {
			return &positioned{item.pos, `an entry is {"name": NAME}`}
		}
		c.Agent.ImagePullSecrets = append(c.Agent.ImagePullSecrets, name.text)
	}
	if v.kind != isList {
		return fmt.Errorf("%v is not a list", v)
	}
	return nil
}

// setRaw keeps a part of a Kubernetes object as JSON.
func setRaw(to *json.RawMessage, v *node, want kind) error {
	if v.kind != want {
		return fmt.Errorf("%v is not what a pod's spec has there", v)
	}
	raw, err := json.Marshal(v.value())
	*to = raw
	return err
}

// image is what registry and tag together name.
func (a *Agent) image(build string) string {
	if a.registry == "" && a.tag == "" {
		return a.Image
	}
	return cmp.Or(a.registry, "mirrord-agent") + ":" + cmp.Or(a.tag, build)
}
