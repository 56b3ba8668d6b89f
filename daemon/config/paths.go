package config

import (
	"fmt"
	"path"
	"strings"
	"time"

	"mirrord/layer/policy"
)

// maxCacheTime is how long the agent's leases last at most.
const maxCacheTime = 10

// lintPaths warns of patterns that have no say, and of more time than there is.
func (c *checker) lintPaths() {
	if g, ok := c.given["feature.fs.cache_time"]; ok && c.config.FS.CacheTime > maxCacheTime*time.Second {
		c.warn(g.at, g.key, fmt.Sprintf("%v is more than %d seconds, which is how long the agent's word holds: it is as %[2]d", g.value, maxCacheTime))
	}
	for _, key := range []string{"feature.fs.not_found", "feature.fs.read_write", "feature.fs.read_only"} {
		g, ok := c.given[key]
		if !ok || g.value == nil {
			continue
		}
		for _, item := range append([]*node{g.value}, g.value.list...) {
			if at, ok := literalPath(item.text); item.kind == isText && ok && policy.Kernels(at) {
				c.warn(item.pos, key, fmt.Sprintf("%v has no effect: %s is this machine's, whatever the patterns say", item, at))
			}
		}
	}
}

// literalPath is the path that all begin with which a pattern matches, if it says.
func literalPath(pattern string) (string, bool) {
	text, ok := strings.CutPrefix(pattern, "^")
	if !ok || strings.Contains(text, "|") && !strings.Contains(text, "(") { // else what is between | is in a group
		return "", false
	}
	if i := strings.IndexAny(text, `\.+*?()[]{}|$`); i >= 0 {
		if strings.IndexByte("*?{", text[i]) >= 0 { // the character before may not be there
			i--
		}
		text = text[:max(i, 0)]
	}
	return path.Clean(text), strings.HasPrefix(text, "/")
}
