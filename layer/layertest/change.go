package layertest

import (
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// change changes the target's files as this process, with the umask of who asks.
func (d *Daemon) change(q *wire.Request) (wire.Reply, error) {
	c, err := wire.DecodeChange(q.Path)
	if err != nil {
		return wire.Reply{}, err
	}
	d.mu.Lock()
	d.changes = append(d.changes, c)
	d.mu.Unlock()
	var r wire.Reply
	if c.Op == protocol.ChangeRename {
		r.Data = []byte(string(c.Path) + "\x00" + string(c.Other)) // as the tests spell them
	}
	c.Handle = q.Node
	err = d.make(&c)
	if err == nil && d.Leases {
		d.Expire() // all: what is true of it the agent's tests say
	}
	return r, err
}

// Changes are what was asked for until now.
func (d *Daemon) Changes() []protocol.Change {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.changes
}

func (d *Daemon) make(c *protocol.Change) error {
	switch c.Op {
	case protocol.ChangeLink, protocol.ChangeMode, protocol.ChangeOwner, protocol.ChangeTimes, protocol.ChangeSize:
		return d.changeFile(c)
	}
	dir, name, err := d.parent(c.Path)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	switch c.Op {
	case protocol.ChangeMkdir:
		mode := c.Mode & 0o1777 &^ c.Umask
		if err := unix.Mkdirat(dir, name, mode); err != nil {
			return err
		}
		return unix.Fchmodat(dir, name, mode, 0) // this process masks, too
	case protocol.ChangeMknod:
		mode := c.Mode &^ c.Umask
		if err := unix.Mknodat(dir, name, mode, 0); err != nil {
			return err
		}
		return unix.Fchmodat(dir, name, mode, 0)
	case protocol.ChangeSymlink:
		return unix.Symlinkat(string(c.Other), dir, name)
	case protocol.ChangeUnlink:
		return unix.Unlinkat(dir, name, 0)
	case protocol.ChangeRmdir:
		return unix.Unlinkat(dir, name, unix.AT_REMOVEDIR)
	case protocol.ChangeRename:
		to, other, err := d.parent(c.Other)
		if err != nil {
			return err
		}
		defer unix.Close(to)
		return unix.Renameat2(dir, name, to, other, uint(c.Flags))
	}
	return unix.EINVAL
}

func (d *Daemon) changeFile(c *protocol.Change) error {
	flags := uint64(unix.O_PATH)
	if c.NoFollow {
		flags |= unix.O_NOFOLLOW
	}
	var fd int
	var err error
	if c.Handle == 0 {
		fd, err = d.openat(string(c.Path), flags)
	} else if fd, err = unix.Openat(int(d.nodes.Fd()), wire.SharedName(c.Handle), unix.O_PATH|unix.O_CLOEXEC, 0); err == unix.ENOENT {
		fd, err = unix.Openat(int(d.nodes.Fd()), wire.NodeName(c.Handle), unix.O_PATH|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if c.Ino != 0 && (c.Ino != st.Ino || c.Dev != st.Dev) {
		return unix.ESTALE
	}
	file := "/proc/self/fd/" + strconv.Itoa(fd)
	switch c.Op {
	case protocol.ChangeMode:
		return unix.Chmod(file, c.Mode)
	case protocol.ChangeOwner:
		return unix.Fchownat(fd, "", int(int32(c.UID)), int(int32(c.GID)), unix.AT_EMPTY_PATH)
	case protocol.ChangeSize:
		return unix.Truncate(file, c.Size)
	case protocol.ChangeTimes:
		var times []unix.Timespec
		for _, t := range c.Times {
			times = append(times, unix.Timespec{Sec: t.Sec, Nsec: t.Nsec})
		}
		return unix.UtimesNanoAt(fd, "", times, unix.AT_EMPTY_PATH)
	}
	dir, name, err := d.parent(c.Other)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	return unix.Linkat(unix.AT_FDCWD, file, dir, name, unix.AT_SYMLINK_FOLLOW)
}

func (d *Daemon) parent(name protocol.Path) (dir int, last string, err error) {
	parent, last := path.Split(strings.TrimRight(string(name), "/"))
	dir, err = d.openat(parent, unix.O_PATH|unix.O_DIRECTORY)
	return dir, last, err
}

func (d *Daemon) statfs(q *wire.Request) (wire.Reply, error) {
	fd, err := d.openat(q.Path, unix.O_PATH)
	if err != nil {
		return wire.Reply{}, err
	}
	defer unix.Close(fd)
	var s unix.Statfs_t
	err = unix.Fstatfs(fd, &s)
	return wire.Reply{Data: wire.AppendStatfs(nil, &protocol.StatfsReply{
		Type: s.Type, Bsize: s.Bsize, Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
		Fsid: s.Fsid.Val, Namelen: s.Namelen, Frsize: s.Frsize, Flags: s.Flags,
	})}, err
}
