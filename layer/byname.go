package layer

import (
	"bytes"
	"encoding/binary"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// Where the policy lets the target's files be changed, the agent does what the
// call says, by name, and its errors are the call's. What the call has in
// memory beside paths is read by quick, into path2: a call that was interrupted
// is done once, if it says the same.

// change asks the target for what q says, of the call's paths.
func (c *call) change(q protocol.Change) answer {
	q.Path = protocol.Path(c.path)
	var node uint64
	switch f := c.file; { // a descriptor's file, whatever has its name by now
	case f == nil:
	case f.id != 0 && c.l.files.inUse(f.id):
		node = f.id & (1<<nodeBits - 1)
	default:
		q.Dev, q.Ino, q.NoFollow = f.attr.Dev, f.attr.Ino, true
	}
	if len(q.Path) > wire.MaxPath || len(q.Other) > wire.MaxPath {
		return fail(unix.ENAMETOOLONG)
	}
	r := c.l.Daemon.call(&wire.Request{Op: wire.OpChange, Node: node, Path: string(wire.AppendChange(nil, &q))})
	closeFD(r.fd)
	if r.Errno == 0 {
		c.l.files.changes.Add(1)
	}
	if from, to, ok := bytes.Cut(r.Data, []byte{0}); ok && r.Errno == 0 {
		c.l.files.renamed(string(from), string(to), q.Flags == unix.RENAME_EXCHANGE)
	}
	return answer{errno: unix.Errno(r.Errno)}
}

// readOnly tells whether nothing comes of the call but an error: the path is
// not for asking the target, or not for changing.
func (c *call) readOnly() bool { return c.refused() != 0 || !c.verdict.Writable }

// arg is the argument that follows the path or descriptor, and next the one after that.
func (c *call) arg() uint64  { return c.Args[max(c.hook.dir, c.hook.path)+1] }
func (c *call) next() uint64 { return c.Args[max(c.hook.dir, c.hook.path)+2] }

// flag tells whether the call's flags have f.
func (c *call) flag(f uint64) bool { return c.hook.flags != no && c.Args[c.hook.flags]&f != 0 }

// badFlags tells whether there are others than those.
func (c *call) badFlags(known uint32) bool {
	return c.hook.flags != no && uint32(c.Args[c.hook.flags])&^known != 0
}

// mask is the calling thread's umask.
func (c *call) mask() (uint32, error) {
	status, err := os.ReadFile(c.proc("status"))
	if err != nil {
		return 0, err
	}
	_, after, _ := bytes.Cut(status, []byte("\nUmask:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	mask, err := strconv.ParseUint(string(bytes.TrimSpace(line)), 8, 32)
	return uint32(mask), err
}

// make makes a file with the mode of the call.
func (c *call) make(op protocol.ChangeOp) answer {
	if c.readOnly() {
		return slowCreate(c)
	}
	umask, err := c.mask()
	if err != nil {
		return failWith(err)
	}
	return c.change(protocol.Change{Op: op, Mode: uint32(c.arg()), Umask: umask})
}

func slowMkdir(c *call) answer { return c.make(protocol.ChangeMkdir) }
func slowMknod(c *call) answer { return c.make(protocol.ChangeMknod) }

// quickSymlink: the text comes before the path.
func quickSymlink(c *call) bool {
	if quickPath(c) {
		return true
	}
	if text, err := seccomp.ReadString(c.TID, c.Args[0], c.buf); err == nil {
		c.path2 = string(text)
	} else {
		c.fault = asErrno(err)
	}
	return false
}

func slowSymlink(c *call) answer {
	switch {
	case c.readOnly():
		return slowCreate(c)
	}
	return c.change(protocol.Change{Op: protocol.ChangeSymlink, Other: protocol.Path(c.path2)})
}

func slowUnlink(c *call) answer {
	op := protocol.ChangeUnlink
	if c.hook.Call == seccomp.Rmdir || c.flag(unix.AT_REMOVEDIR) {
		op = protocol.ChangeRmdir
	}
	switch {
	case c.badFlags(unix.AT_REMOVEDIR):
		return fail(unix.EINVAL)
	case c.readOnly():
		return slowChange(c)
	}
	return c.change(protocol.Change{Op: op})
}

// quickFileAt decides about a call whose path may be empty, or none, and then
// stands for the descriptor. What stands here for a file that is open for
// reading has attributes of its own, which are not to be changed instead.
func quickFileAt(c *call) bool {
	if !quickPath(c) {
		return false
	}
	none := c.hook.Call == seccomp.Utimensat && c.Args[c.hook.path] == 0 || c.hook.Call == seccomp.Futimesat && c.Args[c.hook.path] == 0
	if c.path != "" || !none && !c.flag(unix.AT_EMPTY_PATH) {
		return true
	}
	carryOn := quickFile(c)
	if none && !carryOn && c.file.bare {
		c.fault = unix.EBADF
	}
	return carryOn
}

// quickFile decides about a call with a descriptor only. A file server's node of
// a regular file is the file server's to change, but for its owner: to the file
// server of one who is not root there are no users but him.
func quickFile(c *call) bool {
	f := c.l.files.byFD(c, int32(c.Args[c.hook.dir]))
	if f == nil {
		c.forgets(c.proc(""), int32(c.Args[c.hook.dir]))
		return true
	}
	if !f.whole && !f.bare && f.attr.Mode&unix.S_IFMT == unix.S_IFREG && c.hook.Call != seccomp.Fchown && c.hook.Call != seccomp.Fchownat {
		return true
	}
	c.file, c.path, c.verdict = f, f.path, c.remote(f.path)
	c.needs(f)
	return false
}

func slowMode(c *call) answer {
	switch {
	case c.badFlags(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH):
		return fail(unix.EINVAL)
	case c.readOnly():
		return slowChange(c)
	}
	return c.change(protocol.Change{Op: protocol.ChangeMode, Mode: uint32(c.arg()), NoFollow: c.flag(unix.AT_SYMLINK_NOFOLLOW)})
}

func slowOwner(c *call) answer {
	noFollow := c.hook.Call == seccomp.Lchown || c.flag(unix.AT_SYMLINK_NOFOLLOW)
	switch {
	case c.badFlags(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH):
		return fail(unix.EINVAL)
	case c.readOnly():
		return slowChange(c)
	}
	return c.change(protocol.Change{Op: protocol.ChangeOwner, UID: uint32(c.arg()), GID: uint32(c.next()), NoFollow: noFollow})
}

func slowTruncate(c *call) answer {
	if c.readOnly() {
		return slowChange(c)
	}
	return c.change(protocol.Change{Op: protocol.ChangeSize, Size: int64(c.arg())})
}

// timesSize is that of two struct timespec or timeval, or of a struct utimbuf.
var timesSize = map[seccomp.Call]int{seccomp.Utime: 16, seccomp.Utimes: 32, seccomp.Futimesat: 32, seccomp.Utimensat: 32}

// quickTimes reads the times, which are none for now.
func quickTimes(c *call) bool {
	if quickFileAt(c) {
		return true
	}
	if c.arg() == 0 {
		return false
	}
	times := make([]byte, timesSize[c.hook.Call])
	if err := seccomp.Read(c.TID, c.arg(), times); err == nil {
		c.path2 = string(times)
	} else {
		c.fault = asErrno(err)
	}
	return false
}

func slowTimes(c *call) answer {
	times, errno := c.times()
	switch {
	case errno != 0:
		return fail(errno)
	case c.badFlags(unix.AT_SYMLINK_NOFOLLOW | unix.AT_EMPTY_PATH):
		return fail(unix.EINVAL)
	case len(times) == 2 && times[0].Nsec == unix.UTIME_OMIT && times[1].Nsec == unix.UTIME_OMIT && c.refused() == 0:
		return value(0) // the kernel does not even look at the path
	case c.readOnly():
		return slowChange(c)
	}
	return c.change(protocol.Change{Op: protocol.ChangeTimes, Times: times, NoFollow: c.flag(unix.AT_SYMLINK_NOFOLLOW)})
}

// times decodes what quickTimes has read.
func (c *call) times() ([]protocol.Timespec, unix.Errno) {
	if c.path2 == "" {
		return nil, 0
	}
	word := func(i int) int64 { return int64(binary.NativeEndian.Uint64([]byte(c.path2[8*i:]))) }
	switch c.hook.Call {
	case seccomp.Utime:
		return []protocol.Timespec{{Sec: word(0)}, {Sec: word(1)}}, 0
	case seccomp.Utimensat:
		return []protocol.Timespec{{Sec: word(0), Nsec: word(1)}, {Sec: word(2), Nsec: word(3)}}, 0
	}
	if word(1) < 0 || word(1) >= 1e6 || word(3) < 0 || word(3) >= 1e6 {
		return nil, unix.EINVAL
	}
	return []protocol.Timespec{{Sec: word(0), Nsec: 1000 * word(1)}, {Sec: word(2), Nsec: 1000 * word(3)}}, 0
}

// slowTwoPaths: renames and links. Between here and the target they fail as
// between two file systems, and mv and ln copy instead; so they do between what
// may be changed there and what may not.
func slowTwoPaths(c *call) answer {
	links := c.hook.Call == seccomp.Link || c.hook.Call == seccomp.Linkat
	switch {
	case links && c.badFlags(unix.AT_SYMLINK_FOLLOW|unix.AT_EMPTY_PATH):
		return fail(unix.EINVAL)
	case c.refused() != 0:
		return fail(c.refused())
	case refused(c.other) != 0:
		return fail(refused(c.other))
	case c.verdict.Kind != c.other.Kind || c.verdict.Writable != c.other.Writable:
		return fail(unix.EXDEV)
	case !c.verdict.Writable:
		return slowChange(c)
	}
	q := protocol.Change{Op: protocol.ChangeRename, Other: protocol.Path(c.path2)}
	switch c.hook.Call {
	case seccomp.Link, seccomp.Linkat:
		q.Op, q.NoFollow = protocol.ChangeLink, !c.flag(unix.AT_SYMLINK_FOLLOW)
	case seccomp.Renameat2:
		q.Flags = uint32(c.Args[c.hook.flags])
	}
	return c.change(q)
}

// slowStatfs tells of the target's file system, in which nothing is written
// where the policy does not let us.
func slowStatfs(c *call) answer {
	if errno := c.refused(); errno != 0 {
		return fail(errno)
	}
	r := c.l.Daemon.call(&wire.Request{Op: wire.OpStatfs, Path: c.path})
	closeFD(r.fd)
	if r.Errno != 0 {
		return fail(unix.Errno(r.Errno))
	}
	s, err := wire.DecodeStatfs(r.Data)
	if err != nil {
		return fail(unix.EIO)
	}
	st := &unix.Statfs_t{
		Type: s.Type, Bsize: s.Bsize, Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Fsid: unix.Fsid{Val: s.Fsid}, Namelen: s.Namelen, Frsize: s.Frsize, Flags: s.Flags,
	}
	if !c.verdict.Writable {
		st.Flags |= unix.ST_RDONLY
	}
	return answer{writes: []memory{{c.Args[1], statfs(st)}}}
}
