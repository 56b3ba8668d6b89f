package files

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Limits of one client's leases.
const (
	maxLeases  = 1 << 14
	maxWatched = 2048            // directories
	maxInside  = maxWatched / 2  // of them, when one is watched for its own attributes
	maxExpired = 2000            // told one by one; else all expire
	maxNoise   = 2000            // events per second about names that nobody leased
	quietTime  = 1 * time.Minute // after so much noise a directory's events are not asked for
)

// leaseAge is how long a lease lasts at least, if nothing changes, and half of
// how long at most.
const leaseAge = 5 * time.Second

// Leases are what a client may keep of our answers, and hears of when it
// changes. They rest on inotify(7), of the directories that were walked to find
// a file, or are what was looked at, and know of a change only what it tells:
// nothing of writes through mmap(2) or another hard link, nor of mounts. A file
// with two names gets no lease, nor one that is itself a mount; what becomes so
// later, and whatever else is not told, is hidden by a lease for at most
// 2 × leaseAge.
//
// Goroutines: none. Who calls Next is told what expired.
type Leases struct {
	tree    *Tree
	writers *writers
	file    *os.File // for reading fd
	age     time.Duration

	mu    sync.Mutex           // never held while the target's files are looked at, which may hang
	fd    int                  // guarded by mu; of inotify
	seq   uint64               // guarded by mu; of the last Expired
	last  uint64               // guarded by mu; id
	older uint64               // guarded by mu; leases up to this id are of the older half
	due   time.Time            // guarded by mu; Next wakes when the older half's time is over; zero: there is none
	dirs  map[string]*watched  // guarded by mu; by resolved path
	byWD  map[int32]*watched   // guarded by mu
	given map[uint64][]entry   // guarded by mu; by id
	loud  map[string]time.Time // guarded by mu; directories not watched because of what comes and goes there, until then
	all   bool                 // guarded by mu; all have expired since the last Expired
	owed  bool                 // guarded by mu; another Expired was promised, and Next woken
	dead  map[uint64]struct{}  // guarded by mu; expired since the last Expired
}

// A watched directory has an inotify watch.
type watched struct {
	dir   *os.File // O_PATH
	path  string   // resolved, in the target
	dev   uint64
	ino   uint64
	wd    int32
	names map[string]map[uint64]struct{} // leases that rest on the entry; "": on what entries there are

	noise int
	since time.Time // of noise
	deaf  time.Time // to writes, until then: no regular file in it can be leased
}

// An entry is a name in a directory, looked up on the way to a file.
type entry struct {
	dir  *watched
	name string
}

// Watch makes a client's leases; h's answers carry them from now on.
func (h *Handles) Watch() (*Leases, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("inotify_init1: %w", err)
	}
	l := &Leases{
		tree: h.Tree, writers: &h.writers, file: os.NewFile(uintptr(fd), "inotify"), age: leaseAge, fd: fd, dirs: map[string]*watched{}, byWD: map[int32]*watched{},
		given: map[uint64][]entry{}, loud: map[string]time.Time{}, dead: map[uint64]struct{}{},
	}
	if !h.leases.CompareAndSwap(nil, l) {
		l.file.Close()
		return nil, fmt.Errorf("the client watches already: %w", unix.EBUSY)
	}
	return l, nil
}

// Unwatch ends l: no answer carries a lease any more, and Next returns.
func (h *Handles) Unwatch(l *Leases) {
	h.leases.CompareAndSwap(l, nil)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.file.Close()
	for _, w := range l.dirs {
		w.dir.Close()
	}
	l.dirs, l.given = nil, nil
}

// Next waits until leases have expired. Events that do not concern any are skipped.
func (l *Leases) Next() (protocol.Expired, error) {
	buf := make([]byte, 64<<10)
	for {
		n, err := l.file.Read(buf)
		if errors.Is(err, os.ErrDeadlineExceeded) {
			l.sweep()
		} else if err != nil {
			return protocol.Expired{}, fmt.Errorf("reading inotify: %w", err)
		}
		if e, any := l.events(buf[:n]); any {
			return e, nil
		}
	}
}

// sweep ends the older half of the leases. While there are none it costs nothing.
func (l *Leases) sweep() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if time.Now().Before(l.due) || l.due.IsZero() { // it is woken because of owed
		_ = l.file.SetReadDeadline(l.due)
		return
	}
	for id := range l.given {
		if id <= l.older {
			l.expire(id)
		}
	}
	l.older, l.due = l.last, time.Time{}
	if len(l.given) > 0 {
		l.grow()
	}
	_ = l.file.SetReadDeadline(l.due)
}

// grow has Next sweep some time later. The caller has mu.
func (l *Leases) grow() {
	if !l.due.IsZero() {
		return
	}
	l.due = time.Now().Add(l.age)
	if !l.owed { // or Next might not wake; it sets the deadline
		_ = l.file.SetReadDeadline(l.due)
	}
}

// events takes struct inotify_event: wd 4 | mask 4 | cookie 4 | len 4 | name, padded by NUL.
func (l *Leases) events(b []byte) (e protocol.Expired, any bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	e.All, l.all = l.all, false
	for len(b) >= unix.SizeofInotifyEvent {
		wd, mask := int32(binary.NativeEndian.Uint32(b)), binary.NativeEndian.Uint32(b[4:])
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:size]), "\x00")
		b = b[size:]
		w := l.byWD[wd]
		switch {
		case mask&unix.IN_Q_OVERFLOW != 0:
			e.All = true
			l.clear()
		case w == nil: // dropped meanwhile
		case name == "": // the directory itself
			l.drop(w.path)
		default:
			l.changed(w, name, mask)
		}
	}
	switch {
	case len(l.dead) > maxExpired:
		e.All = true
		l.clear()
	case !e.All && !l.owed && len(l.dead) == 0:
		return e, false
	}
	l.owed = false
	for id := range l.dead {
		e.IDs = append(e.IDs, id)
	}
	clear(l.dead)
	l.seq++
	e.Seq = l.seq
	return e, true
}

// changed ends what rests on a directory's entry; mu is held.
func (l *Leases) changed(w *watched, name string, mask uint32) {
	if mask&^(unix.IN_MODIFY|unix.IN_ISDIR) != 0 {
		l.drop(join(w.path, name))
	}
	ids := w.names[name]
	for id := range ids {
		l.expire(id)
	}
	if mask&(unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVED_FROM|unix.IN_MOVED_TO) != 0 {
		l.expireWithin(w)
	}
	written := mask&unix.IN_MODIFY != 0
	if len(ids) > 0 || written && !w.deaf.IsZero() {
		return
	}
	if now := time.Now(); now.Sub(w.since) > time.Second {
		w.since, w.noise = now, 0
	}
	switch w.noise++; {
	case w.noise <= maxNoise:
	case written && l.deafen(w) == nil:
	default:
		l.loud[w.path] = time.Now().Add(quietTime)
		l.drop(w.path)
	}
}

// deafen has a directory's writes not told for a while, and ends what rests on
// them; the ways through it stay. mu is held.
func (l *Leases) deafen(w *watched) error {
	if _, err := unix.InotifyAddWatch(l.fd, procFD(w.dir), watchedEvents&^unix.IN_MODIFY); err != nil {
		return err
	}
	w.deaf, w.noise = time.Now().Add(quietTime), 0
	for name, ids := range w.names {
		if l.dirs[join(w.path, name)] != nil {
			continue
		}
		for id := range ids {
			l.expire(id)
		}
	}
	return nil
}

// hears tells whether writes to the files of a directory are told, from now on
// if its time of not hearing is over. mu is held.
func (l *Leases) hears(w *watched) bool {
	if w.deaf.IsZero() {
		return true
	}
	if time.Now().Before(w.deaf) {
		return false
	}
	if _, err := unix.InotifyAddWatch(l.fd, procFD(w.dir), watchedEvents); err != nil {
		return false
	}
	w.deaf = time.Time{}
	return true
}

// expireWithin ends what rests on which entries a directory has.
func (l *Leases) expireWithin(w *watched) {
	for id := range w.names[""] {
		l.expire(id)
	}
}

func (l *Leases) expire(id uint64) {
	for _, on := range l.given[id] {
		delete(on.dir.names[on.name], id)
		if len(on.dir.names[on.name]) == 0 {
			delete(on.dir.names, on.name)
		}
	}
	delete(l.given, id)
	l.dead[id] = struct{}{}
}

// drop stops watching path and what is below it, and ends what rests on it.
func (l *Leases) drop(path string) {
	for p, w := range l.dirs {
		if p != path && !strings.HasPrefix(p, strings.TrimSuffix(path, "/")+"/") {
			continue
		}
		for _, ids := range w.names {
			for id := range ids {
				l.expire(id)
			}
		}
		l.forget(w)
	}
}

func (l *Leases) forget(w *watched) {
	_, _ = unix.InotifyRmWatch(l.fd, uint32(w.wd))
	w.dir.Close()
	delete(l.dirs, w.path)
	delete(l.byWD, w.wd)
}

// Expire ends all leases: the tree is another one now. The end of each watch
// is an event, so Next tells of it.
func (l *Leases) Expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = l.all || len(l.dirs) > 0
	l.clear()
}

// clear ends all there are.
func (l *Leases) clear() {
	for _, w := range l.dirs {
		l.forget(w)
	}
	clear(l.given)
	clear(l.dead)
}

// A claim is a lease that is not given yet: it exists before the file is looked
// at, so that no change is missed. nil: there is none to give.
type claim struct {
	leases   *Leases
	id       uint64
	resolved string // where the path leads; "": nowhere
	deaf     bool   // to writes where it leads
	inside   bool   // it rests on what entries the directory has that the path leads to
	given    bool
}

// claim makes one for path. nil: the answer cannot be leased.
func (l *Leases) claim(path string, follow bool) *claim {
	c := l.begin()
	if c == nil {
		return nil
	}
	if c.walk(path, follow) != nil {
		c.drop()
		return nil
	}
	return c
}

// begin makes a claim that rests on nothing yet.
func (l *Leases) begin() *claim {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.dirs == nil {
		return nil
	}
	if len(l.given) >= maxLeases || len(l.dirs) >= maxWatched {
		// The end of each watch is an event, so Next tells of it.
		l.drop("/")
	}
	l.last++
	l.given[l.last] = []entry{}
	l.grow()
	return &claim{leases: l, id: l.last}
}

// give makes c a lease of what was found; it is none if anything has changed since.
func (c *claim) give(n *node) protocol.Lease {
	if c == nil {
		return protocol.Lease{}
	}
	ok := n == nil && c.resolved == "" || n != nil && n.path == c.resolved && c.leasable(n) && !(c.deaf && n.kind() == unix.S_IFREG) && !c.leases.writers.has(idOf(&n.stat))
	l := c.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	if !ok || l.given[c.id] == nil {
		return protocol.Lease{}
	}
	c.given = true
	return protocol.Lease{ID: c.id, Seq: l.seq}
}

// drop ends a claim that was not given.
func (c *claim) drop() {
	if c == nil || c.given {
		return
	}
	l := c.leases
	l.mu.Lock()
	defer l.mu.Unlock()
	l.expire(c.id)
	delete(l.dead, c.id) // nobody has it
}

// leasable: of what else changes, inotify tells nothing.
func (c *claim) leasable(n *node) bool {
	switch n.kind() {
	case unix.S_IFREG:
		if n.stat.Nlink != 1 {
			return false
		}
	case unix.S_IFDIR:
		if !c.inside {
			return false
		}
	case unix.S_IFLNK:
	default:
		return false
	}
	var st unix.Statx_t
	err := unix.Statx(int(n.file.Fd()), "", unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW, 0, &st)
	return err == nil && st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0
}

// errNoLease: the answer cannot be leased.
var errNoLease = errors.New("no lease")
