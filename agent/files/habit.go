package files

import (
	"path"
	"strings"
)

const mostTrusted = 8 // directories, one after the other, before somebody must ask again

// A habit is how a program has gone through the files of directories. It is
// expected to go through others near them so: their files are sent when it
// opens them, before it asks for the first. Nobody tells whether it used them.
// So after a number of directories, which grows, one is left to be asked for; if
// it is not, there is no more.
type habit struct {
	dir     string // the last
	order   int    // of orders
	trusted int    // directories that files are sent of, before one must be asked for
	earned  int    // what trusted is after that
}

// What a habit is about, the most telling first.
var kinds = []walkKey{{content: true}, {content: true, noFollow: true}, {noFollow: true}}

func (k walkKey) kind() walkKey {
	k.dir = ""
	return k
}

// Inside guesses what follows the opening of a directory. nil: nothing is likely.
func (h *Handles) Inside(dir string) *Batch {
	if h.leases.Load() == nil {
		return nil
	}
	dir = strings.TrimSuffix(dir, "/") + "/"
	g := &h.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, k := range kinds {
		o := g.habits[k]
		if o == nil || o.trusted == 0 || o.dir == dir || !near(o.dir, dir) {
			continue
		}
		o.trusted--
		o.dir, k.dir = dir, dir
		return &Batch{h: h, key: k, inside: true, expected: o, find: true}
	}
	return nil
}

// expects gives the habit by which a directory that was not sent is gone
// through, if its first file is asked for. g.mu is held.
func (g *guesses) expects(key walkKey) *habit {
	if o := g.habits[key.kind()]; o != nil && o.dir != key.dir && near(o.dir, key.dir) {
		return o
	}
	return nil
}

// begins tells whether a directory's names are gone through as expected by who
// asks for name first. Before it there may be directories in a directory that
// was opened.
func (o *habit) begins(names *order, name string) bool {
	i, ok := names.index[name]
	return ok && (i == 0 || o.trusted == 0 && i < aheadAfter)
}

// confirm notes that a program has gone through a directory in an order, as
// expected or not. g.mu is held.
func (g *guesses) confirm(key walkKey, order int, expected *habit) {
	o := g.habits[key.kind()]
	switch {
	case o == nil || o.order != order || !near(o.dir, key.dir):
		if g.habits == nil {
			g.habits = map[walkKey]*habit{}
		}
		g.habits[key.kind()] = &habit{dir: key.dir, order: order, trusted: 1, earned: 1}
	case o == expected:
		o.earned = min(2*o.earned, mostTrusted)
		o.dir, o.trusted = key.dir, o.earned
	case o.trusted == 0:
		o.dir, o.trusted, o.earned = key.dir, 1, 1
	}
}

// near tells whether who goes through a tree may come from one directory to the
// other: it is below the first, or below what that is in, or that again.
func near(from, to string) bool {
	if strings.HasPrefix(to, from) {
		return true
	}
	for range 2 {
		from = path.Dir(strings.TrimSuffix(from, "/"))
		if from == "/" {
			return false
		}
		if from += "/"; strings.HasPrefix(to, from) {
			return true
		}
	}
	return false
}
