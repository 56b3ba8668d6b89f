package layer

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
)

// errStrayed: the thread is not where it waited; nothing was done.
var errStrayed = errors.New("the thread does not wait for the call any more")

// slowChdir makes a directory of the target the caller's working directory:
// what stands for it here, by which paths that are relative to it are known as
// the target's. It outlives its descriptor.
func slowChdir(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	fd, err := c.openRemote(unix.O_DIRECTORY | unix.O_PATH)
	if err != nil {
		return failWith(err)
	}
	defer unix.Close(fd)
	err = steer(int(c.TID), c.NR, func() (int, error) { return c.add(fd) })
	if err == unix.ENOTSUP {
		return c.noDirectory()
	}
	if err != nil && !errors.Is(err, errStrayed) {
		c.l.log.Debug("changing the debuggee's directory", "path", c.path, "err", err)
	}
	return answer{abandoned: true}
}

// add gives the caller a descriptor before its call is answered. If there is no
// room for it, that is the answer.
func (c *call) add(fd int) (int, error) {
	c.flight.mu.Lock()
	id := c.flight.last.ID
	c.flight.mu.Unlock()
	n, err := c.l.listener.Add(id, fd)
	if err != nil && !errors.Is(err, seccomp.ErrGone) {
		_ = c.l.listener.Fail(id, asErrno(err))
	}
	return n, err
}

// slowChroot: there is nothing here to begin all paths at.
func slowChroot(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	r := c.stat(c.path, false)
	switch {
	case r.Errno != 0:
		return fail(unix.Errno(r.Errno))
	case r.Attr.Mode&unix.S_IFMT != unix.S_IFDIR:
		return fail(unix.ENOTDIR)
	}
	return c.noDirectory()
}

func (c *call) noDirectory() answer {
	c.l.tell("the target's directory " + c.path + " cannot be a working directory: start the command elsewhere, or make the path local (fs.local)")
	return fail(unix.ENOTSUP)
}

// quickGetcwd: what stands for a directory here has no name, or another one.
func quickGetcwd(c *call) bool {
	c.file = c.workingDir()
	return c.file == nil
}

// workingDir is the caller's working directory, nil if it is of this machine.
func (c *call) workingDir() *file {
	if c.l.files.any.Load() == 0 {
		return nil
	}
	text, err := os.Readlink(c.proc("cwd"))
	if err != nil {
		return nil
	}
	f := c.l.files.byText(text, "")
	if f == nil && c.l.files.forgotten(c.proc("cwd"), text) {
		c.doubt = errForgotten
	}
	return f
}

func slowGetcwd(c *call) answer {
	text := append([]byte(c.file.path), 0)
	if c.Args[1] < uint64(len(text)) {
		return fail(unix.ERANGE)
	}
	return answer{val: int64(len(text)), writes: []memory{{c.Args[0], text}}}
}

// quickFchdir: what was opened with O_PATH is no directory here.
func quickFchdir(c *call) bool {
	f := c.l.files.byFD(c, int32(c.Args[0]))
	if f == nil || !f.bare {
		return true
	}
	c.path, c.verdict = f.path, c.remote(f.path)
	return false
}
