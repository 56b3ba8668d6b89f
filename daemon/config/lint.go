package config

import (
	"fmt"
	"net/netip"
	"strings"
)

const (
	incomingKey = "feature.network.incoming"
	filterKey   = incomingKey + ".http_filter"
)

// lint checks what only several settings together get wrong.
func (c *checker) lint() {
	c.exclusive("feature.env.include", "feature.env.exclude")
	c.exclusive(incomingKey+".ports", incomingKey+".ignore_ports")
	c.lintFilter()
	c.lintPairs(incomingKey+".port_mapping", "maps a port to itself: it can be left out")
	c.lintPairs(incomingKey+".listen_ports", "")
	c.lintRemote()
	if g, ok := c.given["target.path.container"]; ok && c.config.Target == "" {
		c.fail(g.at, "target.path.container", "of what? name a pod or a workload beside it")
	}
	c.config.Target += c.config.container
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
