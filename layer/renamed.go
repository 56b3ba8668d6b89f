package layer

import "strings"

// renamed gives the files that the debuggee has open their new paths, so that
// what is relative to a directory stays so. With exchange both have changed.
func (t *injected) renamed(from, to string, exchange bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	move := func(path string) (string, bool) {
		if rest, ok := strings.CutPrefix(path, from); ok && (rest == "" || rest[0] == '/') {
			return to + rest, true
		}
		if rest, ok := strings.CutPrefix(path, to); ok && exchange && (rest == "" || rest[0] == '/') {
			return from + rest, true
		}
		return path, false
	}
	moveAll(t.memfds.files, move)
	moveAll(t.nodes.files, move)
	moveAll(t.dirs.files, move)
}

// moveAll puts others in the place of files, which calls are using.
func moveAll[K comparable](files map[K]*file, move func(string) (string, bool)) {
	for key, f := range files {
		if path, moved := move(f.path); moved {
			g := *f
			g.path = path
			files[key] = &g
		}
	}
}
