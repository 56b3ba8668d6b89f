package config

import (
	"fmt"
	"regexp"
	"strings"
)

var dotenvLine = regexp.MustCompile(`^(?:export\s+)?([A-Za-z_][A-Za-z0-9_.]*)\s*[=]\s*(.*)$`)

// readDotenv reads an env_file: NAME=value lines, # comments, values bare or in
// quotes. Variables in values are not expanded.
func readDotenv(file string) (map[string]string, error) {
	text, err := readFile(file)
	if err != nil {
		return nil, err
	}
	vars := map[string]string{}
	for i, line := range strings.Split(text, "\n") {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		m := dotenvLine.FindStringSubmatch(line)
		if m == nil {
			return nil, fmt.Errorf("%s:%d: %q is not NAME=value", file, i+1, shorten(line))
		}
		value, err := dotenvValue(m[2])
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %s: %w", file, i+1, m[1], err)
		}
		vars[m[1]] = value
	}
	return vars, nil
}

var dotenvEscapes = strings.NewReplacer(`\n`, "\n", `\r`, "\r", `\t`, "\t", `\"`, `"`, `\\`, `\`, `\$`, "$")

func dotenvValue(s string) (string, error) {
	if s == "" {
		return "", nil
	}
	quote := s[0]
	if quote != '"' && quote != '\'' {
		value, _, _ := strings.Cut(s, " #")
		return strings.TrimSpace(value), nil
	}
	end := 1
	for end < len(s) && s[end] != quote {
		if quote == '"' && s[end] == '\\' {
			end++
		}
		end++
	}
	if end >= len(s) {
		return "", fmt.Errorf("the value's %c has no partner on its line", quote)
	}
	if rest := strings.TrimSpace(s[end+1:]); rest != "" && rest[0] != '#' {
		return "", fmt.Errorf("%q follows the value", shorten(rest))
	}
	if quote == '\'' {
		return s[1:end], nil
	}
	return dotenvEscapes.Replace(s[1:end]), nil
}
