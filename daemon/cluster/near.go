package cluster

import (
	"slices"
	"strings"
)

// maxNames bounds a list of names in an error.
const maxNames = 12

// suggest offers the names nearest to the one that was not found, else all.
func suggest(name string, names []string, all string) string {
	if near := nearest(name, names); len(near) > 0 {
		return "did you mean " + strings.Join(near, " or ") + "?"
	}
	if len(names) == 0 {
		return ""
	}
	if len(names) > maxNames {
		names = append(slices.Clone(names[:maxNames]), "…")
	}
	return all + " " + strings.Join(names, ", ")
}

// nearest returns at most three names, best first: those that begin with the
// wanted one, and those a few typing errors away from it.
func nearest(name string, names []string) []string {
	type scored struct {
		name  string
		score int
	}
	var near []scored
	for _, n := range names {
		d := distance(name, n)
		switch {
		case name != "" && strings.HasPrefix(n, name):
			near = append(near, scored{n, 0})
		case d <= max(1, len(name)/3):
			near = append(near, scored{n, d})
		}
	}
	slices.SortStableFunc(near, func(a, b scored) int { return a.score - b.score })
	var out []string
	for _, s := range near[:min(3, len(near))] {
		out = append(out, s.name)
	}
	return out
}

// distance counts the edits (insert, delete, replace, swap neighbours) between
// two names.
func distance(a, b string) int {
	if len(a) > 253 || len(b) > 253 { // longer is no name in Kubernetes
		return max(len(a), len(b))
	}
	before, above, row := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range above {
		above[j] = j
	}
	for i := range len(a) {
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			row[j+1] = min(row[j]+1, above[j+1]+1, above[j]+cost)
			if i > 0 && j > 0 && a[i] == b[j-1] && a[i-1] == b[j] {
				row[j+1] = min(row[j+1], before[j-1]+1)
			}
		}
		before, above, row = above, row, before
	}
	return above[len(b)]
}
