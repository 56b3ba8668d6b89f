package layer

import "golang.org/x/sys/unix"

// Where the target's files are there for reading only, a call that would change
// them fails as it does on a read-only file system: with EROFS, after whatever
// else is wrong with it.

// slowChange: the path must exist. What is not done elsewhere either is ENOTSUP.
func slowChange(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	if r := c.stat(c.path, true); r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	if c.verdict.Writable {
		return fail(unix.ENOTSUP)
	}
	return fail(unix.EROFS)
}

// slowCreate: the path must not exist.
func slowCreate(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	switch r := c.stat(c.path, true); unix.Errno(r.Errno) {
	case 0:
		return fail(unix.EEXIST)
	case unix.ENOENT:
		return fail(unix.EROFS)
	default:
		return fail(unix.Errno(r.Errno))
	}
}

// slowUnsupported: what has no meaning for files of another machine.
func slowUnsupported(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	if r := c.stat(c.path, false); r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	return fail(unix.ENOTSUP)
}
