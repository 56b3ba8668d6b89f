// Package browse shows the files of a session's target as a directory of this
// machine, for people: each look at it is a request to the daemon (file/list,
// file/stat, file/read), and nothing is kept for longer than a second.
//
// The mount is read-only and has a place, so unlike that of package files it
// stays, dead, when its server is killed: Sweep takes away what was left so.
package browse

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// A Target has the files that are shown, by absolute paths.
type Target interface {
	List(ctx context.Context, path string) ([]ide.FileEntry, error)
	Stat(ctx context.Context, path string) (ide.FileEntry, error)
	Read(ctx context.Context, path string, offset int64, length int) ([]byte, error)
}

// A Mount is a target's files at a directory.
type Mount struct {
	dir    string
	server *fuse.Server
}

const (
	name    = "mirrord" // of the mount's source, and of its type
	keep    = time.Second
	maxRead = 1 << 20
)

// Start mounts a target's files at dir, which exists.
func Start(t Target, dir string) (*Mount, error) {
	if err := available(); err != nil {
		return nil, err
	}
	timeout := keep
	server, err := fs.Mount(dir, &node{target: t}, &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout,
		UID: uint32(os.Geteuid()), GID: uint32(os.Getegid()),
		MountOptions: fuse.MountOptions{
			FsName: name, Name: name, Options: []string{"ro"}, DirectMount: true,
			MaxWrite: maxRead, MaxReadAhead: maxRead, DisableXAttrs: true,
		},
	})
	if err != nil {
		return nil, &ide.Error{
			Code: ide.CodeUnsupported, Msg: fmt.Sprintf("mounting the target's files at %s: %v", dir, err), Err: err,
			Hint: "mounting takes root's rights or fusermount3 (package fuse3)",
		}
	}
	return &Mount{dir, server}, nil
}

// available tells what is missing here.
func available() error {
	_, err := os.Stat("/dev/fuse")
	if err != nil {
		return &ide.Error{
			Code: ide.CodeUnsupported, Msg: fmt.Sprintf("showing files: %v", err), Err: err,
			Hint: "load the kernel's fuse module (modprobe fuse), or give the container the device /dev/fuse",
		}
	}
	if os.Geteuid() == 0 {
		return nil
	}
	for _, name := range []string{"fusermount3", "fusermount"} {
		if _, err = exec.LookPath(name); err == nil {
			return nil
		}
	}
	return &ide.Error{
		Code: ide.CodeUnsupported, Msg: "showing files: who is not root mounts by fusermount3, which is not installed", Err: err,
		Hint: "install it, as with `apt install fuse3`",
	}
}

// End takes the mount away, though somebody be in it, and waits for its server.
func (m *Mount) End() error {
	err := unix.Unmount(m.dir, unix.MNT_DETACH)
	if err != nil {
		err = m.server.Unmount() // by fusermount
	}
	if err != nil {
		return fmt.Errorf("unmounting %s: %w", m.dir, err)
	}
	m.server.Wait()
	return nil
}

// Sweep takes away a mount of ours whose server was killed, and its directory.
func Sweep(dir string) {
	var st unix.Stat_t
	if unix.Stat(dir, &st) != unix.ENOTCONN || !ours(dir) {
		return
	}
	if unix.Unmount(dir, unix.MNT_DETACH) != nil {
		_ = exec.Command("fusermount3", "-uz", dir).Run()
	}
	_ = os.Remove(dir)
}

// ours tells whether what is mounted at dir, dead or not, is a Mount: others'
// file systems answer ENOTCONN too.
func ours(dir string) bool {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	info, err := os.ReadFile(fmt.Sprintf("/proc/self/fdinfo/%d", fd))
	if err != nil {
		return false
	}
	_, after, _ := strings.Cut(string(info), "\nmnt_id:")
	id, _, _ := strings.Cut(after, "\n")
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		mount, what, _ := strings.Cut(line, " - ")
		if strings.HasPrefix(mount, strings.TrimSpace(id)+" ") {
			return strings.HasPrefix(what, "fuse."+name+" "+name+" ")
		}
	}
	return false
}

// A node is a file of the target; its place in the tree is its path.
type node struct {
	fs.Inode
	target Target
	size   atomic.Int64 // as it was told last
}

var (
	_ fs.NodeLookuper   = (*node)(nil)
	_ fs.NodeReaddirer  = (*node)(nil)
	_ fs.NodeGetattrer  = (*node)(nil)
	_ fs.NodeReadlinker = (*node)(nil)
	_ fs.NodeOpener     = (*node)(nil)
	_ fs.NodeReader     = (*node)(nil)
)

func (n *node) path() string { return "/" + n.Path(nil) }

// entry describes a path without following it. One that leads nowhere is only
// in its directory's list.
func (n *node) entry(ctx context.Context, at string) (ide.FileEntry, error) {
	e, err := n.target.Stat(ctx, at)
	if err == nil && e.Symlink {
		return ide.FileEntry{Name: e.Name, Kind: ide.FileSymlink, Target: e.Target, Mode: 0o777, Size: int64(len(e.Target)), Modified: e.Modified}, nil
	}
	if errno(err) != syscall.ENOENT && errno(err) != syscall.ELOOP || at == "/" {
		return e, err
	}
	list, listErr := n.target.List(ctx, path.Dir(at))
	if listErr != nil {
		return e, err
	}
	for _, e := range list {
		if e.Name == path.Base(at) {
			return e, nil
		}
	}
	return e, err
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	e, err := n.entry(ctx, path.Join(n.path(), name))
	if err != nil {
		return nil, errno(err)
	}
	fill(&out.Attr, e)
	child := n.NewInode(ctx, &node{target: n.target}, fs.StableAttr{Mode: typeOf(e.Kind)})
	child.Operations().(*node).size.Store(e.Size)
	return child, 0
}

func (n *node) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	list, err := n.target.List(ctx, n.path())
	if err != nil {
		return nil, errno(err)
	}
	entries := make([]fuse.DirEntry, len(list))
	for i, e := range list {
		entries[i] = fuse.DirEntry{Name: e.Name, Mode: typeOf(e.Kind)}
	}
	return fs.NewListDirStream(entries), 0
}

func (n *node) Getattr(ctx context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	e, err := n.entry(ctx, n.path())
	if err != nil {
		return errno(err)
	}
	fill(&out.Attr, e)
	n.size.Store(e.Size)
	return 0
}

// Open lets read what there is of a file that claims to be empty, as those of
// procfs do.
func (n *node) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return nil, 0, syscall.EROFS
	}
	if n.size.Load() == 0 {
		return nil, fuse.FOPEN_DIRECT_IO, 0
	}
	return nil, 0, 0
}

func (n *node) Read(ctx context.Context, _ fs.FileHandle, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	b, err := n.target.Read(ctx, n.path(), off, len(buf))
	if err != nil {
		return nil, errno(err)
	}
	return fuse.ReadResultData(b), 0
}

func fill(out *fuse.Attr, e ide.FileEntry) {
	out.Mode = typeOf(e.Kind) | e.Mode
	out.Size = uint64(max(e.Size, 0))
	out.Blocks = (out.Size + 511) / 512
	out.Nlink = 1
	at := time.UnixMilli(e.Modified)
	out.SetTimes(&at, &at, &at)
}

// typeOf is a file's type. What is no file here cannot be opened: a FIFO or
// device would be one of this machine.
func typeOf(kind string) uint32 {
	switch kind {
	case ide.FileRegular:
		return syscall.S_IFREG
	case ide.FileDirectory:
		return syscall.S_IFDIR
	case ide.FileSymlink:
		return syscall.S_IFLNK
	}
	return syscall.S_IFSOCK
}

// errno is what an error of the daemon's is to who reads; 0 for none.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if errors.Is(err, context.Canceled) {
		return syscall.EINTR
	}
	if e, ok := errors.AsType[*ide.Error](err); ok && e.Errno != "" {
		for no := syscall.Errno(1); no < 200; no++ {
			if unix.ErrnoName(no) == e.Errno {
				return no
			}
		}
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return syscall.EIO
}
