package files

import (
	"os"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const maxLinks = 40 // as path_resolution(7) has it

// walk follows p as the kernel does and watches each directory that it looks
// into, before it does. It returns the entries looked up and where the last
// leads; "": there is no such file. mu is held.
func (l *Leases) walk(p string, follow bool) (way []entry, resolved string, err error) {
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
		w, err := l.watch(dir)
		if err != nil {
			return nil, "", err
		}
		way = append(way, entry{w, name})
		next := join(dir, name)
		if l.dirs[next] != nil || len(rest) == 0 && !follow {
			dir = next
			continue
		}
		text, err := readlink(w.dir, name)
		switch err {
		case nil:
			if links++; links > maxLinks {
				return nil, "", errNoLease
			}
			if text[0] == '/' {
				dir = "/"
			}
			rest = append(strings.Split(text, "/"), rest...)
		case unix.EINVAL: // no link
			dir = next
		case unix.ENOENT:
			return way, "", nil
		default:
			return nil, "", err
		}
	}
	return way, dir, nil
}

// watch returns the watch of a directory, by its resolved path.
func (l *Leases) watch(dir string) (*watched, error) {
	if w := l.dirs[dir]; w != nil {
		return w, nil
	}
	if until, loud := l.loud[dir]; loud {
		if time.Now().Before(until) {
			return nil, errNoLease
		}
		delete(l.loud, dir)
	}
	n, err := l.tree.open(dir, unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
	if err != nil {
		return nil, err
	}
	if !notifies(n.file) {
		n.Close()
		return nil, errNoLease
	}
	const events = unix.IN_MODIFY | unix.IN_ATTRIB | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO |
		unix.IN_DELETE_SELF | unix.IN_MOVE_SELF
	wd, err := unix.InotifyAddWatch(l.fd, procFD(n.file), events)
	if err != nil {
		n.Close()
		return nil, err
	}
	if l.byWD[int32(wd)] != nil { // the same directory by another path
		n.Close()
		return nil, errNoLease
	}
	w := &watched{dir: n.file, path: dir, wd: int32(wd), names: map[string]map[uint64]struct{}{}, since: time.Now()}
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

func readlink(dir *os.File, name string) (string, error) {
	var buf [unix.PathMax]byte
	n, err := unix.Readlinkat(int(dir.Fd()), name, buf[:])
	if err != nil {
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
