package config

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// Load makes the Config of a client's request: the file (else the one that
// MIRRORD_CONFIG_FILE names, else .mirrord/mirrord.json and its like in the
// client's directory, else none), under the client's MIRRORD_ variables, under
// the command line's overrides. key is {{ key }} where the file gives none, "": a
// random one. Its errors are *ide.Error of CodeConfig, or CodeUsage for an override.
func Load(client ide.Client, file, key string, o ide.Overrides) (*Config, error) {
	anything := func(string) error { return nil } // who goes there reads it, too
	c, problems, err := load(client, file, key, nil, o, anything)
	if len(problems) > 0 {
		err = errors.New(problems[0].String())
		if n := len(problems) - 1; n > 0 {
			err = fmt.Errorf("%w (and %d more; `mirrord verify-config %s` lists them)", err, n, problems[0].File)
		}
	}
	if _, ok := errors.AsType[*ide.Error](err); err != nil && !ok {
		err = &ide.Error{Code: ide.CodeConfig, Msg: err.Error(), Err: err}
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Verify lists all that is wrong with a file, or the text in its place, warnings
// included, and tells what it chooses. target tells what is wrong with how the
// file names its target. The error says that the file could not be read at all,
// or that an override makes no sense.
func Verify(p ide.ConfigVerifyParams, target func(string) error) (ide.ConfigVerifyResult, error) {
	c, problems, err := load(p.Client, p.ConfigFile, "", p.Text, p.Overrides, target)
	if _, ok := errors.AsType[*ide.Error](err); err != nil && !ok {
		err = &ide.Error{Code: ide.CodeConfig, Msg: err.Error(), Err: err}
	}
	if err != nil {
		return ide.ConfigVerifyResult{}, err
	}
	problems = append(problems, c.Warnings...)
	inOrder(problems)
	_, path, _ := locate(p.Client, p.ConfigFile)
	r := ide.ConfigVerifyResult{Problems: problems, ConfigFile: path, Target: c.Target, Namespace: c.Namespace, Context: c.Context}
	if c.said {
		r.Incoming = c.Incoming.Mode
	}
	return r, nil
}

// load reads text, or if that is nil the file.
func load(client ide.Client, file, key string, text *string, o ide.Overrides, target func(string) error) (*Config, []ide.Problem, error) {
	name, path, others := locate(client, file)
	if text != nil && name == "" {
		name = defaultFiles[0]
	}
	check := checker{src: &source{name: name}, config: defaults(), given: map[string]given{}, target: target}
	check.config.File = name
	check.config.Key = cmp.Or(key, rand.Text()[:8])
	if len(others) > 0 {
		check.warn(pos{}, "", fmt.Sprintf("%s is used, and not %s: one file is the configuration", name, strings.Join(others, " and ")))
	}
	if text == nil && path != "" {
		raw, err := readFile(path)
		if err != nil {
			return nil, nil, unread(err)
		}
		if err := check.file(raw, client); err != nil {
			return nil, nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if text != nil {
		if err := check.file(*text, client); err != nil {
			check.fail(pos{1, 1}, "", err.Error())
		}
	}
	c := check.config
	c.given = check.given
	c.environment(client.Env)
	if err := c.override(o); err != nil {
		return nil, nil, err
	}
	check.limit()
	c.finish(client)
	inOrder(check.errors)
	inOrder(c.Warnings)
	return c, check.errors, nil
}

// unread is the error of a file that is not there, or not to be read.
func unread(err error) error {
	e := &ide.Error{Code: ide.CodeConfig, Msg: "reading configuration: " + err.Error(), Hint: "name another by --config-file", Err: err}
	if errors.Is(err, fs.ErrNotExist) {
		e.Hint = "`mirrord config default` prints one to begin with"
	}
	return e
}

// file reads the rendered text; key may itself come from the file.
func (c *checker) file(raw string, client ide.Client) error {
	if len(raw) > maxFile {
		return errTooLarge
	}
	raw = strings.TrimPrefix(raw, "\ufeff")
	for range 2 {
		src, err := render(c.src.name, raw, c.config.Key, client)
		if err != nil {
			return c.syntax(err)
		}
		c.src = src
		root, err := parse(src)
		if err != nil {
			return c.syntax(err)
		}
		if key := root.field("key"); key != nil && key.kind == isText && key.text != c.config.Key && key.text != "" {
			c.config.Key = key.text
			continue // once more: other settings may use it
		}
		if root.kind != isTable && root.kind != isNull {
			return c.syntax(&positioned{root.pos, fmt.Sprintf("the configuration is %v, not a table", root)})
		}
		c.apply("", root)
		c.lint()
		return nil
	}
	return c.syntax(&positioned{pos{1, 1}, "key: it may not be made of itself"})
}

// syntax tells err as a problem of its place; others it gives back.
func (c *checker) syntax(err error) error {
	bad, ok := errors.AsType[*positioned](err)
	if !ok {
		return err
	}
	c.fail(bad.pos, "", bad.msg)
	return nil
}

func parse(src *source) (*node, error) {
	switch strings.ToLower(filepath.Ext(src.name)) {
	case ".json":
		return parseJSON(src)
	case ".toml":
		return parseTOML(src)
	case ".yaml", ".yml":
		return parseYAML(src)
	}
	return nil, errors.New("the file's name ends in none of .json, .toml, .yaml, .yml")
}

// environment reads the peer's variables: over the file, under the flags.
func (c *Config) environment(env []string) {
	for name, to := range map[string]*string{
		"MIRRORD_IMPERSONATED_TARGET": &c.Target,
		"MIRRORD_TARGET_NAMESPACE":    &c.Namespace,
	} {
		if value, ok := LookupEnv(env, name); ok && value != "" {
			*to = value
			if to == &c.Target {
				c.given["target"] = given{key: name}
			}
		}
	}
	if value, ok := LookupEnv(env, "MIRRORD_SKIP_PROCESSES"); ok {
		c.skip = split(&node{kind: isText, text: value})
	}
}

// TargetOrigin tells where the target is named: FILE:LINE:COLUMN: KEY, a variable or
// a flag; "" where it is not.
func (c *Config) TargetOrigin() string {
	if g, ok := c.given["target"]; ok && g.value == nil {
		return g.key
	}
	if c.targetAt == (pos{}) {
		return ""
	}
	return fmt.Sprintf("%s:%d:%d: target", c.File, c.targetAt.line, c.targetAt.column)
}

// checkOverrides judges flags.
func checkOverrides(o ide.Overrides) error {
	if o.FSMode != "" && !slices.Contains(fsModes, o.FSMode) {
		return badFlag("--fs-mode: %q is none of local, local-with-overrides, read, write", o.FSMode)
	}
	if o.Agent != "" {
		if err := checkAddress(o.Agent); err != nil {
			return badFlag("--agent: %v", err)
		}
	}
	return nil
}

func badFlag(format string, args ...any) error {
	return &ide.Error{Code: ide.CodeUsage, Msg: fmt.Sprintf(format, args...)}
}

func (c *Config) override(o ide.Overrides) error {
	if err := checkOverrides(o); err != nil {
		return err
	}
	if o.Target != "" {
		c.Target, c.given["target"] = o.Target, given{key: "--target"}
	}
	c.Namespace = cmp.Or(o.Namespace, c.Namespace)
	c.Context = cmp.Or(o.Context, c.Context)
	c.Kubeconfig = cmp.Or(o.Kubeconfig, c.Kubeconfig)
	if o.Steal {
		c.Incoming.Mode, c.said = "steal", true
	}
	if o.FSMode != "" {
		c.FS.Mode, c.given["feature.fs.mode"] = strings.ReplaceAll(o.FSMode, "-", ""), given{key: "--fs-mode"}
	}
	c.Agent.Address = cmp.Or(o.Agent, c.Agent.Address)
	return nil
}

// finish resolves what was read against the client's directory and the defaults.
func (c *Config) finish(client ide.Client) {
	if c.Kubeconfig != "" {
		c.Kubeconfig = absolute(c.Kubeconfig, client)
	}
	if c.Env.File != "" {
		c.Env.File = absolute(c.Env.File, client)
	}
	d := &c.Incoming.Delivery
	for _, path := range []*string{&d.ServerCert, &d.ClientCert, &d.ClientKey} {
		if *path != "" {
			*path = absolute(*path, client)
		}
	}
	for i, path := range d.TrustRoots {
		d.TrustRoots[i] = absolute(path, client)
	}
	c.Places = client.Local
	c.Agent.Image = c.Agent.image(protocol.Build)
	c.withoutTarget()
	c.SkipProcesses = c.skip
	if c.skipBuild {
		c.SkipProcesses = slices.Concat(c.skip, buildTools, c.extraBuild)
		if c.FS.Mode != "write" && len(c.FS.ReadWrite) == 0 {
			c.SkipProcesses = append(c.SkipProcesses, "git") // else it would write here what is meant for the target
		}
	}
	slices.Sort(c.SkipProcesses)
	c.SkipProcesses = slices.Compact(c.SkipProcesses)
}

// buildTools run while a program is built: what they read and connect to is
// the developer's machine's. The list is the peer's, which has git, too.
var buildTools = []string{
	"as", "cc", "ld", "go", "air", "asm", "cc1", "cgo", "dlv", "gcc", "link", "math", "cargo", "hpack", "rustc",
	"compile", "collect2", "cargo-watch", "debugserver", "jspawnhelper", "bazel-real", "clang",
}

// NeedTarget is the error of a session that was given no target.
func (c *Config) NeedTarget() error {
	const hint = "name one with --target, as in --target deployment/web; `mirrord ls` lists them"
	switch {
	case c.Agent.Address != "":
	case c.Target == "":
		return &ide.Error{Code: ide.CodeConfig, Msg: "no target is named", Hint: hint + "; --target " + Targetless + " does without"}
	case c.Target == Targetless && c.Incoming.Mode == "steal":
		return &ide.Error{Code: ide.CodeConfig, Msg: "stealing needs a target, and the target is " + Targetless, Hint: hint}
	case c.Target == Targetless && c.Pause:
		return &ide.Error{Code: ide.CodeConfig, Msg: "feature.pause needs a target, and the target is " + Targetless, Hint: hint}
	}
	return nil
}

// Targetless is the target of a session that has only the cluster's network
// and names: environment, files and host name are the client's own.
const Targetless = "targetless"

// withoutTarget turns off what needs one.
func (c *Config) withoutTarget() {
	if c.Target != Targetless || c.Agent.Address != "" {
		return
	}
	c.Targetless = true
	c.FS = FS{Mode: "local"}
	c.Hostname = false
	c.said = true
	if c.Incoming.Mode == "mirror" { // stealing is NeedTarget's to refuse
		c.Incoming.Mode = "off"
	}
}
