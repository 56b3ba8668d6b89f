package traffic

import (
	"regexp"
	"slices"
	"strings"
)

// secret are the names of headers, and of a query's values, that are shown only to
// who insists.
var secret = regexp.MustCompile(`(?i)authorization|cookie|token|secret|passw|credential|session|signature|jwt|api[-_]?key`)

const masked = "…"

func shown(fields [][2]string, reveal bool) [][2]string {
	list := slices.Clone(fields)
	for i := range list {
		if !reveal && secret.MatchString(list[i][0]) {
			list[i][1] = masked
		}
	}
	return list
}

// shownPath masks the secrets of a path's query.
func shownPath(path string, reveal bool) string {
	path, query, ok := strings.Cut(path, "?")
	if !ok {
		return path
	}
	pairs := strings.Split(query, "&")
	for i, p := range pairs {
		if name, _, ok := strings.Cut(p, "="); ok && !reveal && secret.MatchString(name) {
			pairs[i] = name + "=" + masked
		}
	}
	return path + "?" + strings.Join(pairs, "&")
}
