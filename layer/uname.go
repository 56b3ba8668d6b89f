package layer

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

func quickUname(c *call) bool { return c.l.Hostname == "" }

// slowUname tells this machine's kernel and the target's name.
func slowUname(c *call) answer {
	u := new(unix.Utsname)
	if err := unix.Uname(u); err != nil {
		return failWith(err)
	}
	clear(u.Nodename[:])
	copy(u.Nodename[:len(u.Nodename)-1], c.l.Hostname)
	return answer{writes: []memory{{c.Args[0], unsafe.Slice((*byte)(unsafe.Pointer(u)), unsafe.Sizeof(*u))}}}
}
