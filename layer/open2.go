package layer

import (
	"encoding/binary"
	"path"
	"slices"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// A walk is how openat2 restricts the way from a directory to a file.
type walk struct {
	how  unix.OpenHow
	dir  string // in the target
	rest string // from there
}

// resolveCached is RESOLVE_CACHED, which asks not to wait.
const resolveCached = 0x20

// Of openat2, which unlike open refuses what it does not know.
const (
	stays      = unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT
	plain      = unix.RESOLVE_NO_MAGICLINKS // the target's are not followed in any case
	knownWays  = stays | plain | unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_SYMLINKS | resolveCached
	pathFlags  = unix.O_PATH | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC
	knownFlags = pathFlags | unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_NOCTTY | unix.O_TRUNC | unix.O_APPEND | unix.O_NONBLOCK |
		unix.O_SYNC | unix.O_ASYNC | unix.O_DIRECT | largeFile | unix.O_NOATIME | unix.O_TMPFILE
)

// readHow reads openat2's struct open_how; false: the kernel will say what is
// wrong with it.
func (c *call) readHow() (h unix.OpenHow, ok bool) {
	const size = unix.SizeofOpenHow // its first version's
	if c.Args[3] < size || c.Args[3] > unix.PathMax {
		return h, false
	}
	b := make([]byte, c.Args[3])
	if err := seccomp.Read(c.TID, c.Args[2], b); err != nil {
		c.blame(err, memoryErrors)
		return h, false
	}
	le := binary.LittleEndian
	h = unix.OpenHow{Flags: le.Uint64(b[:]), Mode: le.Uint64(b[8:]), Resolve: le.Uint64(b[16:])}
	making := h.Flags&(unix.O_CREAT|unix.O_TMPFILE&^unix.O_DIRECTORY) != 0
	switch {
	case slices.ContainsFunc(b[size:], func(b byte) bool { return b != 0 }): // E2BIG
	case h.Flags&^uint64(knownFlags) != 0, h.Resolve&^knownWays != 0, h.Resolve&stays == stays: // EINVAL, as the others
	case h.Flags&unix.O_PATH != 0 && h.Flags&^uint64(pathFlags) != 0, making && h.Mode&^0o7777 != 0, !making && h.Mode != 0:
	default:
		return h, true
	}
	return h, false
}

// quickOpen2: a directory that is the target's has nothing of this machine below
// it. A path that must not lead through a descriptor is the kernel's to refuse.
func quickOpen2(c *call) bool {
	how, ok := c.readHow()
	if !ok {
		return true
	}
	c.walk.how = how
	if how.Resolve&^plain == 0 {
		if at, ok := c.readPath(c.hook.dir, c.hook.path); ok && how.Resolve != 0 {
			if _, _, _, through := c.cutFD(at); through { // ELOOP
				return true
			}
		}
		return quickPath(c)
	}
	b, err := seccomp.ReadString(c.TID, c.Args[c.hook.path], c.buf)
	if err != nil {
		c.blame(err, memoryErrors)
		return true
	}
	rest := string(b)
	if rest == "" {
		return true
	}
	c.walk.dir, c.walk.rest = "/", rest
	var below *file
	if rest[0] != '/' || how.Resolve&stays != 0 {
		if c.walk.dir, ok = c.directory(c.hook.dir); !ok {
			return true
		}
		if int32(c.Args[c.hook.dir]) == unix.AT_FDCWD {
			below = c.workingDir()
		} else {
			below = c.l.files.byFD(c, int32(c.Args[c.hook.dir]))
		}
	}
	at := join(c.walk.dir, rest)
	if how.Resolve&stays != 0 {
		at = path.Join(c.walk.dir, path.Clean("/"+rest))
	}
	if c.path, c.verdict = c.decide(at); below != nil {
		c.path, c.verdict = at, c.remote(at)
	}
	if c.path != at { // it is mapped, and the directory is not
		c.fault = enosys
	}
	return c.verdict.Kind == policy.Local && !c.verdict.Moved()
}

func join(dir, rest string) string {
	if dir == "/" && rest[0] == '/' {
		return rest
	}
	if dir == "/" || rest[0] == '/' {
		return dir + rest
	}
	return dir + "/" + rest
}

func slowOpen2(c *call) answer {
	if c.walk.how.Resolve&resolveCached != 0 {
		return fail(unix.EAGAIN)
	}
	return c.open(int(c.walk.how.Flags), uint32(c.walk.how.Mode))
}

// ask asks the daemon about the call's path, or the way to it.
func (c *call) ask(q wire.Request) *wire.Request {
	if q.Path = c.path; c.walk.dir != "" {
		q.Path = c.walk.dir + "\x00" + c.walk.rest
		q.Flags |= uint32(c.walk.how.Resolve) << wire.WalkShift & wire.WalkFlags
	}
	return &q
}
