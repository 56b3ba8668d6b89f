package layer

import (
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
)

// quickPath decides about a call with one path.
func quickPath(c *call) bool {
	path, ok := c.readPath(c.hook.dir, c.hook.path)
	if !ok || path == "" {
		return true
	}
	c.path = path
	if c.throughFD() {
		return false
	}
	c.path, c.verdict = c.decide(path)
	return c.verdict.Kind == policy.Local && !c.verdict.Moved()
}

// quickTwoPaths decides about renames and links: Local if both paths are. An
// empty first path can stand for a descriptor.
func quickTwoPaths(c *call) bool {
	dir2, path2 := int8(no), c.hook.path+1
	if c.hook.dir != no {
		dir2, path2 = c.hook.dir+2, c.hook.path+2
	}
	one, ok := c.readPath(c.hook.dir, c.hook.path)
	two, ok2 := c.readPath(dir2, path2)
	if !ok || !ok2 || two == "" || one == "" && !c.linksDescriptor() {
		return true
	}
	if f, rest := c.through(two, false); f != nil {
		c.path2 = f.path + rest
		c.other = c.remote(c.path2)
	} else {
		c.path2, c.other = c.decide(two)
	}
	f, rest := (*file)(nil), ""
	if one == "" {
		f = c.l.files.byFD(c, int32(c.Args[c.hook.dir]))
	} else {
		f, rest = c.through(one, c.follows())
	}
	switch {
	case f != nil:
		c.path = f.path + rest
		c.verdict = c.remote(c.path)
		if rest == "" { // that file, whatever has its name by now
			c.file = f
		}
	case one == "":
		c.verdict = policy.Verdict{Kind: policy.Local}
	default:
		c.path, c.verdict = c.decide(one)
	}
	return c.verdict.Kind == policy.Local && c.other.Kind == policy.Local && !c.verdict.Moved() && !c.other.Moved()
}

func (c *call) linksDescriptor() bool {
	return c.hook.Call == seccomp.Linkat && c.Args[4]&unix.AT_EMPTY_PATH != 0
}

// decide applies the policy to a path, and the user's mapping. One that is mapped
// to a Local place cannot be left to the kernel, which knows the old path only.
func (c *call) decide(path string) (string, policy.Verdict) {
	if c.l.bound.has(path) {
		return path, policy.Verdict{Kind: policy.Local, Rule: "a socket of the debuggee's"}
	}
	v := c.l.Policy.Path(path)
	if v.Path == "" {
		return path, v
	}
	for _, end := range []string{"/.", "/"} { // which a mapping does not see, but the target should
		if strings.HasSuffix(path, end) {
			return v.Path + end, v
		}
	}
	return v.Path, v
}

// readPath reads the path at argument path, relative to the directory at
// argument dir, and makes it absolute without resolving "..": links are the
// target's to follow. It is "" if the path is. False: the kernel will say what
// is wrong with it, unless c.doubt is set.
func (c *call) readPath(dir, path int8) (string, bool) {
	b, err := seccomp.ReadString(c.TID, c.Args[path], c.buf)
	if err != nil {
		c.blame(err, memoryErrors)
		return "", false
	}
	if len(b) == 0 {
		return "", true
	}
	if b[0] == '/' {
		return c.fromRoot(string(b)), true
	}
	rest := string(b)
	text, ok := c.directory(dir)
	if !ok {
		return "", false
	}
	return c.fromRoot(strings.TrimSuffix(text, "/") + "/" + rest), true
}

// directory is the path that names relative to argument dir begin at.
func (c *call) directory(dir int8) (string, bool) {
	base, fdinfo := "cwd", ""
	if dir != no && int32(c.Args[dir]) != unix.AT_FDCWD {
		fd := strconv.Itoa(int(int32(c.Args[dir])))
		base, fdinfo = "fd/"+fd, c.proc("fdinfo/"+fd)
	}
	text, err := os.Readlink(c.proc(base))
	if asErrno(err) == unix.ENAMETOOLONG {
		text, err = nearest(c.proc(base))
	}
	switch {
	case err != nil: // EBADF, or ours
		c.blame(err, descriptorErrors)
		return "", false
	case !strings.HasPrefix(text, "/"): // ENOTDIR
		return "", false
	case fdinfo != "" && strings.HasPrefix(text, memfdText):
		f := c.l.files.byFD(c, int32(c.Args[dir]))
		if f == nil || f.attr.Mode&unix.S_IFMT != unix.S_IFDIR { // ENOTDIR
			return "", false
		}
		return f.path, true
	}
	if f := c.l.files.byText(text, fdinfo); f != nil {
		return f.path, true
	}
	if c.l.files.any.Load() > 0 && c.l.files.forgotten(c.proc(base), text) {
		c.doubt = errForgotten
		return "", false
	}
	return text, true
}

// nearest is the path of the nearest directory above dir whose path the kernel
// tells: that of one which is too deep it does not. None of the target's is, by
// what stands for it here.
func nearest(dir string) (string, error) {
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer func() { unix.Close(fd) }()
	for range unix.PathMax {
		text, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		if asErrno(err) != unix.ENAMETOOLONG {
			return text, err
		}
		up, err := unix.Openat(fd, "..", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		unix.Close(fd)
		fd = up
	}
	return "", unix.ENAMETOOLONG
}

// The caller's own mistakes, or that it is gone, as we meet them when we look at
// its memory and, in /proc, at its descriptors.
var (
	memoryErrors     = []unix.Errno{unix.EFAULT, unix.ENAMETOOLONG, unix.ESRCH}
	descriptorErrors = []unix.Errno{unix.ENOENT, unix.ESRCH}
)

// blame says whose fault err is. The caller's is the kernel's to tell; ours
// leaves us in doubt.
func (c *call) blame(err error, callers []unix.Errno) {
	if !slices.Contains(callers, asErrno(err)) {
		c.doubt = err
	}
}

// proc names an entry of the calling thread's directory in /proc.
func (c *call) proc(entry string) string {
	return "/proc/" + strconv.Itoa(int(c.TID)) + "/" + entry
}

// refused gives the errno for a path that is not for asking the target, or 0.
func (c *call) refused() unix.Errno {
	if c.verdict.Moved() {
		c.notHere()
	}
	return refused(c.verdict)
}

func refused(v policy.Verdict) unix.Errno {
	switch {
	case v.Kind == policy.NotFound:
		return unix.ENOENT
	case v.Kind == policy.Refused, v.Moved():
		return unix.EIO
	}
	return 0
}
