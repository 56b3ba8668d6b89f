package layertest

import (
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

func (d *Daemon) openat(path string, flags uint64) (int, error) {
	return d.openat2(&wire.Request{Path: path}, unix.OpenHow{Flags: flags})
}

// openat2 opens what q's path, or the way that it has, leads to.
func (d *Daemon) openat2(q *wire.Request, how unix.OpenHow) (int, error) {
	dir, err := unix.Open(d.Root, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer func() { unix.Close(dir) }()
	how.Flags |= unix.O_CLOEXEC
	how.Resolve = unix.RESOLVE_IN_ROOT
	from, rest, walks := strings.Cut(q.Path, "\x00")
	if !walks {
		return openat2(dir, q.Path, &how)
	}
	walk := uint64(q.Flags & wire.WalkFlags >> wire.WalkShift)
	relative := !strings.HasPrefix(rest, "/")
	if walk&(unix.RESOLVE_BENEATH|unix.RESOLVE_IN_ROOT) == 0 && !(relative && walk&unix.RESOLVE_NO_XDEV != 0) {
		if how.Resolve |= walk; relative {
			rest = from + "/" + rest
		}
		return openat2(dir, rest, &how)
	}
	below, err := openat2(dir, from, &unix.OpenHow{Flags: unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC, Resolve: how.Resolve})
	if err != nil {
		return -1, err
	}
	unix.Close(dir)
	dir = below
	how.Resolve = walk
	return openat2(dir, rest, &how)
}

// openat2 tries again where something else was renamed or mounted meanwhile.
func openat2(dir int, path string, how *unix.OpenHow) (fd int, err error) {
	for range 100 {
		if fd, err = unix.Openat2(dir, path, how); err != unix.EAGAIN {
			break
		}
	}
	return fd, err
}

func attr(st *unix.Stat_t) protocol.Attr {
	return protocol.Attr{
		Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: st.Rdev,
		Size: st.Size, Blksize: int64(st.Blksize), Blocks: st.Blocks,
		Atime: unix.TimespecToNsec(st.Atim), Mtime: unix.TimespecToNsec(st.Mtim), Ctime: unix.TimespecToNsec(st.Ctim),
	}
}

func (d *Daemon) stat(q *wire.Request) (wire.Reply, error) {
	if q.Path == "" {
		var st unix.Stat_t
		err := unix.Stat(filepath.Join(d.nodes.Name(), wire.SharedName(q.Node)), &st)
		return wire.Reply{Attr: attr(&st)}, err
	}
	flags := uint64(unix.O_PATH)
	if q.Flags&wire.OpenNoFollow != 0 {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := d.openat2(q, unix.OpenHow{Flags: flags})
	if err != nil {
		return wire.Reply{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wire.Reply{}, err
	}
	r := wire.Reply{Attr: attr(&st)}
	for mode, flag := range map[uint32]uint32{unix.R_OK: wire.ReplyReads, unix.X_OK: wire.ReplyRuns} {
		if unix.Access("/proc/self/fd/"+strconv.Itoa(fd), mode) == nil {
			r.Flags |= flag
		}
	}
	if q.Flags&wire.WalkFlags != 0 {
		var real string
		real, err = os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
		r.Data = []byte(strings.TrimPrefix(real, d.Root))
	} else if st.Mode&unix.S_IFMT == unix.S_IFLNK {
		r.Data = make([]byte, wire.MaxPath)
		var n int
		n, err = unix.Readlinkat(fd, "", r.Data)
		r.Data = r.Data[:max(n, 0)]
	}
	return r, err
}

func (d *Daemon) xattr(q *wire.Request) (wire.Reply, error) {
	at, name, _ := strings.Cut(q.Path, "\x00")
	flags := uint64(unix.O_PATH)
	if q.Flags&wire.OpenNoFollow != 0 {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := d.openat(at, flags)
	if err != nil {
		return wire.Reply{}, err
	}
	defer unix.Close(fd)
	b, n := make([]byte, wire.MaxAhead), 0
	if name == "" {
		n, err = unix.Listxattr("/proc/self/fd/"+strconv.Itoa(fd), b)
	} else {
		n, err = unix.Getxattr("/proc/self/fd/"+strconv.Itoa(fd), name, b)
	}
	return wire.Reply{Data: b[:max(n, 0)]}, err
}

// openChange opens what is not only for reading: the name that the launcher
// opens it by is another link to it.
func (d *Daemon) openChange(q *wire.Request) (wire.Reply, error) {
	var how unix.OpenHow
	if q.Flags&wire.OpenWrite != 0 {
		how.Flags |= unix.O_WRONLY
		if q.Flags&wire.OpenRead != 0 {
			how.Flags ^= unix.O_WRONLY | unix.O_RDWR
		}
	}
	for ours, theirs := range map[uint32]uint64{
		wire.OpenCreate: unix.O_CREAT, wire.OpenExclusive: unix.O_EXCL, wire.OpenTruncate: unix.O_TRUNC, wire.OpenNoFollow: unix.O_NOFOLLOW,
		wire.OpenTemporary: unix.O_TMPFILE, wire.OpenDirectory: unix.O_DIRECTORY,
	} {
		if q.Flags&ours != 0 {
			how.Flags |= theirs
		}
	}
	if q.Flags&(wire.OpenCreate|wire.OpenTemporary) != 0 {
		how.Mode = q.Node & 0o7777 &^ (q.Node >> 32)
	}
	fd, err := d.openat2(q, how)
	if err != nil {
		return wire.Reply{}, err
	}
	defer unix.Close(fd)
	d.mu.Lock()
	d.node++
	r := wire.Reply{Flags: wire.ReplyNode | wire.ReplyShared, Node: d.node, File: d.node}
	d.mu.Unlock()
	at := "/proc/self/fd/" + strconv.Itoa(fd)
	real, err := os.Readlink(at)
	if err != nil {
		return wire.Reply{}, err
	}
	r.Data = []byte(real[len(d.Root):])
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wire.Reply{}, err
	}
	r.Attr = attr(&st)
	return r, unix.Linkat(unix.AT_FDCWD, at, unix.AT_FDCWD, filepath.Join(d.nodes.Name(), wire.SharedName(r.Node)), unix.AT_SYMLINK_FOLLOW)
}

func (d *Daemon) open(q *wire.Request) (wire.Reply, int, error) {
	if q.Flags&wire.OpenChange != 0 {
		r, err := d.openChange(q)
		if err == nil && d.Leases {
			d.Expire()
		}
		return r, -1, err
	}
	flags := uint64(unix.O_RDONLY)
	if q.Flags&wire.OpenDirectory != 0 {
		flags |= unix.O_DIRECTORY
	}
	if q.Flags&wire.OpenNoFollow != 0 {
		flags |= unix.O_NOFOLLOW
	}
	fd, err := d.openat2(q, unix.OpenHow{Flags: flags})
	if err != nil {
		return wire.Reply{}, -1, err
	}
	f := os.NewFile(uintptr(fd), q.Path)
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return wire.Reply{}, -1, err
	}
	real, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(fd))
	if err != nil {
		return wire.Reply{}, -1, err
	}
	r := wire.Reply{Attr: attr(&st), Data: []byte(real[len(d.Root):])}
	if st.Mode&unix.S_IFMT == unix.S_IFREG && st.Size <= d.Inline {
		m, err := memfd(f)
		return r, m, err
	}
	r.Flags = wire.ReplyNode
	d.mu.Lock()
	d.node++
	r.Node = d.node
	d.mu.Unlock()
	return r, -1, d.makeNode(r.Node, real, &st)
}

func memfd(f *os.File) (int, error) {
	m, err := unix.MemfdCreate("target", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	b, err := io.ReadAll(f)
	if err != nil {
		return -1, err
	}
	if _, err := unix.Write(m, b); err != nil {
		return -1, err
	}
	_, err = unix.FcntlInt(uintptr(m), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL)
	return m, err
}

// makeNode puts what stands for a file server's node below the nodes' root.
func (d *Daemon) makeNode(node uint64, real string, st *unix.Stat_t) error {
	name := filepath.Join(d.nodes.Name(), wire.NodeName(node))
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		return os.Link(real, name)
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		return err
	}
	entries, err := os.ReadDir(real)
	if err != nil {
		return err
	}
	for _, e := range entries {
		to := filepath.Join(name, e.Name())
		if e.IsDir() {
			err = os.Mkdir(to, 0o755)
		} else {
			err = os.WriteFile(to, nil, 0o644)
		}
		if err != nil {
			return err
		}
	}
	return nil
}
