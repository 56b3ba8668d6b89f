package config

import (
	"fmt"
	"strings"
)

// Origin tells where a setting was said, FILE:LINE:COLUMN or a flag, and by which
// key: what stands for a whole table, as feature.network: false, stands for all
// below it. Of a setting of patterns it is the place of the one that is meant.
// Where nothing was said at is "".
func (c *Config) Origin(setting, pattern string) (at, key string) {
	keys := []string{setting, setting + ".enabled"} // the same by two names
	for up := setting; strings.Contains(up, "."); {
		up = up[:strings.LastIndexByte(up, '.')]
		keys = append(keys, up)
	}
	for _, key := range keys {
		if at, ok := c.place(key, pattern); ok {
			return at, key
		}
	}
	return "", setting
}

func (c *Config) place(key, pattern string) (at string, ok bool) {
	g, ok := c.given[key]
	switch {
	case !ok || g.value != nil && g.value.kind == isTable && pattern == "":
		return "", false
	case g.value == nil:
		return g.key, true
	}
	where := g.at
	for _, item := range g.value.list {
		if item.text == pattern {
			where = item.pos
		}
	}
	for _, f := range g.value.fields {
		if f.name == pattern {
			where = f.pos
		}
	}
	return fmt.Sprintf("%s:%d:%d", c.File, where.line, where.column), true
}
