package layer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"
)

// slowExec: a program of the target's is none of this machine's, whatever is
// called alike here.
func slowExec(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	r := c.stat(c.path, false)
	switch {
	case r.Errno == 0:
		c.l.tell(fmt.Sprintf("the target's program %s cannot be executed on this machine", c.path))
		return fail(unix.EACCES)
	case unix.Access(c.path, unix.X_OK) == nil && !strings.Contains(c.path, "/../"):
		c.l.tell(fmt.Sprintf("%s would be the target's (%s), which has no such program: to execute this machine's, make the path local (feature.fs.local)",
			c.path, c.verdict.Rule))
	}
	return fail(unix.Errno(r.Errno))
}

// slowUnknown: for calls that have others in their place, which programs use
// where these do not exist.
func slowUnknown(*call) answer { return fail(unix.ENOSYS) }
