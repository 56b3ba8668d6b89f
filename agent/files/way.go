package files

import (
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A way leads from a directory to a file, as openat2(2) walks it.
type way struct {
	dir     *os.File
	path    string
	resolve uint64
	opened  bool // dir is the way's own
}

func (w *way) close() {
	if w.opened {
		w.dir.Close()
	}
}

// way is the one to path, or along walk from there. It is walked from the target's
// root, so that no link leads out of that, unless it must not leave its directory
// or the mount of that: then it begins there.
func (t *Tree) way(path string, walk *protocol.Walk) (way, error) {
	const known = unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT
	all := way{dir: t.root, path: path, resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	switch {
	case !strings.HasPrefix(path, "/"):
		return all, fmt.Errorf("%q is not an absolute path: %w", path, unix.EINVAL)
	case walk == nil:
		return all, nil
	case walk.Resolve&^known != 0:
		return all, fmt.Errorf("walking by the flags %#x: %w", walk.Resolve, unix.EINVAL)
	}
	dir, err := all.open(unix.O_DIRECTORY)
	if err != nil {
		return all, err
	}
	rest := string(walk.Path)
	switch relative := !strings.HasPrefix(rest, "/"); {
	case walk.Resolve&(unix.RESOLVE_BENEATH|unix.RESOLVE_IN_ROOT) != 0:
		return way{dir.file, rest, walk.Resolve, true}, nil
	case relative && walk.Resolve&unix.RESOLVE_NO_XDEV != 0: // no link leads it to the root
		return way{dir.file, rest, walk.Resolve | unix.RESOLVE_NO_MAGICLINKS, true}, nil
	case rest == "":
		err = unix.ENOENT
	case relative:
		rest = join(path, rest)
	}
	dir.Close()
	return way{dir: t.root, path: rest, resolve: all.resolve | walk.Resolve}, err
}
