package config

import (
	"fmt"
	"path/filepath"
	"regexp"
	"strings"

	"mirrord/protocol/ide"
)

// Templates: the peer renders the file with a whole template language; served
// are the three expressions its documentation uses. Others are refused by name.
//
//	{{ get_env(name="X", default="y") }}   {{ key }}   {{ git_branch }}
var (
	expression = regexp.MustCompile(`\{\{(.*?)\}\}|\{%.*?%\}`)
	getEnv     = regexp.MustCompile(`^get_env\(\s*(.*?)\s*\)$`)
	argument   = regexp.MustCompile("^(name|default)\\s*=\\s*(?:\"([^\"]*)\"|'([^']*)'|`([^`]*)`)\\s*(?:,\\s*|$)")
)

// render fills in the expressions of raw.
func render(name, raw, key string, client ide.Client) (*source, error) {
	s := &source{name: name, raw: raw}
	var b strings.Builder
	last := 0
	for _, m := range expression.FindAllStringSubmatchIndex(raw, -1) {
		s.pieces = append(s.pieces, piece{text: b.Len(), raw: last})
		b.WriteString(raw[last:m[0]])
		at := (&source{raw: raw}).at(m[0])
		if m[2] < 0 {
			return nil, &positioned{at, fmt.Sprintf("template %s is not served: only {{ … }} is", shorten(raw[m[0]:m[1]]))}
		}
		value, err := evaluate(strings.TrimSpace(raw[m[2]:m[3]]), key, client)
		if err != nil {
			return nil, &positioned{at, fmt.Sprintf("template %s: %v", shorten(raw[m[0]:m[1]]), err)}
		}
		s.pieces = append(s.pieces, piece{text: b.Len(), raw: m[0], fixed: true})
		b.WriteString(value)
		last = m[1]
	}
	s.pieces = append(s.pieces, piece{text: b.Len(), raw: last})
	b.WriteString(raw[last:])
	s.text = b.String()
	return s, nil
}

func evaluate(expr, key string, client ide.Client) (string, error) {
	switch expr {
	case "key":
		return key, nil
	case "git_branch":
		return gitBranch(client)
	}
	m := getEnv.FindStringSubmatch(expr)
	if m == nil {
		return "", fmt.Errorf(`not served: only get_env(name="X", default="y"), key and git_branch are`)
	}
	args := map[string]string{}
	for rest := m[1]; rest != ""; {
		a := argument.FindStringSubmatch(rest)
		if a == nil {
			return "", fmt.Errorf("%q is not name=\"…\" or default=\"…\"", shorten(rest))
		}
		args[a[1]] = a[2] + a[3] + a[4]
		rest = rest[len(a[0]):]
	}
	if args["name"] == "" {
		return "", fmt.Errorf("get_env needs a name")
	}
	if value, ok := LookupEnv(client.Env, args["name"]); ok {
		return value, nil
	}
	if value, ok := args["default"]; ok {
		return value, nil
	}
	return "", fmt.Errorf("variable %s is not set, and there is no default", args["name"])
}

// LookupEnv finds a variable among NAME=value pairs.
func LookupEnv(env []string, name string) (value string, ok bool) {
	for _, pair := range env { // the last one counts
		if n, v, found := strings.Cut(pair, "="); found && n == name {
			value, ok = v, true
		}
	}
	return value, ok
}

// gitBranch names the branch of the client's directory, or of what the IDE told.
func gitBranch(client ide.Client) (string, error) {
	if branch, ok := LookupEnv(client.Env, "MIRRORD_BRANCH_NAME"); ok {
		return branch, nil
	}
	for dir := client.Dir; ; dir = filepath.Dir(dir) {
		if git := filepath.Join(dir, ".git"); exists(git) {
			return readHead(git)
		}
		if dir == filepath.Dir(dir) {
			return "", fmt.Errorf("%s is in no git repository", client.Dir)
		}
	}
}

// readHead reads HEAD of git directory dir, or of the one that file dir names.
func readHead(dir string) (string, error) {
	if text, err := readFile(dir); err == nil { // a worktree's file
		to := strings.TrimSpace(strings.TrimPrefix(text, "gitdir:"))
		if !filepath.IsAbs(to) {
			to = filepath.Join(filepath.Dir(dir), to)
		}
		dir = to
	}
	text, err := readFile(filepath.Join(dir, "HEAD"))
	if err != nil {
		return "", err
	}
	branch, ok := strings.CutPrefix(strings.TrimSpace(text), "ref: refs/heads/")
	if !ok {
		return "", fmt.Errorf("%s is on no branch", filepath.Dir(dir))
	}
	return branch, nil
}
