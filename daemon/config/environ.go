package config

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"mirrord/protocol/ide"
)

// withheld are the target's variables that are of no use, or of harm, to a
// process on another machine. The list is the peer's.
var withheld = []string{
	"PATH", "HOME", "HOMEPATH", "PWD", "CLASSPATH", "JAVA_HOME", "JAVA_EXE", "JAVA_TOOL_OPTIONS", "_JAVA_OPTIONS",
	"PYTHONPATH", "GOPATH", "GOMODCACHE", "GEM_*", "BUNDLE*", "BUNDLER*", "RUBYLIB", "RUBYOPT", "CATALINA_HOME",
	"DOTNET_EnableDiagnostics", "DOTNET_STARTUP_HOOKS", "RUST_LOG", "MIRRORD_LOG",
}

// Environ says how the debuggee's environment differs from the client's: what
// to set over it, and which names to remove. remote is the target's, as
// NAME=value. Later wins: remote, env_file, mapping, override.
func (c *Config) Environ(remote []string, client ide.Client) (set map[string]string, unset []string, err error) {
	set = map[string]string{}
	for _, name := range names(client.Env) {
		if slices.ContainsFunc(c.Env.Unset, func(u string) bool { return strings.EqualFold(u, name) }) {
			unset = append(unset, name)
		}
	}
	if !c.Env.Enabled {
		return set, unset, nil
	}
	for _, pair := range remote {
		name, value, ok := strings.Cut(pair, "=")
		if ok && name != "" && !matches(withheld, name) && c.Env.wants(name) {
			set[name] = value
		}
	}
	if c.Env.File != "" {
		file, err := readDotenv(c.Env.File)
		if err != nil {
			return nil, nil, err
		}
		maps.Copy(set, file)
	}
	if err := c.Env.replace(set); err != nil {
		return nil, nil, err
	}
	maps.Copy(set, c.Env.Override)
	// What is set wins: unset is about the client's own variables.
	unset = slices.DeleteFunc(unset, func(name string) bool { _, ok := set[name]; return ok })
	return set, unset, nil
}

func (e *Env) wants(name string) bool {
	if len(e.Include) > 0 {
		return matches(e.Include, name)
	}
	return !matches(e.Exclude, name)
}

// replace gives each variable whose name a mapping matches that mapping's value.
func (e *Env) replace(set map[string]string) error {
	for _, m := range e.Mapping {
		re, err := compile(m.Pattern)
		if err != nil {
			return err
		}
		for name := range set {
			value, ok, err := expand(re, name, m.Value)
			if err != nil {
				return fmt.Errorf("matching %s with %q: %w", name, m.Pattern, err)
			}
			if ok {
				set[name] = value
			}
		}
	}
	return nil
}

// literal takes the meaning away from what path.Match knows beside * and ?. One
// is made for all: it builds a table when it is first used.
var literal = strings.NewReplacer(`\`, `\\`, `[`, `\[`)

// matches reports whether name is one of patterns, whose * and ? are wildcards.
func matches(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool {
		if !strings.ContainsAny(p, "*?") { // most, and each variable is held against each
			return p == name
		}
		ok, err := path.Match(literal.Replace(p), name)
		return ok && err == nil
	})
}

func names(env []string) []string {
	list := make([]string, 0, len(env))
	for _, pair := range env {
		if name, _, ok := strings.Cut(pair, "="); ok && name != "" {
			list = append(list, name)
		}
	}
	return list
}
