package files

import (
	"path"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Limits of what is answered ahead of a question.
const (
	aheadAfter   = 4        // questions about neighbours
	firstAhead   = 8        // files; then twice as many each time
	mostAhead    = 128      // files
	maxAheadSize = 16 << 10 // of a file's content
	frameSize    = 64 << 10 // of a frame's contents
	frameFiles   = 16
	maxListed    = 20_000 // names; a bigger directory is not guessed about
	maxWalks     = 16     // of a client, at one time
)

// guesses are what a client is expected to ask for next. A program that has
// asked for some files of a directory in an order goes on so: what it will ask
// for is sent before it does, as a kernel reads ahead.
type guesses struct {
	mu     sync.Mutex
	walks  map[walkKey]*walk  // guarded by mu
	habits map[walkKey]*habit // guarded by mu; by kind
}

// What is asked of each file of a walk.
type walkKey struct {
	dir      string
	content  bool // to open it, else its attributes
	noFollow bool
}

// A walk is a program's way through a directory.
type walk struct {
	habit  *habit   // by which its first question is enough to know the order
	asked  []string // the last names, while the order is not known
	more   int      // questions before the order is looked for
	misses int      // how often none was found
	order  *order   // nil: not known
	sent   int      // of order, all before it
	size   int      // of the next batch
}

// A Batch is files that are likely to be asked for next.
type Batch struct {
	h     *Handles
	key   walkKey
	walk  *walk
	asked []string // the last of them is what was asked for now
	names []string
	find  bool // the order has to be found

	inside   bool   // of a directory that was opened; nothing was asked for in it
	expected *habit // by which the order is known
}

// Soon tells whether to wait for the first answers is better than to ask.
func (b *Batch) Soon() bool { return b != nil && b.expected != nil }

// About tells what is answered: to open files (content) or for their attributes.
func (b *Batch) About() (content, noFollow bool) { return b.key.content, b.key.noFollow }

// Ahead guesses what follows a question about a file: to open it (content) or
// for its attributes. nil: nothing is likely.
func (h *Handles) Ahead(file string, content, noFollow bool) *Batch {
	if h.leases.Load() == nil {
		return nil
	}
	dir, name := path.Split(file)
	b := &Batch{h: h, key: walkKey{dir, content, noFollow}}
	g := &h.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.walks[b.key]
	if w == nil {
		w = &walk{more: aheadAfter, habit: g.expects(b.key)}
		g.walk(b.key, w)
	}
	b.walk = w
	if w.order == nil && w.habit != nil {
		w.ask(name)
		b.expected, w.habit = w.habit, nil
		b.asked, b.find = []string{name}, true
		return b
	}
	if w.order == nil {
		b.asked, b.find = w.ask(name), true
		if b.asked == nil {
			return nil
		}
		return b
	}
	var known bool
	if b.names, known = w.next(name); !known || w.sent == len(w.order.names) {
		delete(g.walks, b.key)
	}
	if len(b.names) == 0 {
		return nil
	}
	return b
}

// walk remembers one. g.mu is held.
func (g *guesses) walk(key walkKey, w *walk) {
	if g.walks == nil || len(g.walks) >= maxWalks {
		g.walks = map[walkKey]*walk{}
	}
	g.walks[key] = w
}

// ask notes a question. The last ones are returned where the order is to be
// looked for, which is less and less often where none was found.
func (w *walk) ask(name string) []string {
	w.asked = append(w.asked, name)
	if len(w.asked) > aheadAfter {
		w.asked = w.asked[1:]
	}
	if w.more--; w.more > 0 {
		return nil
	}
	w.misses++
	w.more = aheadAfter << min(w.misses, 16)
	return slices.Clone(w.asked)
}

// begin finds the order of what was asked for, and the first names after it.
func (b *Batch) begin() {
	names, err := b.h.list(b.key.dir)
	if err != nil {
		return
	}
	g := &b.h.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	if b.inside {
		o := orders(names)[b.expected.order]
		b.names = o.names[:min(firstInside, len(names))]
		if len(b.names) < len(names) {
			g.walk(b.key, &walk{order: o, sent: len(b.names), size: firstInside})
		}
		return
	}
	name := b.asked[len(b.asked)-1]
	for i, o := range orders(names) {
		if b.expected == nil && !o.follows(b.asked) || b.expected != nil && (i != b.expected.order || !b.expected.begins(o, name)) {
			continue
		}
		w := b.walk
		if w.order == nil {
			w.order, w.sent, w.size = o, o.index[name], firstAhead
			if b.expected != nil {
				w.size = firstInside
			}
			b.names, _ = w.next(name)
			g.confirm(b.key, i, b.expected)
			if w.sent == len(o.names) && g.walks[b.key] == w {
				delete(g.walks, b.key)
			}
		}
		return
	}
}

// next is what follows name; known is false if the walk went elsewhere.
func (w *walk) next(name string) (names []string, known bool) {
	i, ok := w.order.index[name]
	switch {
	case !ok || i > w.sent+aheadAfter || i < w.sent-2*w.size:
		return nil, false
	case i < w.sent: // it was asked for while it was sent
		return nil, true
	}
	begin := i + 1
	w.sent = min(begin+w.size, len(w.order.names))
	w.size = min(2*w.size, mostAhead)
	return w.order.names[begin:w.sent], true
}

// list lists a directory's names.
func (t *Tree) list(path string) ([]string, error) {
	n, err := t.find(path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	if err := t.permitted(&n.stat, unix.R_OK); err != nil {
		return nil, err
	}
	f, err := n.reopen()
	if err != nil {
		return nil, err
	}
	defer f.Close()
	var names []string
	for d := (&dir{file: f}); ; {
		entries, end, err := d.read()
		if err != nil || end {
			return names, err
		}
		for _, e := range entries {
			names = append(names, e.Name)
		}
		if len(names) > maxListed {
			return nil, unix.E2BIG
		}
	}
}

// Next answers for the next files of the batch, false when there are none.
// What cannot be kept, or is not small, is left out.
func (b *Batch) Next() (a protocol.Ahead, contents []byte, ok bool) {
	if b.find {
		b.find = false
		b.begin()
	}
	most := frameFiles
	if b.expected != nil {
		most = firstInside
	}
	for len(b.names) > 0 && len(a.Files) < most && len(contents) <= frameSize-maxAheadSize {
		name := b.names[0]
		file := protocol.AheadFile{Name: protocol.Path(name)}
		b.names = b.names[1:]
		var content []byte
		var err error
		if b.key.content {
			var r protocol.OpenReply
			r, content, err = b.h.open(protocol.Open{
				Path: protocol.Path(b.key.dir + name), NoFollow: b.key.noFollow, Inline: maxAheadSize, Lease: true}, true)
			file.Attr, file.Path, file.Lease = r.Attr, r.Path, r.Lease
		} else {
			var r protocol.StatReply
			r, _, err = b.h.Stat(protocol.Stat{Path: protocol.Path(b.key.dir + name), NoFollow: b.key.noFollow, Lease: true})
			file.Attr, file.Lease = r.Attr, r.Lease
		}
		if err != nil || file.Lease.ID == 0 {
			continue
		}
		file.Size = len(content)
		a.Files, contents = append(a.Files, file), append(contents, content...)
	}
	return a, contents, len(a.Files) > 0
}
