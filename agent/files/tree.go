// Package files answers for the target's files: names are resolved in the
// target's root by the kernel, never followed out of it.
//
// Permissions: what changes files is done as the user of the target's process.
// For reading, which needs no more than one capability, the agent judges by
// mode bits and ACLs what that user may do, where it lacks the capabilities to
// pass them by: those of the file, and for searching those of the directories
// of its resolved path, not of symlinks' on the way.
//
// Only regular files and directories are opened. A FIFO, device or socket is
// refused with ENXIO, as open(2) refuses a socket; it is never touched.
package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

// A Tree is the target's file tree as its user sees it.
type Tree struct {
	MaxHandles int // that one client may have

	root   *os.File // O_PATH
	user   target.User
	acting acting
}

// New makes the tree below root, which must stay open.
func New(root *os.File, user target.User) *Tree {
	return &Tree{MaxHandles: mostHandles(), root: root, user: user, acting: newActing(user)}
}

// A node is a file that was found, opened with O_PATH.
type node struct {
	file *os.File
	path string // as resolved, in the target
	stat unix.Stat_t
}

func (n *node) Close() { n.file.Close() }

// kind is the file type of the node's mode.
func (n *node) kind() uint32 { return n.stat.Mode & unix.S_IFMT }

// find looks path up with flags (O_NOFOLLOW, O_DIRECTORY) and checks that the
// target's user may come there.
func (t *Tree) find(path string, flags uint64) (*node, error) {
	return t.findBy(path, nil, flags)
}

func (t *Tree) findBy(path string, walk *protocol.Walk, flags uint64) (*node, error) {
	n, err := t.locateBy(path, walk, flags)
	if err != nil {
		return nil, err
	}
	if err := t.searchable(n.path); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

// locate looks path up for whoever this thread is.
func (t *Tree) locate(path string, flags uint64) (*node, error) {
	return t.locateBy(path, nil, flags)
}

func (t *Tree) locateBy(path string, walk *protocol.Walk, flags uint64) (*node, error) {
	w, err := t.way(path, walk)
	if err != nil {
		return nil, err
	}
	defer w.close()
	n, err := w.open(flags)
	if err != nil {
		return nil, err
	}
	if n.path, err = t.resolved(n); err != nil {
		n.Close()
		return nil, err
	}
	return n, nil
}

func (t *Tree) open(path string, flags, resolve uint64) (*node, error) {
	w := way{dir: t.root, path: path, resolve: resolve}
	return w.open(flags)
}

// open opens what is at the way's end with O_PATH.
func (w *way) open(flags uint64) (*node, error) {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: w.resolve}
	fd, err := persisting(func() (int, error) { return unix.Openat2(int(w.dir.Fd()), w.path, &how) })
	if err != nil {
		return nil, err
	}
	return newNode(fd, w.path)
}

func newNode(fd int, path string) (*node, error) {
	n := &node{file: os.NewFile(uintptr(fd), path)}
	if err := unix.Fstat(fd, &n.stat); err != nil {
		n.Close()
		return nil, fmt.Errorf("fstat: %w", err)
	}
	return n, nil
}

// resolved is the node's path in the target. The kernel tells it up to the
// top of the mount namespace, which is the target's root itself or above it.
func (t *Tree) resolved(n *node) (string, error) {
	top, err := os.Readlink(procFD(t.root))
	if err != nil {
		return "", err
	}
	path, err := os.Readlink(procFD(n.file))
	if err != nil {
		return "", err
	}
	if n.stat.Nlink == 0 {
		path = strings.TrimSuffix(path, " (deleted)")
	}
	if top == "/" {
		return path, nil
	}
	rest, ok := strings.CutPrefix(path, top)
	switch {
	case ok && rest == "":
		return "/", nil
	case ok && rest[0] == '/':
		return rest, nil
	}
	return "", fmt.Errorf("%s was moved out of the target's root: %w", path, unix.ENOENT)
}

func procFD(f *os.File) string { return "/proc/self/fd/" + strconv.Itoa(int(f.Fd())) }

// reopen opens the node itself for reading. O_NONBLOCK: what only looks like a
// regular file, as some of procfs do, does not hold us.
func (n *node) reopen() (*os.File, error) {
	for {
		fd, err := unix.Open(procFD(n.file), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
		if err == nil {
			return os.NewFile(uintptr(fd), n.path), nil
		}
		if !errors.Is(err, unix.EINTR) {
			return nil, err
		}
	}
}

func noFollow(yes bool) uint64 {
	if yes {
		return unix.O_NOFOLLOW
	}
	return 0
}

func attrOf(s *unix.Stat_t) protocol.Attr {
	return protocol.Attr{
		Dev: s.Dev, Ino: s.Ino, Mode: s.Mode, Nlink: uint32(s.Nlink), UID: s.Uid, GID: s.Gid, Rdev: s.Rdev,
		Size: s.Size, Blksize: int64(s.Blksize), Blocks: s.Blocks,
		Atime: s.Atim.Nano(), Mtime: s.Mtim.Nano(), Ctime: s.Ctim.Nano(),
	}
}

// parents lists the directories on the way to a resolved path, from the root on.
func parents(path string) []string {
	var list []string
	for path != "/" {
		path = filepath.Dir(path)
		list = append(list, path)
	}
	return list
}
