package files

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
)

// The root's names are the daemon's to make: nobody else makes or removes one.

const readOnly = fuse.Status(syscall.EROFS)

func (fs *nodes) Create(<-chan struct{}, *fuse.CreateIn, string, *fuse.CreateOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Tmpfile(<-chan struct{}, *fuse.CreateIn, *fuse.CreateOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Mknod(<-chan struct{}, *fuse.MknodIn, string, *fuse.EntryOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Mkdir(<-chan struct{}, *fuse.MkdirIn, string, *fuse.EntryOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Symlink(<-chan struct{}, *fuse.InHeader, string, string, *fuse.EntryOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Link(<-chan struct{}, *fuse.LinkIn, string, *fuse.EntryOut) fuse.Status {
	return readOnly
}

func (fs *nodes) Unlink(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return readOnly }

func (fs *nodes) Rmdir(<-chan struct{}, *fuse.InHeader, string) fuse.Status { return readOnly }

func (fs *nodes) Rename(<-chan struct{}, *fuse.RenameIn, string, string) fuse.Status {
	return readOnly
}
