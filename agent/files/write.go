package files

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// openChange opens a file not only for reading, as the target's user. There is
// always a handle to close: what may change is nobody's to keep.
func (h *Handles) openChange(q protocol.Open) (protocol.OpenReply, error) {
	var reply protocol.OpenReply
	var f *os.File
	err := h.act(q.Change.Umask, func() (err error) {
		f, err = h.openAs(q)
		return err
	})
	if err != nil {
		return reply, err
	}
	n := node{file: f}
	if err = unix.Fstat(int(f.Fd()), &n.stat); err == nil {
		n.path, err = h.resolved(&n)
	}
	if err == nil {
		reply = protocol.OpenReply{Attr: attrOf(&n.stat), Path: protocol.Path(n.path)}
		reply.Handle, err = h.add(&n, f, q.Change.Write)
	}
	if err == nil && !q.Change.Temporary {
		reply.Seq = h.settle(h.entry(&n))
	}
	if err != nil {
		f.Close()
	}
	return reply, err
}

// openAs opens q's file, with the rights of the thread. What is neither a
// regular file nor a directory is not touched, unless it is made meanwhile.
func (t *Tree) openAs(q protocol.Open) (*os.File, error) {
	c := q.Change
	w, err := t.way(string(q.Path), q.Walk)
	if err != nil {
		return nil, err
	}
	defer w.close()
	flags := unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY | access(c)
	if c.Temporary {
		flags |= unix.O_TMPFILE
		if c.Exclusive {
			flags |= unix.O_EXCL
		}
		return w.openAt(flags, c.Mode)
	}
	if c.Truncate {
		flags |= unix.O_TRUNC
	}
	if c.Create && strings.HasSuffix(w.path, "/") { // no file is made so, as is the kernel's to tell
		return w.openAt(flags|unix.O_CREAT, c.Mode)
	}
	n, err := w.open(noFollow(q.NoFollow || c.Create && c.Exclusive))
	switch {
	case err == nil:
		defer n.Close()
		return n.openFor(q, flags)
	case err != unix.ENOENT || !c.Create:
		return nil, err
	}
	flags |= unix.O_CREAT
	if c.Exclusive {
		flags |= unix.O_EXCL
	}
	if q.NoFollow {
		flags |= unix.O_NOFOLLOW
	}
	// What somebody else has made by now is opened, as on a local disk. Only a
	// FIFO or device made in this moment is touched: opened, and closed again.
	return w.openAt(flags, c.Mode)
}

func access(c *protocol.OpenChange) int {
	switch {
	case c.Read && c.Write:
		return unix.O_RDWR
	case c.Write:
		return unix.O_WRONLY
	}
	return unix.O_RDONLY
}

// openFor opens the node itself.
func (n *node) openFor(q protocol.Open, flags int) (*os.File, error) {
	c := q.Change
	switch kind := n.kind(); {
	case c.Create && c.Exclusive:
		return nil, unix.EEXIST
	case kind == unix.S_IFLNK:
		return nil, unix.ELOOP
	case q.Directory && kind != unix.S_IFDIR:
		return nil, unix.ENOTDIR
	case kind == unix.S_IFDIR:
		return nil, unix.EISDIR
	case kind != unix.S_IFREG:
		return nil, fmt.Errorf("not a regular file: %w", unix.ENXIO)
	}
	fd, err := persisting(func() (int, error) { return unix.Open(procFD(n.file), flags, 0) })
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), n.path), nil
}

// openAt opens, and makes, what the way leads to.
func (w *way) openAt(flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{Flags: uint64(flags), Mode: uint64(mode & 0o7777), Resolve: w.resolve}
	fd, err := persisting(func() (int, error) { return unix.Openat2(int(w.dir.Fd()), w.path, &how) })
	if err != nil {
		return nil, err
	}
	var st unix.Stat_t
	if err = unix.Fstat(fd, &st); err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = unix.ENXIO
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), w.path), nil
}

// raceRetries is how often a lookup is tried again that a rename disturbed.
const raceRetries = 64

// persisting tries again what was interrupted or is to be tried again. Not for
// ever: a file of the kernel's may mean by EAGAIN that it cannot, as
// memory.reclaim of cgroups does.
func persisting(f func() (int, error)) (n int, err error) {
	for range raceRetries {
		if n, err = f(); err != unix.EINTR && err != unix.EAGAIN {
			break
		}
	}
	return n, err
}

// Write does to an open file what q asks, which is told even where nothing is
// to be changed.
func (h *Handles) Write(q protocol.Write, data []byte) (protocol.WriteReply, error) {
	var reply protocol.WriteReply
	o, err := h.get(q.Handle)
	if err != nil {
		return reply, err
	}
	raw, err := o.file.SyscallConn()
	if err != nil {
		return reply, closed(err)
	}
	outer := raw.Control(func(fd uintptr) {
		var st unix.Stat_t
		if err = unix.Fstat(int(fd), &st); err != nil {
			return
		}
		before := attrOf(&st)
		reply.Before, reply.Attr = before.Stamp(), before
		if reply.Offset, err = h.do(int(fd), st.Mode, q, data); err != nil || q.Do == protocol.WriteStat {
			return
		}
		if err = unix.Fstat(int(fd), &st); err == nil {
			reply.Attr = attrOf(&st)
		}
	})
	if outer != nil {
		err = closed(outer)
	}
	return reply, err
}

func (h *Handles) do(fd int, mode uint32, q protocol.Write, data []byte) (offset int64, err error) {
	switch q.Do {
	case protocol.WriteData:
		return 0, h.changing(mode, func() error { return writeAll(fd, q, data) })
	case protocol.WriteAttr:
		if q.Set == nil {
			return 0, unix.EINVAL
		}
		return 0, h.set(fd, mode, q.Set)
	case protocol.WriteSync:
		if q.Flags&protocol.WriteDataOnly != 0 {
			return 0, unix.Fdatasync(fd)
		}
		return 0, unix.Fsync(fd)
	case protocol.WriteAllocate:
		return 0, h.changing(mode, func() error {
			return retrying(func() error { return unix.Fallocate(fd, q.Flags, q.Offset, q.Length) })
		})
	case protocol.WriteSeek:
		if q.Whence != unix.SEEK_DATA && q.Whence != unix.SEEK_HOLE {
			return 0, unix.EINVAL
		}
		return unix.Seek(fd, q.Offset, q.Whence)
	case protocol.WriteStat:
		return 0, nil
	}
	return 0, unix.ENOSYS
}

// changing calls f, which changes the content of a file of that mode. A program
// that runs as another stops to, by the kernel's doing, unless who changes it
// may keep that: there it must be the target's user.
func (t *Tree) changing(mode uint32, f func() error) error {
	if mode&(unix.S_ISUID|unix.S_ISGID) == 0 {
		return f()
	}
	return t.act(0, f)
}

// Flags of pwritev2(2).
const (
	rwfDSync  = 0x2
	rwfSync   = 0x4
	rwfAppend = 0x10
)

func writeAll(fd int, q protocol.Write, data []byte) error {
	if q.Offset < 0 {
		return unix.EINVAL
	}
	flags := 0
	for _, f := range [...]struct{ ours, theirs int }{
		{protocol.WriteAppend, rwfAppend}, {protocol.WriteSynced, rwfSync}, {protocol.WriteDataOnly, rwfDSync},
	} {
		if q.Flags&uint32(f.ours) != 0 {
			flags |= f.theirs
		}
	}
	for off := q.Offset; len(data) > 0; {
		n, err := persisting(func() (int, error) { return unix.Pwritev2(fd, [][]byte{data}, off, flags) })
		switch {
		case err != nil:
			return err
		case n == 0:
			return unix.EIO
		}
		off, data = off+int64(n), data[n:]
	}
	return nil
}

func retrying(f func() error) error {
	for {
		if err := f(); err != unix.EINTR {
			return err
		}
	}
}

// set changes attributes. The size is the descriptor's to change, all else the user's.
func (h *Handles) set(fd int, mode uint32, s *protocol.SetAttr) error {
	if s.Size != nil {
		err := h.changing(mode, func() error {
			return retrying(func() error { return unix.Ftruncate(fd, *s.Size) })
		})
		if err != nil {
			return err
		}
	}
	if s.Mode == nil && s.UID == nil && s.GID == nil && s.Atime == nil && s.Mtime == nil {
		return nil
	}
	return h.act(0, func() error {
		if s.UID != nil || s.GID != nil {
			if err := unix.Fchown(fd, id(s.UID), id(s.GID)); err != nil {
				return err
			}
		}
		if s.Mode != nil {
			if err := unix.Fchmod(fd, *s.Mode&0o7777); err != nil {
				return err
			}
		}
		if s.Atime == nil && s.Mtime == nil {
			return nil
		}
		times := []unix.Timespec{timespec(s.Atime), timespec(s.Mtime)}
		return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	})
}

func id(n *uint32) int {
	if n == nil {
		return -1
	}
	return int(*n)
}

func timespec(t *protocol.Time) unix.Timespec {
	switch {
	case t == nil:
		return unix.Timespec{Nsec: unix.UTIME_OMIT}
	case t.Now:
		return unix.Timespec{Nsec: unix.UTIME_NOW}
	}
	return unix.NsecToTimespec(t.NS)
}

// A fileID is by which a file is the same one by all its names.
type fileID struct{ dev, ino uint64 }

func idOf(s *unix.Stat_t) fileID { return fileID{s.Dev, s.Ino} }

// writers are the files that a client may write to: what was answered of them
// is not to be kept.
type writers struct {
	mu sync.Mutex
	m  map[fileID]int // guarded by mu
}

func (w *writers) add(id fileID, n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.m == nil {
		w.m = map[fileID]int{}
	}
	if w.m[id] += n; w.m[id] <= 0 {
		delete(w.m, id)
	}
}

func (w *writers) has(id fileID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.m[id] > 0
}
