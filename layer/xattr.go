package layer

import (
	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
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
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	q := wire.Request{Op: wire.OpXattr, Path: c.path}
	if !c.follows() || c.hook.path == no { // a descriptor's path is resolved
		q.Flags = wire.OpenNoFollow
	}
	if name != "" {
		q.Path += "\x00" + name
	}
	r := c.l.Daemon.call(&q)
	closeFD(r.fd)
	switch {
	case r.Errno != 0:
		return fail(unix.Errno(r.Errno))
	case size == 0 || len(r.Data) == 0:
		return value(int64(len(r.Data)))
	case uint64(len(r.Data)) > size:
		return fail(unix.ERANGE)
	}
	return answer{val: int64(len(r.Data)), writes: []memory{{addr, r.Data}}}
}
