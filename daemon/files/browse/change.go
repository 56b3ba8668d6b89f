package browse

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

var _ interface {
	fs.NodeCreater
	fs.NodeMkdirer
	fs.NodeMknoder
	fs.NodeSymlinker
	fs.NodeLinker
	fs.NodeUnlinker
	fs.NodeRmdirer
	fs.NodeRenamer
	fs.NodeSetattrer
} = (*node)(nil)

// What is changed is waited for, whoever is interrupted: it is done or not.

// made gives the node of what was just made.
func (n *node) made(ctx context.Context, name string, out *fuse.EntryOut, err error) (*fs.Inode, syscall.Errno) {
	if err != nil {
		return nil, errno(err)
	}
	a, err := n.target.Stat(n.at(name))
	if err != nil {
		return nil, errno(err)
	}
	return n.child(ctx, a, &out.Attr), 0
}

func (n *node) change(op protocol.ChangeOp, name string, mode uint32) error {
	return n.target.Change(protocol.Change{Op: op, Path: protocol.Path(n.at(name)), Mode: mode}) // which the kernel has masked
}

func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	f, err := n.target.Open(n.at(name), int(flags)|syscall.O_CREAT, mode)
	child, errno := n.made(ctx, name, out, err)
	if errno != 0 {
		if err == nil {
			f.Close()
		}
		return nil, nil, 0, errno
	}
	return child, newFile(f, flags), fuse.FOPEN_DIRECT_IO, 0
}

func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.made(ctx, name, out, n.change(protocol.ChangeMkdir, name, mode))
}

// Mknod makes what can be shown as what it is.
func (n *node) Mknod(ctx context.Context, name string, mode, _ uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if t := mode & syscall.S_IFMT; t != syscall.S_IFREG {
		return nil, syscall.EPERM
	}
	return n.made(ctx, name, out, n.change(protocol.ChangeMknod, name, mode))
}

func (n *node) Symlink(ctx context.Context, text, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return n.made(ctx, name, out, n.target.Change(protocol.Change{Op: protocol.ChangeSymlink, Path: protocol.Path(n.at(name)), Other: protocol.Path(text)}))
}

func (n *node) Link(ctx context.Context, to fs.InodeEmbedder, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	old := to.(*node).path()
	return n.made(ctx, name, out, n.target.Change(protocol.Change{
		Op: protocol.ChangeLink, Path: protocol.Path(old), Other: protocol.Path(n.at(name)), NoFollow: true,
	}))
}

func (n *node) Unlink(_ context.Context, name string) syscall.Errno {
	return errno(n.change(protocol.ChangeUnlink, name, 0))
}

func (n *node) Rmdir(_ context.Context, name string) syscall.Errno {
	return errno(n.change(protocol.ChangeRmdir, name, 0))
}

func (n *node) Rename(_ context.Context, name string, dir fs.InodeEmbedder, other string, flags uint32) syscall.Errno {
	return errno(n.target.Change(protocol.Change{
		Op: protocol.ChangeRename, Path: protocol.Path(n.at(name)), Other: protocol.Path(dir.(*node).at(other)), Flags: flags,
	}))
}

// Setattr sets the size by a descriptor, all else by name.
func (n *node) Setattr(ctx context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	at := n.path()
	if size, ok := in.GetSize(); ok {
		if errno := n.setSize(h, at, int64(size)); errno != 0 {
			return errno
		}
	}
	for _, q := range changesOf(in) {
		q.Path, q.NoFollow = protocol.Path(at), true
		if err := n.target.Change(q); err != nil {
			return errno(err)
		}
	}
	return n.Getattr(ctx, h, out)
}

func (n *node) setSize(h fs.FileHandle, at string, size int64) syscall.Errno {
	if f, ok := h.(*file); ok && f.writes {
		return errno(f.f.Truncate(size))
	}
	f, err := n.target.Open(at, syscall.O_WRONLY, 0)
	if err != nil {
		return errno(err)
	}
	defer f.Close()
	return errno(f.Truncate(size))
}

func changesOf(in *fuse.SetAttrIn) (list []protocol.Change) {
	const as = ^uint32(0)
	uid, u := in.GetUID()
	gid, g := in.GetGID()
	if u || g {
		q := protocol.Change{Op: protocol.ChangeOwner, UID: as, GID: as}
		if u {
			q.UID = uid
		}
		if g {
			q.GID = gid
		}
		list = append(list, q)
	}
	if mode, ok := in.GetMode(); ok {
		list = append(list, protocol.Change{Op: protocol.ChangeMode, Mode: mode & 0o7777})
	}
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		list = append(list, protocol.Change{Op: protocol.ChangeTimes, Times: []protocol.Timespec{
			timeOf(in, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec),
			timeOf(in, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec),
		}})
	}
	return list
}

func timeOf(in *fuse.SetAttrIn, set, now uint32, sec uint64, nsec uint32) protocol.Timespec {
	switch {
	case in.Valid&set == 0:
		return protocol.Timespec{Nsec: unix.UTIME_OMIT}
	case in.Valid&now != 0:
		return protocol.Timespec{Nsec: unix.UTIME_NOW}
	}
	return protocol.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
}
