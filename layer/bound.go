package layer

import (
	"fmt"
	"os"
	"path"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
)

// bound are the paths of the unix sockets that the debuggee has bound where all
// else is the target's. A socket is this machine's, and so is its path for every
// call while it is there: servers change its mode and remove it.
type bound struct {
	some atomic.Bool

	mu    sync.Mutex
	paths map[string]struct{} // guarded by mu
}

// maxBound bounds the paths whose sockets may be gone.
const maxBound = 1 << 10

// has tells whether there is a socket of the debuggee's at an absolute path.
func (b *bound) has(name string) bool {
	if !b.some.Load() {
		return false
	}
	name = path.Clean(name)
	b.mu.Lock()
	_, known := b.paths[name]
	b.mu.Unlock()
	return known && isSocket(name)
}

func (b *bound) add(name string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.paths == nil {
		b.paths = make(map[string]struct{})
	}
	if len(b.paths) >= maxBound {
		for name := range b.paths {
			if !isSocket(name) {
				delete(b.paths, name)
			}
		}
	}
	b.paths[path.Clean(name)] = struct{}{}
	b.some.Store(true)
}

func isSocket(name string) bool {
	var st unix.Stat_t
	return unix.Lstat(name, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFSOCK
}

// quickBindUnix decides about the path of a unix socket.
func quickBindUnix(c *call) bool {
	name := c.addr.path
	if name == "" || name[0] == '@' || !c.l.Policy.Tree() {
		return true
	}
	if name[0] != '/' {
		dir, ok := c.directory(no)
		if !ok {
			return true
		}
		name = join(dir, name)
	}
	name = c.fromRoot(name)
	_, c.verdict = c.decide(name)
	c.path = name
	return c.verdict.Kind == policy.Local && !c.verdict.Moved()
}

// slowBindUnix has the kernel bind a socket at a path that was the target's until
// now. What an earlier debuggee has left there this one could neither see nor
// remove, so it does not have it in its way.
func slowBindUnix(c *call) answer {
	if dir := path.Dir(path.Clean(c.path)); !exists(dir) {
		c.l.tell(fmt.Sprintf("the unix socket %s is made on this machine, which has no directory %[2]s: make it (mkdir -p %[2]s), or have the socket elsewhere", c.path, dir))
	}
	if stale(c.path) {
		if err := unix.Unlink(c.path); err != nil {
			c.l.log.Debug("removing a socket of an earlier debuggee", "path", c.path, "err", err)
		}
	}
	c.l.bound.add(c.path)
	return carryOn
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return !os.IsNotExist(err)
}

// stale tells whether a path is of a socket that no process has: to one of another
// type that is alive it would be EPROTOTYPE, and nobody sees that somebody connects
// in vain.
func stale(name string) bool {
	if !isSocket(name) {
		return false
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: name}) == unix.ECONNREFUSED
}
