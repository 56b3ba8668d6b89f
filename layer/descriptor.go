package layer

import (
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// quickFD decides about a call with a descriptor and no path.
func quickFD(c *call) bool {
	f := c.l.files.byFD(c, int32(c.Args[c.hook.dir]))
	if f == nil {
		return true
	}
	c.path, c.verdict = f.path, c.remote(f.path)
	c.needs(f)
	return false
}

// needs: a descriptor with O_PATH is, without a path, for fstat and fstatfs only.
func (c *call) needs(f *file) {
	if f.bare && c.hook.path == no && c.hook.Call != seccomp.Fstatfs {
		c.fault = unix.EBADF
	}
}

// quickEmptyPath decides about a call where an empty path may stand for the
// descriptor itself.
func quickEmptyPath(c *call) bool {
	if !quickPath(c) {
		return false
	}
	if c.path != "" || c.hook.flags == no || c.Args[c.hook.flags]&unix.AT_EMPTY_PATH == 0 || c.l.files.any.Load() == 0 {
		return true
	}
	switch c.hook.Call {
	case seccomp.Newfstatat, seccomp.Statx: // what was so when it was opened
		return quickFstat(c)
	}
	return quickFD(c)
}

// remote is the verdict of what is the target's already, whatever its path.
func (c *call) remote(path string) policy.Verdict {
	v := c.l.Policy.Path(path)
	return policy.Verdict{Kind: policy.Remote, Rule: v.Rule, Writable: v.Writable}
}

// throughFD finds a path that leads through a descriptor which is the target's,
// as /proc/self/fd/3 does: it is the target's then, and the path there.
func (c *call) throughFD() bool {
	f, rest := c.through(c.path, c.follows())
	if f == nil {
		return c.doubt != nil
	}
	c.path = f.path + rest
	c.verdict = c.remote(c.path)
	return true
}

// through is the file whose descriptor a path leads through, and what follows it.
func (c *call) through(path string, follows bool) (*file, string) {
	if c.l.files.any.Load() == 0 {
		return nil, ""
	}
	task, fd, rest, ok := c.cutFD(path)
	if !ok || rest == "" && !follows {
		return nil, ""
	}
	f := c.l.files.of(task, fd)
	switch {
	case f == nil && (rest != "" || !c.reads()):
		c.forgets(task, fd)
	case f != nil && rest == "" && !f.bare && c.reads() && fd != unix.AT_FDCWD:
		return nil, "" // the kernel opens anew what stands for it
	}
	return f, rest
}

// forgets tells whether what a task has open as fd, and is nothing that we know,
// is of the target: what the call wants of it cannot be done then.
func (c *call) forgets(task string, fd int32) bool {
	if c.l.files.any.Load() == 0 {
		return false
	}
	at := link(task, fd)
	text, err := os.Readlink(at)
	if err != nil || !c.l.files.forgotten(at, text) {
		return false
	}
	c.doubt = errForgotten
	return true
}

// cutFD cuts off a path's beginning what names a descriptor, of the caller or of
// another: /proc/self/fd/3, /proc/7/task/8/fd/3, /dev/fd/3; or the working
// directory, which is AT_FDCWD then: /proc/self/cwd.
func (c *call) cutFD(path string) (task string, fd int32, rest string, ok bool) {
	top, path := cutName(path)
	task = c.proc("")
	switch top {
	case "dev":
		name, path := cutName(path)
		switch name {
		case "stdin":
			return task, 0, path, true
		case "stdout":
			return task, 1, path, true
		case "stderr":
			return task, 2, path, true
		case "fd":
			return cutNumber(task, path)
		}
	case "proc":
		who, what, path := cutTask(path)
		if what != "fd" && what != "cwd" {
			break
		}
		if !c.is(who) {
			if _, err := strconv.ParseUint(who, 10, 31); err != nil {
				break
			}
			task = "/proc/" + who + "/"
		}
		if what == "cwd" {
			return task, unix.AT_FDCWD, path, true
		}
		return cutNumber(task, path)
	}
	return "", 0, "", false
}

func cutNumber(task, path string) (_ string, fd int32, rest string, ok bool) {
	name, rest := cutName(path)
	n, err := strconv.ParseUint(name, 10, 31)
	return task, int32(n), rest, err == nil
}

// cutName cuts off a path's first name.
func cutName(path string) (name, rest string) {
	for {
		path = strings.TrimLeft(path, "/")
		name, _, _ = strings.Cut(path, "/")
		if path = path[len(name):]; name != "." {
			return name, path
		}
	}
}

// cutTask cuts off a path in /proc whose task it is about, and what of it.
func cutTask(path string) (who, what, rest string) {
	who, path = cutName(path)
	if what, path = cutName(path); what == "task" {
		who, path = cutName(path)
		what, path = cutName(path)
	}
	return who, what, path
}

// fromRoot takes off a path's beginning what leads to the caller's root directory:
// /proc/self/root/srv is /srv.
func (c *call) fromRoot(path string) string {
	for {
		top, rest := cutName(path)
		if top != "proc" {
			return path
		}
		who, what, rest := cutTask(rest)
		if what != "root" || rest == "" || !c.is(who) {
			return path
		}
		if root, err := os.Readlink(c.proc("root")); err != nil || root != "/" {
			return path
		}
		path = rest
	}
}

// link is the link of /proc to what a task has open as fd, or to its working directory.
func link(task string, fd int32) string {
	if fd == unix.AT_FDCWD {
		return task + "cwd"
	}
	return task + "fd/" + strconv.Itoa(int(fd))
}

// is tells whether a name in /proc is the caller's.
func (c *call) is(who string) bool {
	if who == "self" || who == "thread-self" {
		return true
	}
	n, err := strconv.ParseUint(who, 10, 31)
	if err != nil {
		return false
	}
	pid, err := seccomp.Process(c.TID)
	return err == nil && (uint64(pid) == n || uint64(c.TID) == n)
}

// follows tells whether a call looks at what a link at its path's end leads to.
func (c *call) follows() bool {
	flags := uint64(0)
	if c.hook.flags != no {
		flags = c.Args[c.hook.flags]
	}
	switch c.hook.Call {
	case seccomp.Open, seccomp.Openat:
		return flags&unix.O_NOFOLLOW == 0
	case seccomp.Openat2:
		return c.walk.how.Flags&unix.O_NOFOLLOW == 0
	case seccomp.NameToHandleAt, seccomp.Linkat:
		return flags&unix.AT_SYMLINK_FOLLOW != 0
	case seccomp.InotifyAddWatch:
		return c.Args[2]&unix.IN_DONT_FOLLOW == 0
	case seccomp.Utimensat, seccomp.Fchmodat2:
		return c.Args[3]&unix.AT_SYMLINK_NOFOLLOW == 0
	case seccomp.Fchownat:
		return c.Args[4]&unix.AT_SYMLINK_NOFOLLOW == 0
	case seccomp.Lstat, seccomp.Readlink, seccomp.Readlinkat, seccomp.Lchown, seccomp.Lgetxattr, seccomp.Llistxattr, seccomp.Lsetxattr,
		seccomp.Lremovexattr, seccomp.Unlink, seccomp.Unlinkat, seccomp.Rmdir, seccomp.Mkdir, seccomp.Mkdirat, seccomp.Mknod, seccomp.Mknodat,
		seccomp.Symlink, seccomp.Symlinkat, seccomp.Link, seccomp.Rename, seccomp.Renameat, seccomp.Renameat2:
		return false
	}
	return flags&unix.AT_SYMLINK_NOFOLLOW == 0
}

// reads tells whether a call opens a file for reading.
func (c *call) reads() bool {
	var flags int
	switch c.hook.Call {
	case seccomp.Open, seccomp.Openat:
		flags = int(c.Args[c.hook.flags])
	case seccomp.Openat2:
		flags = int(c.walk.how.Flags)
	default:
		return false
	}
	return flags&unix.O_ACCMODE == unix.O_RDONLY && flags&(unix.O_CREAT|unix.O_TRUNC) == 0
}

// openPath gives a descriptor that stands for a file and cannot be read (O_PATH).
// That needs no right but to come there, and can be of any kind. The kernel lets
// nobody give another a descriptor with O_PATH itself: a file in memory, open for
// writing and sealed, does as well but for what fcntl(2) tells.
func (c *call) openPath(flags int) answer {
	r := c.statAsked(flags&unix.O_NOFOLLOW != 0)
	if r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	if flags&unix.O_DIRECTORY != 0 && r.Attr.Mode&unix.S_IFMT != unix.S_IFDIR {
		return fail(unix.ENOTDIR)
	}
	memfd, err := newEmpty()
	if err != nil {
		return failWith(err)
	}
	defer unix.Close(memfd)
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(memfd), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return failWith(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return failWith(err)
	}
	at := c.path
	if resolved, _ := wire.CutXattrs(r.Data); c.walk.dir != "" && resolved != "" {
		at = resolved
	}
	c.l.files.addMemfd(st.Ino, &file{path: at, attr: r.Attr, bare: true})
	return give(fd, flags)
}
