package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// slowGetxattr tells the value of an extended attribute.
func slowGetxattr(c *call) answer {
	var buf [seccomp.MaxPath]byte
	name, err := seccomp.ReadString(c.TID, c.Args[1], &buf)
	switch {
	case err == unix.ENAMETOOLONG, err == nil && (len(name) == 0 || len(name) > maxXattrName):
		return fail(unix.ERANGE)
	case err != nil:
		return failWith(err)
	}
	return c.xattr(string(name), c.Args[2], c.Args[3])
}

// maxXattrName is the kernel's XATTR_NAME_MAX.
const maxXattrName = 255

// slowListxattr tells the names of a file's extended attributes.
func slowListxattr(c *call) answer { return c.xattr("", c.Args[1], c.Args[2]) }

// xattr writes an attribute, or the names of all, to addr; without room it tells
// how much is needed.
func (c *call) xattr(name string, addr, size uint64) answer {
	if c.here() {
		return fail(unix.ENOTSUP) // ls and cp do without
	}
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	b, errno := c.l.Daemon.xattr(c.path, name, !c.follows() || c.hook.path == no) // a descriptor's path is resolved
	switch {
	case errno != 0:
		return fail(errno)
	case size == 0 || len(b) == 0:
		return value(int64(len(b)))
	case uint64(len(b)) > size:
		return fail(unix.ERANGE)
	}
	return answer{val: int64(len(b)), writes: []memory{{addr, b}}}
}
