package config

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"mirrord/protocol/ide"
)

const (
	incomingKey = "feature.network.incoming"
	filterKey   = incomingKey + ".http_filter"
	tlsKey      = incomingKey + ".tls"
	deliveryKey = incomingKey + ".tls_delivery"
)

// lint checks what only several settings together get wrong.
func (c *checker) lint() {
	c.exclusive("feature.env.include", "feature.env.exclude")
	c.exclusive(incomingKey+".ports", incomingKey+".ignore_ports")
	c.lintFilter()
	c.lintTLS()
	c.lintPairs(incomingKey+".port_mapping", "maps a port to itself: it can be left out")
	c.lintPairs(incomingKey+".listen_ports", "")
	c.lintRemote()
	c.lintPaths()
	c.lintTarget()
}

// lintTarget: a container is one of something, and the whole can be read.
func (c *checker) lintTarget() {
	if c.config.Target == "" {
		if g, ok := c.given["target.path.container"]; ok {
			c.fail(g.at, "target.path.container", "of what? name a pod or a workload beside it")
		}
		return
	}
	c.config.Target += c.config.container
	if err := c.target(c.config.Target); err != nil {
		c.fail(c.config.targetAt, "target", err.Error())
	}
}

// exclusive: only one of keys may be given.
func (c *checker) exclusive(keys ...string) {
	first := ""
	for _, key := range keys {
		g, ok := c.given[key]
		switch {
		case ok && first == "":
			first = key
		case ok:
			c.fail(g.at, key, "excludes "+first+": give only one of them")
		}
	}
}

func (c *checker) lintFilter() {
	for _, key := range filterKinds() {
		if g, ok := c.given[key]; ok && g.value.kind == isText && g.value.text == "" {
			c.fail(g.at, key, "an empty filter matches nothing: leave it out")
		}
	}
	c.exclusive(filterKinds()...)
}

// lintTLS: a certificate has its key, and comes from one place.
func (c *checker) lintTLS() {
	c.exclusive(tlsKey+".cert", tlsKey+".secret")
	c.exclusive(tlsKey+".key", tlsKey+".secret")
	c.together(tlsKey+".cert", tlsKey+".key")
	for _, key := range []string{deliveryKey, incomingKey + ".https_delivery"} {
		c.exclusive(key+".trust_roots", key+".server_cert")
		c.together(key+".client_cert", key+".client_key")
		if g, ok := c.given[key+".trust_roots"]; ok && g.value.kind == isList && len(g.value.list) == 0 {
			c.fail(g.at, g.key, "an empty list trusts nobody: leave it out")
		}
	}
	for _, key := range []string{tlsKey + ".cert", tlsKey + ".key"} {
		if g, ok := c.given[key]; ok && g.value.kind == isText && !strings.HasPrefix(g.value.text, "/") {
			c.fail(g.at, key, fmt.Sprintf("%v is no absolute path in the target's container", g.value))
		}
	}
}

// together: two keys are given both, or none.
func (c *checker) together(one, other string) {
	first, a := c.given[one]
	second, b := c.given[other]
	switch {
	case a && !b:
		c.fail(first.at, one, "needs "+other)
	case b && !a:
		c.fail(second.at, other, "needs "+one)
	}
}

// filterKinds are the keys of filters.
func filterKinds() []string {
	var keys []string
	for _, s := range filterSettings {
		if s.takes&ports == 0 {
			keys = append(keys, s.key)
		}
	}
	return keys
}

// lintPairs: a list of pairs maps each port once.
func (c *checker) lintPairs(key, identity string) {
	g, ok := c.given[key]
	if !ok || g.value.kind != isList {
		return
	}
	var seen [2]map[string]bool
	seen[0], seen[1] = map[string]bool{}, map[string]bool{}
	for _, pair := range g.value.list {
		if len(pair.list) != 2 {
			return // told already
		}
		for side, port := range pair.list {
			if seen[side][port.text] {
				c.fail(port.pos, key, fmt.Sprintf("port %s is mapped twice", port.text))
			}
			seen[side][port.text] = true
		}
		if identity != "" && pair.list[0].text == pair.list[1].text {
			c.warn(pair.pos, key, fmt.Sprintf("%s %s", pair.list[0].text, identity))
		}
	}
}

// lintRemote: a name that is looked up on this machine cannot be told from
// others by an address of the cluster.
func (c *checker) lintRemote() {
	key := "feature.network.outgoing.filter.remote"
	g, ok := c.given[key]
	if !ok {
		return
	}
	for _, item := range append([]*node{g.value}, g.value.list...) {
		if item.kind != isText {
			continue
		}
		if err := checkFilter(item.text); err != nil {
			c.fail(item.pos, key, fmt.Sprintf("%v: %v", item, err))
		} else if isName(item.text) && !c.config.DNS {
			c.warn(item.pos, key, fmt.Sprintf("%v is a name, and feature.network.dns is off", item))
		}
	}
}

// isName reports whether an outgoing filter is about a host name.
func isName(filter string) bool {
	if _, rest, ok := strings.Cut(filter, "://"); ok {
		filter = rest
	}
	host, _ := splitPort(filter)
	_, err := netip.ParseAddr(strings.Trim(host, "[]"))
	return host != "" && err != nil && !strings.Contains(host, "/")
}

// limit takes back what this version cannot do as asked, and says so; never
// does it do more to others than was asked.
func (c *checker) limit() {
	cfg := c.config
	if !cfg.network {
		cfg.said = true
		cfg.Incoming.Mode, cfg.Outgoing.TCP, cfg.Outgoing.UDP, cfg.DNS = "off", false, false, false
	}
	if cfg.Incoming.Mode == "mirror" && cfg.Incoming.Once {
		at, key := c.where(incomingKey + ".once")
		c.warn(at, key, "only of what is stolen: all is mirrored")
	}
	wrong := slices.ContainsFunc(c.errors, func(p ide.Problem) bool { return strings.HasPrefix(p.Key, filterKey) })
	if g, ok := c.given[filterKey]; ok && !wrong && g.value.kind == isTable && cfg.Incoming.Filter == nil && cfg.Incoming.Mode != "off" {
		c.warn(g.at, filterKey, "it names no filter: it is everybody's requests that the debuggee gets")
	}
	if in := &cfg.Incoming; in.TLS != (TLS{}) && !in.OpensTLS() {
		at, key := c.where(tlsKey+".cert", tlsKey+".key", tlsKey+".secret")
		c.warn(at, key, "TLS is opened only for an http_filter of what is stolen: it has no effect")
	}
	if f := cfg.Incoming.Filter; cfg.Incoming.Mode == "mirror" && f != nil && f.ServerName != "" {
		at, key := c.where(filterKey + ".server_name_filter")
		c.warn(at, key, "a copy of TLS is of no use to anybody: nothing is mirrored")
	}
}

// where is the place of the first of keys that the file gives.
func (c *checker) where(keys ...string) (pos, string) {
	for _, key := range keys {
		if g, ok := c.given[key]; ok && (g.value == nil || g.value.kind != isTable) {
			return g.at, g.key
		}
	}
	return pos{}, ""
}
