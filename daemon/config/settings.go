package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// settings are all keys of the peer's schema; those whose rows say so, and
// agent.address and agent.idle_timeout, are ours.
var settings = slices.Concat(rootSettings, targetSettings(), featureSettings, networkSettings, filterSettings, tlsSettings, agentSettings, mootSettings)

var rootSettings = []setting{
	{key: "target", takes: text, doc: "What the debuggee stands in for: pod/NAME or deployment/NAME, with /container/NAME where it matters.", set: setTarget},
	{key: "target.namespace", takes: text, doc: "The target's namespace; else the kubeconfig's.",
		field: func(c *Config) any { return &c.Namespace }},
	{key: "kubeconfig", takes: text, doc: "Path of the kubeconfig file.", field: func(c *Config) any { return &c.Kubeconfig }},
	{key: "kube_context", takes: text, doc: "Context of the kubeconfig; else its current one.",
		field: func(c *Config) any { return &c.Context }},
	{key: "accept_invalid_certificates", takes: boolean, doc: "Do not verify the API server's certificate.",
		field: func(c *Config) any { return &c.Insecure }},
	{key: "use_proxy", takes: boolean, doc: "Reach the API server by HTTPS_PROXY where it is set.",
		field: func(c *Config) any { return &c.UseProxy }},
	{key: "skip_processes", takes: texts, doc: "Names of programs that run as if mirrord were not there (text: separated by ;).",
		set: func(c *Config, v *node) error { c.skip = split(v); return nil }},
	{key: "skip_build_tools", takes: boolean, doc: "Treat compilers and their like (go, gcc, cargo, link, dlv, …), as skip_processes, and git where nothing may be written in the target (no fs mode write, no fs.read_write); else true.",
		field: func(c *Config) any { return &c.skipBuild }},
	{key: "skip_extra_build_tools", takes: texts, doc: "More build tools.",
		set: func(c *Config, v *node) error { c.extraBuild = split(v); return nil }},
	{key: "key", takes: text, doc: "The session's key, for {{ key }} in other settings; else its id, which session ls shows.",
		field: func(c *Config) any { return &c.Key }},
	{key: "operator", takes: boolean, why: operator, ours: "false", doc: "Use the peer's operator."},
	{key: "multi_cluster", takes: boolean, why: operator, ours: "false", doc: "Use several clusters."},
	{key: "profile", takes: text, why: operator, doc: "A configuration profile kept in the cluster."},
	{key: "traceparent", takes: text, why: operator, doc: "W3C trace context of requests to the operator."},
	{key: "baggage", takes: text, why: operator, doc: "W3C baggage of requests to the operator."},
}

var featureSettings = []setting{
	{key: "feature.env", takes: boolean, doc: "Give the debuggee the target's environment.",
		field: func(c *Config) any { return &c.Env.Enabled }},
	{key: "feature.env.include", takes: texts, doc: "Only these variables; * and ? are wildcards (text: separated by ;).",
		set: func(c *Config, v *node) error { c.Env.Include = split(v); return nil }},
	{key: "feature.env.exclude", takes: texts, doc: "All but these variables.",
		set: func(c *Config, v *node) error { c.Env.Exclude = split(v); return nil }},
	{key: "feature.env.override", takes: table, doc: "Variables to set, whatever the target says.",
		field: func(c *Config) any { return &c.Env.Override }},
	{key: "feature.env.env_file", takes: text, doc: "A file of NAME=value lines that win over the target's.",
		field: func(c *Config) any { return &c.Env.File }},
	{key: "feature.env.mapping", takes: table, doc: "New values by regular expressions of names; $1 is what they captured.",
		set: func(c *Config, v *node) error { return setPatterns(&c.Env.Mapping, v) }},
	{key: "feature.env.unset", takes: texts, doc: "Variables of your machine to remove, in any case.",
		set: func(c *Config, v *node) error { c.Env.Unset = split(v); return nil }},
	{key: "feature.env.load_from_process", takes: boolean, why: moot, doc: "How the variables come into the debuggee."},

	{key: "feature.fs", takes: boolean | text, enum: fsModes, doc: "The mode, or true for read, false for local.", set: setFS},
	{key: "feature.fs.mode", takes: text, enum: fsModes, doc: "Which files are the target's.", set: setFS},
	{key: "feature.fs.read_write", takes: texts, doc: "Regular expressions of paths to read and write in the target.",
		set: func(c *Config, v *node) error { return setRegexps(&c.FS.ReadWrite, v) }},
	{key: "feature.fs.read_only", takes: texts, doc: "Regular expressions of paths to read in the target.",
		set: func(c *Config, v *node) error { return setRegexps(&c.FS.ReadOnly, v) }},
	{key: "feature.fs.local", takes: texts, doc: "Regular expressions of paths on your machine.",
		set: func(c *Config, v *node) error { return setRegexps(&c.FS.Local, v) }},
	{key: "feature.fs.not_found", takes: texts, doc: "Regular expressions of paths that do not exist.",
		set: func(c *Config, v *node) error { return setRegexps(&c.FS.NotFound, v) }},
	{key: "feature.fs.mapping", takes: table, doc: "Paths to look up instead, by regular expression; those of your machine can be opened and looked at only.",
		set: func(c *Config, v *node) error { return setPatterns(&c.FS.Mapping, v) }},
	{key: "feature.fs.cache_time", takes: seconds,
		doc:   "How many seconds attributes and content of the target's files are kept at most, where no change of them is heard of; 0: each call asks. More than 10 (the default) is as 10.",
		field: func(c *Config) any { return &c.FS.CacheTime }},
	{key: "feature.fs.readonly_file_buffer", takes: integer,
		doc:   "How many bytes of a large file are read ahead of who reads it in order, at most; 0: none. Not given, as many as the network takes.",
		field: func(c *Config) any { return &c.FS.ReadAhead }},

	{key: "feature.hostname", takes: boolean, doc: "Show the debuggee the target's host name.",
		field: func(c *Config) any { return &c.Hostname }},
	{key: "feature.magic.auto_mount", takes: boolean, doc: "Read the target's volume mounts in the target.",
		field: func(c *Config) any { return &c.AutoMount }},
	{key: "feature.magic.aws", takes: boolean, ours: "false", doc: "Hide the AWS profile of your machine."},
	{key: "feature.magic.turbo", takes: boolean, ours: "false", doc: "Keep Next.js' own connections on your machine."},
	{key: "feature.pause", takes: boolean, doc: "Have the target's container stand still while the session lasts.",
		field: func(c *Config) any { return &c.Pause }},
	{key: "feature.copy_target", takes: boolean | anything, why: operator, ours: "false", doc: "Use a fresh copy of the pod."},
	{key: "feature.split_queues", takes: anything, why: operator, doc: "Share message queues."},
	{key: "feature.db_branches", takes: anything, why: operator, doc: "Clone databases for the session."},
	{key: "feature.preview", takes: anything, why: operator, doc: "Preview environments."},
}

// fsModes has both spellings of localwithoverrides: the file's and the flag's.
var fsModes = []string{"local", "localwithoverrides", "local-with-overrides", "read", "write"}

func setFS(c *Config, v *node) error {
	switch v.text {
	case "true":
		c.FS.Mode = "read"
	case "false":
		c.FS.Mode = "local"
	default:
		c.FS.Mode = strings.ReplaceAll(v.text, "-", "")
	}
	return nil
}

// targetKinds are the words of a target that is written as a table.
var targetKinds = []string{"pod", "deployment", "rollout", "job", "cron_job", "stateful_set", "service", "replica_set"}

func targetSettings() []setting {
	list := []setting{
		{key: "target.path", takes: text, doc: "The target, as text or as {\"pod\": NAME, \"container\": NAME}.", set: setTarget},
		{key: "target.path.container", takes: text, doc: "Its container; else the pod's default one.",
			set: func(c *Config, v *node) error { return c.setPath(v, "", "/container/"+v.text) }},
		{key: "target.path.labels", takes: table, doc: "All pods with these labels.", set: setLabels},
		{key: "target.labels", takes: table, doc: "All pods with these labels.", set: setLabels},
	}
	for _, kind := range targetKinds {
		list = append(list, setting{key: "target.path." + kind, takes: text, doc: "Its name.", set: func(c *Config, v *node) error {
			return c.setPath(v, strings.ReplaceAll(kind, "_", "")+"/"+v.text, "")
		}})
	}
	return list
}

func setTarget(c *Config, v *node) error { return c.setPath(v, v.text, "") }

func setLabels(c *Config, v *node) error {
	if len(v.fields) == 0 {
		return errors.New("no label")
	}
	var list []string
	for _, f := range v.fields {
		list = append(list, f.name+"="+f.value.text)
	}
	return c.setPath(v, "label/"+strings.Join(list, ","), "")
}

// setPath takes one part of a target, said by v, which come in any order.
func (c *Config) setPath(v *node, path, container string) error {
	if path != "" && c.Target != "" {
		return errors.New("two targets: name one")
	}
	if path != "" {
		c.targetAt = v.pos
	}
	c.Target += path
	c.container += container
	return nil
}

// split reads a list that may also be written as one text separated by semicolons.
func split(v *node) []string {
	if v.kind == isList {
		return v.texts()
	}
	return slices.DeleteFunc(strings.Split(v.text, ";"), func(s string) bool { return s == "" })
}

func setRegexps(to *[]string, v *node) error {
	items := v.list
	if v.kind == isText {
		items = []*node{v}
	}
	for _, item := range items {
		if _, err := compile(item.text); err != nil {
			return &positioned{item.pos, regexpWords(item.text, err)}
		}
	}
	*to = v.texts()
	return nil
}

func setPatterns(to *[]Replacement, v *node) error {
	*to = nil
	for _, f := range v.fields {
		if _, err := compile(f.name); err != nil {
			return &positioned{f.pos, regexpWords(f.name, err)}
		}
		*to = append(*to, Replacement{f.name, f.value.text})
	}
	return nil
}

func regexpWords(pattern string, err error) string {
	return fmt.Sprintf("%q is no regular expression: %v", shorten(pattern), err)
}
