package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

func slowOpen(c *call) answer {
	return c.open(int(c.Args[c.hook.flags]), uint32(c.Args[c.hook.flags+1]))
}

func slowCreat(c *call) answer {
	return c.open(unix.O_CREAT|unix.O_WRONLY|unix.O_TRUNC, uint32(c.Args[1]))
}

// open gives the debuggee the target's file. mode is of one that is made.
func (c *call) open(flags int, mode uint32) answer {
	if c.here() {
		return c.openHere(flags, mode)
	}
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	if flags&unix.O_PATH != 0 {
		return c.openPath(flags)
	}
	switch {
	case changeFlags(flags) == 0:
	case c.verdict.Writable:
		return c.openChange(flags, mode)
	default:
		if errno := c.mayWrite(flags); errno != 0 {
			c.l.Daemon.opened(c, openFlags(flags)|wire.OpenWrite, errno, 0)
			return fail(errno)
		}
	}
	fd, err := c.openRemote(flags)
	if errno, ok := err.(unix.Errno); ok {
		return fail(errno)
	}
	if err != nil {
		c.l.log.Debug("opening an injected file", "path", c.path, "err", err)
		return failWith(err)
	}
	return give(fd, flags)
}

// give is the answer to an open: fd, which is ours to close.
func give(fd, flags int) answer {
	return answer{
		hasFD: true, inject: fd, cloexec: flags&unix.O_CLOEXEC != 0,
		settle: func(bool) { unix.Close(fd) },
	}
}

// openRemote opens the target's file, from what is known of it or by asking.
func (c *call) openRemote(flags int) (int, error) {
	known := c.l.Daemon.kept()
	q := question{c.path, flags&unix.O_NOFOLLOW != 0}
	if flags&unix.O_DIRECTORY == 0 && c.walk.dir == "" {
		switch k := known.get(q); {
		case k == nil:
		case k.errno != 0:
			c.l.Daemon.opened(c, 0, k.errno, 0)
			return -1, k.errno
		case k.whole:
			c.l.Daemon.opened(c, 0, 0, k.attr.Size)
			return known.open(k, &c.l.files)
		}
	}
	ask := openFlags(flags)
	if c.verdict.Writable {
		ask |= wire.OpenMayChange
	}
	r := c.l.Daemon.call(c.ask(wire.Request{Op: wire.OpOpen, Flags: ask, Mode: c.TID}))
	switch {
	case r.Errno != 0:
		known.put(q, r.Lease, &kept{errno: unix.Errno(r.Errno)})
		return -1, unix.Errno(r.Errno)
	case r.fd >= 0 && r.Flags&wire.ReplyNode == 0 && r.Attr.Mode&unix.S_IFMT == unix.S_IFREG && r.Attr.Size <= maxWhole:
		if content, ok := contentOf(r.fd, r.Attr.Size); ok {
			closeFD(r.fd)
			k := &kept{attr: r.Attr, content: content, whole: true}
			k.path = k.told(r.Flags, r.Data)
			if c.walk.dir != "" { // it is followed by its own path
				q = question{k.path, true}
			}
			k.asked = q
			known.put(q, r.Lease, k)
			return known.open(k, &c.l.files)
		}
	}
	return c.l.files.open(r, c.path, flags)
}

// known answers a call by what the daemon said before, in the receiver: it asks
// nobody. Giving a descriptor takes until the caller's thread runs, which is less
// than to hand it to a goroutine.
func (c *call) known() (answer, bool) {
	if c.file != nil {
		return c.knownFile()
	}
	if c.verdict.Kind != policy.Remote {
		return answer{}, false
	}
	const plain = unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_NOFOLLOW | largeFile
	cache := c.l.Daemon.kept()
	var k *kept
	var flags int
	opens := c.hook.Call == seccomp.Open || c.hook.Call == seccomp.Openat
	switch c.hook.Call {
	case seccomp.Open, seccomp.Openat:
		if flags = int(c.Args[c.hook.flags]); flags&^plain == 0 {
			k = cache.get(question{c.path, flags&unix.O_NOFOLLOW != 0})
		}
	case seccomp.Stat, seccomp.Lstat, seccomp.Newfstatat, seccomp.Statx:
		k = cache.get(question{c.path, c.noFollow()})
	}
	switch {
	case k == nil:
		return answer{}, false
	case k.errno != 0:
		if opens {
			c.l.Daemon.opened(c, 0, k.errno, 0)
		}
		return fail(k.errno), true
	case !opens:
		return c.tell(&k.attr), true
	case !k.whole:
		return answer{}, false
	}
	c.l.Daemon.opened(c, 0, 0, k.attr.Size)
	fd, err := cache.open(k, &c.l.files)
	if err != nil {
		return failWith(err), true
	}
	return give(fd, flags), true
}

// knownFile is known for a call on a descriptor.
func (c *call) knownFile() (answer, bool) {
	switch c.hook.Call {
	case seccomp.Fstat, seccomp.Newfstatat, seccomp.Statx:
		if a := c.knownOf(c.file); a != nil {
			return c.tell(a), true
		}
	}
	return answer{}, false
}

const largeFile = 0o100000 // what musl adds

// maxWhole is what comes whole with an open, at most. What is larger and comes so
// all the same, for want of a file server, is not followed.
const maxWhole = 64 << 10

// contentOf reads a memfd that should hold size bytes.
func contentOf(fd int, size int64) ([]byte, bool) {
	if size > maxKeptSize {
		return nil, false
	}
	b := make([]byte, size+1)
	n, err := unix.Pread(fd, b, 0)
	return b[:size:size], err == nil && int64(n) == size
}

func openFlags(flags int) uint32 {
	var f uint32
	if flags&unix.O_DIRECTORY != 0 {
		f |= wire.OpenDirectory
	}
	if flags&unix.O_PATH != 0 { // as chdir(2) has it; else such a descriptor is not asked for
		f |= wire.OpenSearch
	}
	if flags&unix.O_NOFOLLOW != 0 {
		f |= wire.OpenNoFollow
	}
	return f
}

// mayWrite gives the errno of an open that is not only for reading, as a
// read-only file system gives it; 0: it comes to no more than reading.
func (c *call) mayWrite(flags int) unix.Errno {
	r := c.statAsked(flags&unix.O_NOFOLLOW != 0)
	creating := flags&unix.O_CREAT != 0
	writing := flags&unix.O_ACCMODE != unix.O_RDONLY || flags&unix.O_TRUNC != 0
	switch {
	case flags&unix.O_TMPFILE == unix.O_TMPFILE:
		if r.Errno != 0 {
			return unix.Errno(r.Errno)
		}
		return unix.EROFS
	case r.Errno == uint32(unix.ENOENT) && creating:
		return unix.EROFS
	case r.Errno != 0:
		return unix.Errno(r.Errno)
	case creating && flags&unix.O_EXCL != 0:
		return unix.EEXIST
	case (writing || creating) && r.Attr.Mode&unix.S_IFMT == unix.S_IFDIR:
		return unix.EISDIR
	case writing:
		return unix.EROFS
	}
	return 0
}

// stat asks for the attributes of path in the target.
func (c *call) stat(path string, noFollow bool) reply { return c.l.Daemon.stat(path, noFollow) }

// statAsked asks for those of the call's own path.
func (c *call) statAsked(noFollow bool) reply {
	if c.walk.dir == "" {
		return c.stat(c.path, noFollow)
	}
	q := wire.Request{Op: wire.OpStat}
	if noFollow {
		q.Flags = wire.OpenNoFollow
	}
	r := c.l.Daemon.call(c.ask(q))
	closeFD(r.fd)
	return r
}
