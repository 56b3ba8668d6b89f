package files

import (
	"cmp"
	"math"
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const maxLinks = 40 // as path_resolution(7) has it

const watchedEvents = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
	unix.IN_DELETE_SELF | unix.IN_MOVE_SELF

// walk follows p as the kernel does, and notes where the last leads. The claim
// rests on each entry, in a directory that is watched, before it is looked at.
func (c *claim) walk(p string, follow bool) error {
	dir, rest := "/", strings.Split(p, "/")
	for links := 0; len(rest) > 0; {
		name := rest[0]
		rest = rest[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			dir = path.Dir(dir)
			continue
		}
		w, known, err := c.rest(dir, name)
		if err != nil {
			return err
		}
		next := join(dir, name)
		if known || len(rest) == 0 && !follow {
			dir = next
			continue
		}
		text, err := readlink(w.dir, name)
		switch err {
		case nil:
			if links++; links > maxLinks {
				return errNoLease
			}
			if text[0] == '/' {
				dir = "/"
			}
			rest = append(strings.Split(text, "/"), rest...)
		case unix.EINVAL: // no link
			dir = next
		case unix.ENOENT:
			return nil
		default:
			return err
		}
	}
	c.resolved = dir
	return nil
}

// rest makes the claim rest on an entry of a directory, by its resolved path.
// known: the entry is a directory that is watched.
func (c *claim) rest(dir, name string) (w *watched, known bool, err error) {
	l := c.leases
	w, err = c.watching(dir, math.MaxInt)
	defer l.mu.Unlock()
	if err != nil || l.given[c.id] == nil {
		return nil, false, cmp.Or(err, errNoLease)
	}
	w.add(name, c.id)
	l.given[c.id] = append(l.given[c.id], entry{w, name})
	c.deaf = !l.hears(w)
	return w, l.dirs[join(dir, name)] != nil, nil
}

// add has a lease rest on an entry. Leases.mu is held.
func (w *watched) add(name string, id uint64) {
	if w.names[name] == nil {
		w.names[name] = map[uint64]struct{}{}
	}
	w.names[name][id] = struct{}{}
}

// within makes the claim rest on what entries n has, if it is a directory: its
// attributes change with them. It is looked at anew then, so that nothing is missed.
func (c *claim) within(n *node) {
	if c == nil || n.kind() != unix.S_IFDIR || n.path != c.resolved {
		return
	}
	l := c.leases
	w, err := c.watching(n.path, maxInside)
	defer l.mu.Unlock()
	if err != nil || l.given[c.id] == nil || w.dev != n.stat.Dev || w.ino != n.stat.Ino {
		return
	}
	w.add("", c.id)
	l.given[c.id] = append(l.given[c.id], entry{w, ""})
	c.inside = unix.Fstat(int(n.file.Fd()), &n.stat) == nil
}

// watching returns the watch of a directory, and begins it where there are fewer
// than most. It returns with leases.mu held.
func (c *claim) watching(dir string, most int) (*watched, error) {
	l := c.leases
	l.mu.Lock()
	w, err := l.watched(dir)
	switch {
	case err != nil || w != nil:
		return w, err
	case len(l.dirs) >= most:
		return nil, errNoLease
	}
	l.mu.Unlock()
	f, err := l.directory(dir)
	l.mu.Lock()
	if err != nil {
		return nil, err
	}
	return c.watch(dir, f)
}

// watched returns the watch of a directory; nil: there is none yet.
func (l *Leases) watched(dir string) (*watched, error) {
	if until, loud := l.loud[dir]; loud {
		if time.Now().Before(until) {
			return nil, errNoLease
		}
		delete(l.loud, dir)
	}
	return l.dirs[dir], nil
}

// directory opens one that can be watched.
func (l *Leases) directory(dir string) (*os.File, error) {
	n, err := l.tree.open(dir, unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	if !notifies(n.file) {
		n.Close()
		return nil, errNoLease
	}
	return n.file, nil
}

// watch begins to watch f, which was found at dir. The claim rests on the way
// to it: while it has not expired, f is still there.
func (c *claim) watch(dir string, f *os.File) (w *watched, err error) {
	defer func() {
		if w == nil || w.dir != f {
			f.Close()
		}
	}()
	l := c.leases
	if l.given[c.id] == nil {
		return nil, errNoLease
	}
	if w := l.dirs[dir]; w != nil { // another claim was first
		return w, nil
	}
	wd, err := unix.InotifyAddWatch(l.fd, procFD(f), watchedEvents)
	if err != nil {
		return nil, err
	}
	if l.byWD[int32(wd)] != nil { // the same directory by another path
		return nil, errNoLease
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return nil, err
	}
	w = &watched{dir: f, path: dir, dev: st.Dev, ino: st.Ino, wd: int32(wd), names: map[string]map[uint64]struct{}{}, since: time.Now()}
	l.dirs[dir], l.byWD[int32(wd)] = w, w
	return w, nil
}

// notifies tells whether all changes in f's file system are made by this kernel.
func notifies(f *os.File) bool {
	var fs unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &fs) != nil {
		return false
	}
	switch fs.Type {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.OVERLAYFS_SUPER_MAGIC, unix.TMPFS_MAGIC:
		return true
	}
	return false
}

// readlink reads a link of a directory that may be closed meanwhile.
func readlink(dir *os.File, name string) (string, error) {
	raw, err := dir.SyscallConn()
	if err != nil {
		return "", err
	}
	var buf [unix.PathMax]byte
	var n int
	ctl := raw.Control(func(fd uintptr) { n, err = unix.Readlinkat(int(fd), name, buf[:]) })
	if err := cmp.Or(ctl, err); err != nil {
		return "", err
	}
	if n == 0 {
		return "", unix.ENOENT
	}
	return string(buf[:n]), nil
}

func join(dir, name string) string {
	if dir == "/" {
		return "/" + name
	}
	return dir + "/" + name
}
