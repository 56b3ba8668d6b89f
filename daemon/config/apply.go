package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"mirrord/protocol/ide"
)

// A checker holds a file's tree against the settings and fills in a Config.
type checker struct {
	src    *source
	config *Config
	errors []ide.Problem
	given  map[string]given // keys of the file
	target func(path string) error
}

type given struct {
	key   string // or the flag or variable that said it
	at    pos    // zero: one of these
	value *node  // nil: one of these
}

// apply reads a table whose keys start with prefix.
func (c *checker) apply(prefix string, n *node) {
	for _, f := range n.fields {
		key := prefix + f.name
		s, inner := find(key), hasFields(key)
		switch {
		case s == nil && !inner:
			c.unknown(prefix, f)
			continue
		case f.value.kind == isNull: // as if not given
			continue
		}
		c.given[key] = given{key, f.value.pos, f.value}
		if inner && f.value.kind == isTable && (s == nil || s.takes&(table|anything) == 0) {
			c.apply(key+".", f.value)
			continue
		}
		if s == nil {
			c.fail(f.value.pos, key, fmt.Sprintf("%v is not a table", f.value))
			continue
		}
		c.value(s, f)
	}
}

func (c *checker) value(s *setting, f field) {
	err := s.check(f.value)
	switch {
	case err == nil && s.served():
		err = s.store(c.config, f.value)
	case err == nil:
		c.unserved(s, f)
	}
	if bad, ok := errors.AsType[*positioned](err); ok {
		c.fail(bad.pos, s.key, bad.msg)
	} else if err != nil {
		c.fail(f.value.pos, s.key, err.Error())
	}
}

// unserved warns of a setting that has no effect, where that makes a difference.
func (c *checker) unserved(s *setting, f field) {
	empty := f.value.kind != isBool && f.value.kind != isNumber && f.value.text == "" &&
		len(f.value.list) == 0 && len(f.value.fields) == 0
	if s.why == moot || empty || s.ours != "" && f.value.text == s.ours {
		return
	}
	msg := "not served by this version: it has no effect"
	if s.why == operator {
		msg = "this needs the paid operator of another product: it has no effect"
	}
	c.warn(f.pos, s.key, msg)
}

func (c *checker) unknown(prefix string, f field) {
	msg := "unknown key"
	if n := near(f.name, siblings(prefix)); n != "" {
		msg += fmt.Sprintf(", did you mean %q?", prefix+n)
	}
	c.fail(f.pos, prefix+f.name, msg)
}

func (c *checker) fail(at pos, key, msg string) {
	c.errors = append(c.errors, c.problem(at, key, msg))
}

func (c *checker) warn(at pos, key, msg string) {
	p := c.problem(at, key, msg)
	p.Warning = true
	c.config.Warnings = append(c.config.Warnings, p)
}

func (c *checker) problem(at pos, key, msg string) ide.Problem {
	return ide.Problem{File: c.src.name, Line: at.line, Column: at.column, Key: key, Message: msg}
}

// inOrder sorts problems by their place.
func inOrder(list []ide.Problem) {
	slices.SortStableFunc(list, func(a, b ide.Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

func find(key string) *setting {
	i := slices.IndexFunc(settings, func(s setting) bool { return s.key == key })
	if i < 0 {
		return nil
	}
	return &settings[i]
}

func hasFields(key string) bool {
	return slices.ContainsFunc(settings, func(s setting) bool { return strings.HasPrefix(s.key, key+".") })
}

// siblings are the keys right below prefix.
func siblings(prefix string) []string {
	var list []string
	for _, s := range settings {
		if rest, ok := strings.CutPrefix(s.key, prefix); ok {
			name, _, _ := strings.Cut(rest, ".")
			list = append(list, name)
		}
	}
	slices.Sort(list)
	return slices.Compact(list)
}
