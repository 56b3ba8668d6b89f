package layer

import (
	"encoding/binary"
	"path"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
)

// how reads openat2's struct open_how; false: the kernel will say what is wrong
// with it.
func (c *call) how() (h unix.OpenHow, ok bool) {
	const size = unix.SizeofOpenHow // its first version's
	var b [size]byte
	if c.Args[3] < size || seccomp.Read(c.TID, c.Args[2], b[:]) != nil {
		return h, false
	}
	le := binary.LittleEndian
	return unix.OpenHow{Flags: le.Uint64(b[:]), Mode: le.Uint64(b[8:]), Resolve: le.Uint64(b[16:])}, true
}

// resolveCached is RESOLVE_CACHED, which asks not to wait.
const resolveCached = 0x20

// quickOpen2: a path may be meant as below its directory, which then is a root.
func quickOpen2(c *call) bool {
	how, ok := c.how()
	if !ok {
		return true
	}
	if how.Resolve&(unix.RESOLVE_BENEATH|unix.RESOLVE_IN_ROOT) == 0 {
		return quickPath(c)
	}
	b, err := seccomp.ReadString(c.TID, c.Args[c.hook.path], &c.l.buf)
	if err != nil {
		c.blame(err, memoryErrors)
		return true
	}
	below := path.Clean("/" + string(b))
	base, ok := c.directory(c.hook.dir)
	if !ok || len(b) == 0 {
		return true
	}
	c.path, c.verdict = c.decide(path.Join(base, below))
	if f := c.l.files.byFD(c, int32(c.Args[c.hook.dir])); f != nil {
		c.verdict = c.remote(c.path)
	}
	return c.verdict.Kind == policy.Local
}

// slowOpen2 answers openat2. Where the caller restricts how its path is walked
// it is told that the call does not exist, and walks by itself.
func slowOpen2(c *call) answer {
	how, ok := c.how()
	switch {
	case !ok:
		return fail(unix.EINVAL)
	case how.Resolve&resolveCached != 0:
		return fail(unix.EAGAIN)
	case how.Resolve&^unix.RESOLVE_NO_MAGICLINKS != 0:
		return fail(unix.ENOSYS)
	}
	return c.open(int(how.Flags), uint32(how.Mode))
}
