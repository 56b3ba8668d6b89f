package layer

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// A path that is mapped to one of this machine the kernel would look for by its
// old name. What opens it and looks at it is done here, in the debuggee's stead.

// here tells whether the call's path is mapped to one of this machine. Of /proc
// ours is not the debuggee's.
func (c *call) here() bool { return c.verdict.Moved() && !strings.HasPrefix(c.path, "/proc/") }

// notHere is for the calls that are not carried out so.
func (c *call) notHere() {
	c.l.tell(fmt.Sprintf("%v of %s fails: it is mapped to this machine (feature.fs.mapping), where mapped files are opened and looked at only", c.hook.Call, c.path))
}

func (c *call) openHere(flags int, mode uint32) answer {
	var st unix.Stat_t
	err := unix.Stat(c.path, &st)
	kind := st.Mode & unix.S_IFMT
	switch {
	case flags&unix.O_PATH != 0: // nobody can be given such
		c.notHere()
		return fail(unix.EIO)
	case err == nil && kind == unix.S_IFIFO: // may wait for ever for its other end
		return fail(unix.ENXIO)
	}
	umask, err := c.mask()
	if err != nil {
		return failWith(err)
	}
	fd, err := unix.Open(c.path, flags|unix.O_CLOEXEC, mode&^umask)
	if err != nil {
		return failWith(err)
	}
	return give(fd, flags)
}

func (c *call) statHere() answer {
	flags := 0
	if c.noFollow() {
		flags = unix.AT_SYMLINK_NOFOLLOW
	}
	if c.hook.Call == seccomp.Statx {
		st := new(unix.Statx_t)
		if err := unix.Statx(unix.AT_FDCWD, c.path, flags, int(uint32(c.Args[3])), st); err != nil {
			return failWith(err)
		}
		return answer{writes: []memory{{c.Args[4], unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))}}}
	}
	st := new(unix.Stat_t)
	if err := unix.Fstatat(unix.AT_FDCWD, c.path, st, flags); err != nil {
		return failWith(err)
	}
	to := c.Args[c.hook.path+1]
	return answer{writes: []memory{{to, unsafe.Slice((*byte)(unsafe.Pointer(st)), unsafe.Sizeof(*st))}}}
}

func (c *call) readlinkHere() ([]byte, error) {
	text := make([]byte, unix.PathMax)
	n, err := unix.Readlink(c.path, text)
	return text[:max(n, 0)], err
}
