package files

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

func (fs *nodes) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	n := fs.m[in.NodeId]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	writing := in.Flags&unix.O_ACCMODE != unix.O_RDONLY
	if writing && (n.shared == nil || n.shared.pending == 0) {
		return fuse.Status(syscall.EROFS) // as a second opening through /proc, which nobody has allowed
	}
	if n.shared != nil {
		n.opens++
		out.Fh, out.OpenFlags = fs.opened(n, in), fuse.FOPEN_KEEP_CACHE
		switch {
		case !writing:
			out.OpenFlags |= fuse.FOPEN_NOFLUSH
		case in.Flags&unix.O_APPEND != 0:
			// Through the page cache one write becomes several where it begins in a page
			// that was not read (fuse_fill_write_pages in fs/fuse/file.c), and somebody
			// else's could come between.
			out.OpenFlags = fuse.FOPEN_DIRECT_IO
		}
		return fuse.OK
	}
	n.opens++
	out.OpenFlags = fuse.FOPEN_NOFLUSH | fuse.FOPEN_KEEP_CACHE
	if n.content == nil {
		// A device, or a file that says it is empty, as those of proc and
		// sysfs do: what it has is known by reading only.
		out.OpenFlags = fuse.FOPEN_NOFLUSH | fuse.FOPEN_DIRECT_IO
	}
	return fuse.OK
}

func (fs *nodes) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if in.NodeId == fuse.FUSE_ROOT_ID {
		return fuse.EACCES // what is open is nobody else's business
	}
	n := fs.m[in.NodeId]
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	n.opens++
	return fuse.OK
}

func (fs *nodes) Release(_ <-chan struct{}, in *fuse.ReleaseIn) { fs.release(in.NodeId, in.Fh) }

func (fs *nodes) ReleaseDir(in *fuse.ReleaseIn) { fs.release(in.NodeId, in.Fh) }

// release ends a node with its last descriptor.
func (fs *nodes) release(id, handle uint64) {
	fs.mu.Lock()
	n := fs.m[id]
	if n == nil {
		fs.mu.Unlock()
		return
	}
	if n.shared != nil {
		delete(n.shared.openings, handle)
	}
	n.opens--
	last := n.opens == 0 && (n.shared == nil || n.shared.pending == 0)
	if last {
		delete(fs.m, id)
	}
	fs.mu.Unlock()
	if !last {
		return
	}
	if n.shared != nil {
		fs.dropContent(n)
	} else if n.content != nil {
		fs.cache.close(n.content)
	}
	fs.pool.closed()
	fs.end(n)
}

func (fs *nodes) Read(interrupt <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n := fs.node(in.NodeId)
	if n == nil {
		return nil, fuse.Status(syscall.ESTALE)
	}
	size := min(len(buf), maxRead)
	content := n.content
	if n.shared != nil {
		content = n.shared.content.Load()
	}
	if content != nil {
		parts, errno := fs.cache.read(interrupt, content, int64(in.Offset), size)
		if errno != 0 {
			return nil, fuse.Status(errno)
		}
		return parts, fuse.OK
	}
	b, errno := fs.fetches.do(interrupt, request{op: opRead, node: n.id, off: int64(in.Offset), n: uint32(size), age: n.shared.age()})
	if errno != 0 {
		return nil, fuse.Status(errno)
	}
	return fuse.ReadResultData(b), fuse.OK
}

// ReadDir tells "." and ".." as entries 0 and 1 and the target's after them;
// an offset is the number of the entry it precedes.
func (fs *nodes) ReadDir(interrupt <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	off := in.Offset
	for i := off; i < 2; i++ {
		dot := fuse.DirEntry{Name: ".."[:i+1], Mode: fuse.S_IFDIR, Off: i + 1}
		if i == 0 {
			dot.Ino = fs.attrOf(n).Ino
		}
		out.AddDirEntry(dot)
		off = i + 1
	}
	l, errno := fs.list(interrupt, n, int(off-2), in.Offset == 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	for i := int(off-2) - l.first; i < len(l.list); i++ {
		e := l.list[i]
		if !out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: uint32(e.Type) << 12, Off: uint64(l.first + i + 3)}) {
			break
		}
	}
	return fuse.OK
}

// list returns a listing that has entry i, if there is one. fresh: the reader
// begins anew and shall see the directory as it is.
func (fs *nodes) list(interrupt <-chan struct{}, n *node, i int, fresh bool) (*listing, syscall.Errno) {
	n.mu.Lock()
	l := n.listing
	n.mu.Unlock()
	if l != nil && !fresh && i >= l.first && (i < l.first+len(l.list) || !l.more) {
		return l, 0
	}
	b, errno := fs.fetches.do(interrupt, request{op: opReadDir, node: n.id, off: int64(i)})
	if errno != 0 {
		return nil, errno
	}
	l, ok := decodeListing(b, i)
	if !ok {
		return nil, syscall.EIO
	}
	n.mu.Lock()
	n.listing = l
	n.mu.Unlock()
	return l, 0
}
