package browse

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A node is a file of the target; its place in the tree is its path.
type node struct {
	fs.Inode
	target Target
}

var _ interface {
	fs.NodeLookuper
	fs.NodeReaddirer
	fs.NodeGetattrer
	fs.NodeReadlinker
	fs.NodeAccesser
	fs.NodeOpener
	fs.NodeStatfser
} = (*node)(nil)

// path is where the node was seen last. That of one which is gone leads nowhere.
func (n *node) path() string { return "/" + n.Path(n.Root()) }

func (n *node) at(name string) string { return join(n.path(), name) }

func join(dir, name string) string {
	if dir == "/" {
		return dir + name
	}
	return dir + "/" + name
}

// during does what waits for the target. Who is interrupted does not wait; what
// comes too late goes to undo.
func during[T any](ctx context.Context, do func() (T, error), undo func(T)) (T, syscall.Errno) {
	type result struct {
		t   T
		err error
	}
	results := make(chan result)
	go func() {
		t, err := do()
		select {
		case results <- result{t, err}:
		case <-ctx.Done():
			if err == nil && undo != nil {
				undo(t)
			}
		}
	}()
	select {
	case r := <-results:
		return r.t, errno(r.err)
	case <-ctx.Done():
		var none T
		return none, syscall.EINTR
	}
}

func (n *node) stat(ctx context.Context, at string) (protocol.Attr, syscall.Errno) {
	return during(ctx, func() (protocol.Attr, error) { return n.target.Stat(at) }, nil)
}

func (n *node) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	a, errno := n.stat(ctx, n.at(name))
	if errno != 0 {
		return nil, errno
	}
	return n.child(ctx, a, &out.Attr), 0
}

// child is the node of an entry. A file is the same one by all its names.
func (n *node) child(ctx context.Context, a protocol.Attr, out *fuse.Attr) *fs.Inode {
	fill(out, a)
	const reserved = 2 // those below are the mount's
	ino := max(a.Ino^(a.Dev<<32|a.Dev>>32), reserved)
	return n.NewInode(ctx, &node{target: n.target}, fs.StableAttr{Mode: typeOf(a.Mode), Ino: ino})
}

func (n *node) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	dir, errno := n.open(ctx, syscall.O_RDONLY|syscall.O_DIRECTORY)
	if errno != 0 {
		return nil, errno
	}
	defer dir.Close()
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, syscall.EIO
	}
	return fs.NewLoopbackDirStreamFd(fd)
}

func (n *node) open(ctx context.Context, flags int) (*os.File, syscall.Errno) {
	return during(ctx, func() (*os.File, error) { return n.target.Open(n.path(), flags, 0) }, func(f *os.File) { f.Close() })
}

func (n *node) Getattr(ctx context.Context, h fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	a, errno := n.stat(ctx, n.path())
	if f, ok := h.(*file); ok && errno == syscall.ENOENT { // it has no name any more
		return f.stat(ctx, out)
	}
	if errno == 0 {
		fill(&out.Attr, a)
	}
	return errno
}

// Statfs tells of the target's file systems, how much room there is, to who copies
// into them.
func (n *node) Statfs(ctx context.Context, out *fuse.StatfsOut) syscall.Errno {
	at := n.path()
	s, errno := during(ctx, func() (protocol.StatfsReply, error) { return n.target.Statfs(at) }, nil)
	if errno == 0 {
		out.Bsize, out.Frsize, out.NameLen = uint32(s.Bsize), uint32(s.Frsize), uint32(s.Namelen)
		out.Blocks, out.Bfree, out.Bavail, out.Files, out.Ffree = s.Blocks, s.Bfree, s.Bavail, s.Files, s.Ffree
	}
	return errno
}

// Access asks the target: the owners and modes that are shown are its own.
func (n *node) Access(ctx context.Context, mask uint32) syscall.Errno {
	at := n.path()
	_, errno := during(ctx, func() (struct{}, error) { return struct{}{}, n.target.Access(at, mask) }, nil)
	return errno
}

// Open opens for reading what claims to be empty, as files of procfs do, and
// what is to be written past the cache: each read is of what is there by then.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	f, errno := n.open(ctx, int(flags)&(syscall.O_ACCMODE|syscall.O_APPEND|syscall.O_TRUNC|syscall.O_SYNC))
	if errno != 0 {
		return nil, 0, errno
	}
	h := newFile(f, flags)
	if h.writes {
		return h, fuse.FOPEN_DIRECT_IO, 0
	}
	if st, err := f.Stat(); err != nil || st.Size() == 0 {
		return h, fuse.FOPEN_DIRECT_IO, 0
	}
	return h, 0, 0
}

// A file is an open one.
type file struct {
	f              *os.File
	writes, append bool
}

var _ interface {
	fs.FileReader
	fs.FileWriter
	fs.FileFlusher
	fs.FileFsyncer
	fs.FileAllocater
	fs.FileReleaser
} = (*file)(nil)

func newFile(f *os.File, flags uint32) *file {
	h := &file{f: f, writes: flags&syscall.O_ACCMODE != syscall.O_RDONLY, append: flags&syscall.O_APPEND != 0}
	if h.writes {
		_ = h.close() // the first is taken for that of a launcher, which hears of no failure
	}
	return h
}

func (h *file) Read(ctx context.Context, buf []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	b, errno := during(ctx, func() ([]byte, error) {
		b := make([]byte, len(buf)) // buf is another's after an interrupt
		n, err := h.f.ReadAt(b, off)
		if err == io.EOF {
			err = nil
		}
		return b[:n], err
	}, nil)
	return fuse.ReadResultData(b), errno
}

func (h *file) Write(_ context.Context, b []byte, off int64) (uint32, syscall.Errno) {
	var n int
	var err error
	if h.append {
		n, err = h.f.Write(b)
	} else {
		n, err = h.f.WriteAt(b, off)
	}
	return uint32(n), errno(err)
}

// Flush is a close(2), which tells what could not be written.
func (h *file) Flush(context.Context) syscall.Errno {
	if !h.writes {
		return 0
	}
	return errno(h.close())
}

// close closes another descriptor of the file, and so waits for what was written.
func (h *file) close() error {
	raw, err := h.f.SyscallConn()
	if err != nil {
		return err
	}
	outer := raw.Control(func(fd uintptr) {
		var other int
		if other, err = unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0); err == nil {
			err = unix.Close(other)
		}
	})
	return errors.Join(outer, err)
}

func (h *file) Fsync(context.Context, uint32) syscall.Errno { return errno(h.f.Sync()) }

func (h *file) Allocate(_ context.Context, off, size uint64, mode uint32) syscall.Errno {
	raw, err := h.f.SyscallConn()
	if err != nil {
		return errno(err)
	}
	outer := raw.Control(func(fd uintptr) { err = unix.Fallocate(int(fd), mode, int64(off), int64(size)) })
	return errno(errors.Join(outer, err))
}

func (h *file) Release(context.Context) syscall.Errno { return errno(h.f.Close()) }

func (h *file) stat(ctx context.Context, out *fuse.AttrOut) syscall.Errno {
	st, errno := during(ctx, func() (os.FileInfo, error) { return h.f.Stat() }, nil)
	if errno == 0 {
		out.FromStat(st.Sys().(*syscall.Stat_t))
	}
	return errno
}

func fill(out *fuse.Attr, a protocol.Attr) {
	out.Mode = typeOf(a.Mode) | a.Mode&0o7777
	out.Size, out.Blocks, out.Nlink = uint64(max(a.Size, 0)), uint64(max(a.Blocks, 0)), a.Nlink
	out.Owner = fuse.Owner{Uid: a.UID, Gid: a.GID}
	atime, mtime, ctime := time.Unix(0, a.Atime), time.Unix(0, a.Mtime), time.Unix(0, a.Ctime)
	out.SetTimes(&atime, &mtime, &ctime)
}

// typeOf is a file's type. What is no file here cannot be opened: a FIFO or
// device would be one of this machine.
func typeOf(mode uint32) uint32 {
	switch t := mode & syscall.S_IFMT; t {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK:
		return t
	}
	return syscall.S_IFSOCK
}

// errno is what an error is to who looks; 0 for none.
func errno(err error) syscall.Errno {
	if err == nil {
		return 0
	}
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return e
	}
	return syscall.EIO
}
