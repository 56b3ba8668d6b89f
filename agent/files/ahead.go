package files

import (
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Limits of what is answered ahead of a question.
const (
	aheadAfter   = 4        // questions about neighbours
	maxAheadSize = 16 << 10 // of a file's content
	frameSize    = 64 << 10 // of a frame's contents
	frameHead    = 24 << 10 // of what else is in a frame
	mostMissed   = 32       // files, one after the other, that nothing is told of
	maxListed    = 20_000   // names; a bigger directory is not guessed about
	maxWalks     = 16       // of a client, at one time; and directories whose names are known
	listsKept    = 10 * time.Second
)

// pace is how many files are told at a time. A file's attributes cost less than its
// content, both to find out and to send in vain.
type pace struct {
	first  int // then grow times as many each time
	grow   int
	most   int
	inside int // of a directory that was opened; more when one is asked for that was not among them
	frame  int
	skip   int // 1: without the one that was asked for
}

var paces = map[bool]pace{ // by walkKey.content
	true:  {first: 8, grow: 2, most: 128, inside: 32, frame: 16, skip: 1},
	false: {first: 8, grow: 4, most: 2048, inside: 128, frame: 64},
}

func (k walkKey) pace() pace { return paces[k.content] }

// guesses are what a client is expected to ask for next. A program that has
// asked for some files of a directory in an order goes on so: what it will ask
// for is sent before it does, as a kernel reads ahead.
type guesses struct {
	mu     sync.Mutex
	walks  map[walkKey]*walk  // guarded by mu
	habits map[walkKey]*habit // guarded by mu; by kind
	lists  map[string][]byte  // guarded by mu; directories that were listed and not asked about yet, with all entries
	forget *time.Timer        // guarded by mu; drops lists when none was added for listsKept
}

// What is asked of each file of a walk.
type walkKey struct {
	dir      string
	content  bool // to open it, else its attributes
	noFollow bool // of attributes it does not matter: both are told
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
	list     []byte // the directory's entries, if it was listed just before
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
	b := &Batch{h: h, key: walkKey{dir, content, noFollow || !content}}
	g := &h.guesses
	g.mu.Lock()
	defer g.mu.Unlock()
	w := g.walks[b.key]
	if w == nil {
		w = &walk{more: aheadAfter, habit: g.expects(b.key)}
		g.walk(b.key, w)
		if b.list = g.takeList(b.key); b.list != nil && w.habit == nil {
			w.habit = new(habit)
		}
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
	if b.names, known = w.next(name, b.key.pace()); !known || w.sent == len(w.order.names) {
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

// listed notes that a program knows all entries of a directory. If it then asks for
// the attributes of the first it will ask for those of all.
func (g *guesses) listed(dir string, list []byte) {
	dir = strings.TrimSuffix(dir, "/") + "/"
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.lists == nil || len(g.lists) >= maxWalks {
		g.lists = map[string][]byte{}
	}
	g.lists[dir] = list
	if g.forget != nil {
		g.forget.Reset(listsKept)
		return
	}
	g.forget = time.AfterFunc(listsKept, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.lists = nil
	})
}

// takeList gives what was listed of a directory whose files' attributes are asked
// for, once. g.mu is held.
func (g *guesses) takeList(k walkKey) []byte {
	if k.content {
		return nil
	}
	list := g.lists[k.dir]
	delete(g.lists, k.dir)
	return list
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
	names, err := b.all()
	if err != nil {
		return
	}
	g, pace := &b.h.guesses, b.key.pace()
	g.mu.Lock()
	defer g.mu.Unlock()
	if b.inside {
		o := orders(names)[b.expected.order]
		b.names = o.names[:min(pace.inside, len(names))]
		if len(b.names) < len(names) {
			g.walk(b.key, &walk{order: o, sent: len(b.names), size: pace.inside})
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
			w.order, w.sent, w.size = o, o.index[name], pace.first
			if b.expected != nil {
				w.size = pace.inside
			}
			b.names, _ = w.next(name, pace)
			g.confirm(b.key, i, b.expected)
			if w.sent == len(o.names) && g.walks[b.key] == w {
				delete(g.walks, b.key)
			}
		}
		return
	}
}

// next is what follows name; known is false if the walk went elsewhere.
func (w *walk) next(name string, pace pace) (names []string, known bool) {
	i, ok := w.order.index[name]
	switch {
	case !ok || i > w.sent+aheadAfter || i < w.sent-2*w.size:
		return nil, false
	case i < w.sent: // it was asked for while it was sent
		return nil, true
	}
	begin := i + pace.skip
	w.sent = min(begin+w.size, len(w.order.names))
	w.size = min(pace.grow*w.size, pace.most)
	return w.order.names[begin:w.sent], true
}

// all lists the names of the batch's directory, from what was listed before if it was.
func (b *Batch) all() (names []string, err error) {
	if b.list == nil {
		return b.h.list(b.key.dir)
	}
	entries, err := protocol.DirEntries(b.list)
	for _, e := range entries {
		names = append(names, e.Name)
	}
	return names, err
}

// list lists a directory's names.
func (t *Tree) list(path string) ([]string, error) {
	n, err := t.find(path, unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer n.Close()
	if err := t.permitted(n, unix.R_OK); err != nil {
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
	most := b.key.pace().frame
	if b.expected != nil {
		most = b.key.pace().inside
	}
	for head, missed := 0, 0; len(b.names) > 0 && len(a.Files) < most && len(contents) <= frameSize-maxAheadSize && head < frameHead; {
		name := b.names[0]
		b.names = b.names[1:]
		file, content, ok := b.answer(name, b.key.noFollow)
		if !ok {
			if missed++; missed > mostMissed {
				b.names = nil // as where nothing can be kept
			}
			continue
		}
		missed = 0
		head += headOf(&file)
		a.Files, contents = append(a.Files, file), append(contents, content...)
		if file.Attr.Mode&unix.S_IFMT != unix.S_IFLNK {
			continue
		}
		if file, _, ok = b.answer(name, false); ok {
			file.Follow = true
			head += headOf(&file)
			a.Files = append(a.Files, file)
		}
	}
	return a, contents, len(a.Files) > 0
}

// answer is what is told of one file. ok: it may be kept, and is not much.
func (b *Batch) answer(name string, noFollow bool) (f protocol.AheadFile, content []byte, ok bool) {
	f.Name = protocol.Path(name)
	path := protocol.Path(b.key.dir + name)
	var err error
	if b.key.content {
		var r protocol.OpenReply
		r, content, err = b.h.open(protocol.Open{Path: path, NoFollow: noFollow, Inline: maxAheadSize, Lease: true}, true)
		f.Attr, f.Path, f.Lease, f.Beside = r.Attr, r.Path, r.Lease, r.Beside
	} else {
		var r protocol.StatReply
		r, _, err = b.h.Stat(protocol.Stat{Path: path, NoFollow: noFollow, Lease: true})
		f.Attr, f.Lease, f.Beside = r.Attr, r.Lease, r.Beside
	}
	f.Size = len(content)
	return f, content, err == nil && f.Lease.ID != 0 && headOf(&f) <= (protocol.MaxHeader-frameHead)/2
}

// headOf is how many bytes of a frame's header tell of a file, at most but for
// characters that JSON escapes.
func headOf(f *protocol.AheadFile) int {
	const fixed = 400
	return fixed + len(f.Name) + len(f.Path) + len(f.Link) + 2*len(f.Xattrs)
}
