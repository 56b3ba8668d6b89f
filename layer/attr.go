package layer

import (
	"strconv"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// quickFstat: trapped because programs compare what stat and fstat tell (cp,
// tar), and a memfd alone has an inode of this machine. Until the first file
// is injected it costs a trap and nothing else.
func quickFstat(c *call) bool {
	c.file = c.l.files.byFD(c, int32(c.Args[c.hook.dir]))
	return c.file == nil
}

// slowFstat: of what does not change while it is open the file server, too, tells
// what was so when it was opened.
func slowFstat(c *call) answer {
	f := c.file
	if f.id == 0 || time.Now().Before(f.until) {
		return c.tell(c.attrOf(f))
	}
	if !c.l.files.inUse(f.id) {
		return fail(unix.EIO) // as all that is done to it
	}
	r := c.l.Daemon.call(&wire.Request{Op: wire.OpStat, Node: f.id & (1<<nodeBits - 1)})
	closeFD(r.fd)
	if r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	if c.path == "" && r.Attr.Mode&unix.S_IFMT == unix.S_IFREG {
		c.kernelKnows(r.Attr.Size)
	}
	return c.tell(&r.Attr)
}

// kernelKnows has the kernel ask, too, if it has another size of the descriptor's
// file: who was told that it has grown may touch all of it in a mapping, and gets a
// SIGBUS where the kernel knows nothing of it.
func (c *call) kernelKnows(size int64) {
	link := c.proc("") + "fd/" + strconv.Itoa(int(int32(c.Args[c.hook.dir])))
	for _, sync := range []int{unix.AT_STATX_DONT_SYNC, unix.AT_STATX_FORCE_SYNC} {
		var st unix.Statx_t
		err := unix.EINTR
		for err == unix.EINTR { // by a signal to us
			e := unix.Statx(unix.AT_FDCWD, link, sync, unix.STATX_SIZE, &st)
			err, _ = e.(unix.Errno)
		}
		if err != 0 || st.Size == uint64(size) {
			return
		}
	}
}

// attrOf asks again for a file that came whole if the debuggee has changed any
// by name since: it may be this one.
func (c *call) attrOf(f *file) *protocol.Attr {
	if !f.whole {
		return &f.attr
	}
	known, changes := f.known(), c.l.files.changes.Load()
	if known.changes == changes {
		return known.tell()
	}
	now := &changedAttr{known.attr, changes, known.gone}
	switch r := c.stat(f.path, true); {
	case r.Errno == 0 && r.Attr.Ino == f.attr.Ino && r.Attr.Dev == f.attr.Dev:
		now.attr, now.gone = r.Attr, false
	case r.Errno == 0 || unix.Errno(r.Errno) == unix.ENOENT || unix.Errno(r.Errno) == unix.ENOTDIR:
		now.gone = true
	}
	f.newer.Store(now)
	return now.tell()
}

// known is what was heard last of a whole file.
func (f *file) known() *changedAttr {
	if newer := f.newer.Load(); newer != nil {
		return newer
	}
	return &changedAttr{attr: f.attr, changes: f.seen}
}

// knownOf is attrOf if nobody need be asked, else nil.
func (c *call) knownOf(f *file) *protocol.Attr {
	if !f.whole {
		return nil
	}
	if known := f.known(); known.changes == c.l.files.changes.Load() {
		return known.tell()
	}
	return nil
}

// tell is what fstat(2) tells. Of a file that is not found any more nothing is
// known but that the name was one of its names.
func (k *changedAttr) tell() *protocol.Attr {
	a := k.attr
	if k.gone {
		a.Nlink = max(a.Nlink, 1) - 1
	}
	return &a
}

func slowStat(c *call) answer {
	if c.file != nil {
		return slowFstat(c)
	}
	if c.here() {
		return c.statHere()
	}
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	r := c.stat(c.path, c.noFollow())
	if r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	return c.tell(&r.Attr)
}

func (c *call) noFollow() bool {
	return c.hook.Call == seccomp.Lstat || c.hook.flags != no && c.Args[c.hook.flags]&unix.AT_SYMLINK_NOFOLLOW != 0
}

// tell writes a where the call, which is one of stat's kin, wants it.
func (c *call) tell(a *protocol.Attr) answer {
	switch c.hook.Call {
	case seccomp.Statx:
		return answer{writes: []memory{{c.Args[4], statx(a)}}}
	case seccomp.Newfstatat:
		return answer{writes: []memory{{c.Args[2], stat(a)}}}
	}
	return answer{writes: []memory{{c.Args[1], stat(a)}}}
}

func stat(a *protocol.Attr) []byte {
	st := new(unix.Stat_t)
	fillStat(st, a)
	return unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
}

func statx(a *protocol.Attr) []byte {
	st := &unix.Statx_t{
		Mask: unix.STATX_BASIC_STATS, Blksize: uint32(a.Blksize), Nlink: a.Nlink, Uid: a.UID, Gid: a.GID, Mode: uint16(a.Mode),
		Ino: a.Ino, Size: uint64(a.Size), Blocks: uint64(a.Blocks), Atime: statxTime(a.Atime), Mtime: statxTime(a.Mtime), Ctime: statxTime(a.Ctime),
		Rdev_major: unix.Major(a.Rdev), Rdev_minor: unix.Minor(a.Rdev), Dev_major: unix.Major(a.Dev), Dev_minor: unix.Minor(a.Dev),
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
}

func statxTime(ns int64) unix.StatxTimestamp {
	ts := unix.NsecToTimespec(ns)
	return unix.StatxTimestamp{Sec: int64(ts.Sec), Nsec: uint32(ts.Nsec)}
}

func statfs(st *unix.Statfs_t) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))
}

func slowAccess(c *call) answer {
	if c.here() {
		if err := unix.Faccessat(unix.AT_FDCWD, c.path, uint32(c.Args[c.hook.path+1]), 0); err != nil {
			return failWith(err)
		}
		return value(0)
	}
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	mode := uint32(c.Args[c.hook.path+1])
	if mode&^(unix.R_OK|unix.W_OK|unix.X_OK) != 0 {
		return fail(unix.EINVAL)
	}
	asked := mode
	if !c.verdict.Writable {
		asked &^= unix.W_OK
	}
	if errno := c.l.Daemon.access(c.path, asked); errno != 0 {
		return fail(errno)
	}
	if mode != asked {
		return fail(unix.EROFS)
	}
	return value(0)
}

// quickReadlink: a link in /proc that names an injected file must not name
// what stands for it here.
func quickReadlink(c *call) bool {
	if !quickPath(c) {
		return false
	}
	switch task, fd, rest, ok := c.cutFD(c.path); {
	case c.path == "" && c.hook.dir != no: // it may be the descriptor of a link
		if f := c.l.files.byFD(c, int32(c.Args[c.hook.dir])); f != nil && f.bare {
			c.path, c.verdict = f.path, c.remote(f.path)
			return false
		}
	case ok && rest == "" && c.verdict.Kind == policy.Local:
		if c.file = c.l.files.of(task, fd); c.file == nil && fd == unix.AT_FDCWD {
			return !c.forgets(task, fd)
		}
	}
	return c.file == nil
}

func slowReadlink(c *call) answer {
	to, size := c.hook.path+1, int32(c.Args[c.hook.path+2])
	if size <= 0 {
		return fail(unix.EINVAL)
	}
	var text []byte
	switch {
	case c.file != nil:
		text = []byte(c.file.path)
	case c.here():
		var err error
		if text, err = c.readlinkHere(); err != nil {
			return failWith(err)
		}
	default:
		if errno := c.refused(); errno != 0 {
			return fail(errno)
		}
		link, errno := c.l.Daemon.readlink(c.path)
		if errno != 0 {
			return fail(errno)
		}
		text = []byte(link)
	}
	text = text[:min(len(text), int(size))]
	return answer{val: int64(len(text)), writes: []memory{{c.Args[to], text}}}
}
