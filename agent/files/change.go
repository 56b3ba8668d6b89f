package files

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A change is one that is under way, on a thread that is the target's user.
type change struct {
	*Tree
	q       protocol.Change
	opened  *handle // q's, if it has one
	touched []touched
	reply   protocol.ChangeReply
}

var changes = map[protocol.ChangeOp]func(*change) error{
	protocol.ChangeMkdir:   (*change).mkdir,
	protocol.ChangeMknod:   (*change).mknod,
	protocol.ChangeSymlink: (*change).symlink,
	protocol.ChangeLink:    (*change).link,
	protocol.ChangeUnlink: func(c *change) error {
		return c.at(c.q.Path, func(p place) error {
			c.changes(p)
			return p.remove(0)
		})
	},
	protocol.ChangeRmdir:  (*change).rmdir,
	protocol.ChangeRename: (*change).rename,
	protocol.ChangeMode:   (*change).mode,
	protocol.ChangeOwner: func(c *change) error {
		return c.of(func(n *node) error {
			return unix.Fchownat(int(n.file.Fd()), "", int(int32(c.q.UID)), int(int32(c.q.GID)), unix.AT_EMPTY_PATH)
		})
	},
	protocol.ChangeTimes: (*change).times,
	protocol.ChangeSize: func(c *change) error {
		if c.q.Size < 0 {
			return unix.EINVAL
		}
		return c.of(func(n *node) error { return unix.Truncate(procFD(n.file), c.q.Size) })
	},
}

// Change does what q says, as the target's user.
func (h *Handles) Change(q protocol.Change) (reply protocol.ChangeReply, payload []byte, err error) {
	do, ok := changes[q.Op]
	if !ok {
		return reply, nil, fmt.Errorf("change %d: %w", q.Op, unix.EINVAL)
	}
	c := &change{Tree: h.Tree, q: q}
	if q.Handle != 0 {
		if c.opened, err = h.get(q.Handle); err != nil {
			return reply, nil, fmt.Errorf("%v: %w", q.Op, err)
		}
	}
	if err := h.act(q.Umask, func() error { return do(c) }); err != nil {
		return reply, nil, fmt.Errorf("%v: %w", q.Op, err)
	}
	c.reply.Seq = h.settle(c.touched)
	return c.reply, nil, nil
}

// A place is a name in a directory, which may be nothing's. The name has the
// slashes that ended the path, and is never followed if it is a link's.
type place struct {
	dir  *node
	name string
}

func (p place) fd() int { return int(p.dir.file.Fd()) }

// place finds the directory of path's last name.
func (t *Tree) place(path protocol.Path) (p place, err error) {
	name := string(path)
	switch {
	case !strings.HasPrefix(name, "/"):
		return p, fmt.Errorf("%q is not an absolute path: %w", name, unix.EINVAL)
	case len(name) >= unix.PathMax:
		return p, unix.ENAMETOOLONG
	}
	at := strings.LastIndexByte(strings.TrimRight(name, "/"), '/') + 1
	dir, name := name[:at], name[at:]
	if at == 0 {
		dir, name = "/", "." // the root itself
	}
	p.name = name
	p.dir, err = t.open(dir, unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_MAGICLINKS)
	return p, err
}

// named is the path of p, "" if its directory has none any more.
func (t *Tree) named(p place) protocol.Path {
	dir, err := t.resolved(p.dir)
	if err != nil {
		return ""
	}
	return protocol.Path(join(dir, strings.TrimRight(p.name, "/")))
}

// at has do change an entry of a directory.
func (c *change) at(path protocol.Path, do func(place) error) error {
	p, err := c.place(path)
	if err != nil {
		return err
	}
	defer p.dir.Close()
	if err := do(p); err != nil {
		return err
	}
	c.touched = append(c.touched, p.touched())
	return nil
}

func (p place) touched() touched {
	return touched{p.dir.stat.Dev, p.dir.stat.Ino, strings.TrimRight(p.name, "/")}
}

// entry is where n was found.
func (t *Tree) entry(n *node) []touched {
	p, err := t.place(protocol.Path(n.path))
	if err != nil {
		return nil // it is elsewhere by now, which the watch tells of
	}
	defer p.dir.Close()
	return []touched{p.touched()}
}

// of has do change the file that the path leads to.
func (c *change) of(do func(*node) error) error {
	if c.opened != nil {
		return c.ofOpened(do)
	}
	n, err := c.locate(string(c.q.Path), noFollow(c.q.NoFollow))
	if err != nil {
		return err
	}
	defer n.Close()
	if c.q.Ino != 0 && (c.q.Ino != n.stat.Ino || c.q.Dev != n.stat.Dev) {
		return fmt.Errorf("%s is another file now: %w", c.q.Path, unix.ESTALE)
	}
	if err := do(n); err != nil {
		return err
	}
	c.changed(&n.stat)
	c.touched = append(c.touched, c.entry(n)...)
	return nil
}

// changed notes whose attributes are others now.
func (c *change) changed(s *unix.Stat_t) {
	if s.Mode&unix.S_IFMT == unix.S_IFREG {
		c.reply.Files = append(c.reply.Files, protocol.FileID{Dev: s.Dev, Ino: s.Ino})
	}
}

// changes notes what has a name that is about to be taken or given away.
func (c *change) changes(p place) {
	if st, err := p.stat(); err == nil {
		c.changed(&st)
	}
}

// ofOpened does so to the file that is open as c.opened.
func (c *change) ofOpened(do func(*node) error) error {
	raw, err := c.opened.file.SyscallConn()
	if err != nil {
		return closed(err)
	}
	outer := raw.Control(func(fd uintptr) { // it may be closed meanwhile
		n := &node{file: c.opened.file}
		if err = unix.Fstat(int(fd), &n.stat); err == nil {
			err = do(n)
		}
		if err != nil {
			return
		}
		c.changed(&n.stat)
		if n.path, err = c.resolved(n); err == nil {
			c.touched = append(c.touched, c.entry(n)...)
		}
		err = nil // without a path there is no answer about it
	})
	if outer != nil {
		return closed(outer)
	}
	return err
}

func (c *change) mkdir() error {
	return c.at(c.q.Path, func(p place) error { return unix.Mkdirat(p.fd(), p.name, c.q.Mode) })
}

func (c *change) symlink() error {
	if c.q.Other == "" {
		return unix.ENOENT
	}
	return c.at(c.q.Path, func(p place) error { return unix.Symlinkat(string(c.q.Other), p.fd(), p.name) })
}

// mknod makes what has no other side. Sockets and devices come to the kernel's
// answer to one who may not make a device: last of all that is wrong with it.
func (c *change) mknod() error {
	mode, dev := c.q.Mode, 0
	switch mode & unix.S_IFMT {
	case 0, unix.S_IFREG, unix.S_IFIFO:
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFSOCK:
		mode, dev = mode&^unix.S_IFMT|unix.S_IFBLK, int(unix.Mkdev(1, 0))
	case unix.S_IFDIR:
		return unix.EPERM
	default:
		return unix.EINVAL
	}
	return c.at(c.q.Path, func(p place) error { return unix.Mknodat(p.fd(), p.name, mode, dev) })
}

func (c *change) rmdir() error {
	if strings.Trim(string(c.q.Path), "/") == "" {
		return unix.EBUSY
	}
	return c.at(c.q.Path, func(p place) error { return p.remove(unix.AT_REMOVEDIR) })
}

// link gives the file itself another name: so its own is resolved in the root.
func (c *change) link() error {
	return c.of(func(n *node) error {
		return c.at(c.q.Other, func(p place) error {
			return unix.Linkat(unix.AT_FDCWD, procFD(n.file), p.fd(), p.name, unix.AT_SYMLINK_FOLLOW)
		})
	})
}

func (c *change) rename() error {
	const flags = unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE
	if c.q.Flags&^flags != 0 || c.q.Flags == flags {
		return unix.EINVAL
	}
	return c.at(c.q.Path, func(from place) error {
		if err := from.may(unix.X_OK); err != nil { // before anything is wrong with the other
			return err
		}
		return c.at(c.q.Other, func(to place) error {
			if from.mounted() || to.mounted() {
				return from.renameMounted(to, c.q.Flags)
			}
			c.changes(from)
			c.changes(to)
			err := unix.Renameat2(from.fd(), from.name, to.fd(), to.name, uint(c.q.Flags))
			if err == nil {
				c.reply.From, c.reply.To = c.named(from), c.named(to)
			}
			return err
		})
	})
}

func (c *change) mode() error {
	return c.of(func(n *node) error {
		if n.kind() == unix.S_IFLNK {
			return unix.EOPNOTSUPP
		}
		return unix.Chmod(procFD(n.file), c.q.Mode&0o7777)
	})
}

func (c *change) times() error {
	var times []unix.Timespec
	switch len(c.q.Times) {
	case 0:
	case 2:
		for _, t := range c.q.Times {
			times = append(times, unix.Timespec{Sec: t.Sec, Nsec: t.Nsec})
		}
	default:
		return unix.EINVAL
	}
	return c.of(func(n *node) error { return unix.UtimesNanoAt(int(n.file.Fd()), "", times, unix.AT_EMPTY_PATH) })
}

// Statfs tells of the file system that a path is in.
func (t *Tree) Statfs(q protocol.Statfs) (reply protocol.StatfsReply, payload []byte, err error) {
	n, err := t.find(string(q.Path), 0)
	if err != nil {
		return reply, nil, err
	}
	defer n.Close()
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(n.file.Fd()), &fs); err != nil {
		return reply, nil, err
	}
	return protocol.StatfsReply{
		Type: fs.Type, Bsize: fs.Bsize, Frsize: fs.Frsize, Blocks: fs.Blocks, Bfree: fs.Bfree, Bavail: fs.Bavail,
		Files: fs.Files, Ffree: fs.Ffree, Fsid: fs.Fsid.Val, Namelen: fs.Namelen, Flags: fs.Flags,
	}, nil, nil
}
