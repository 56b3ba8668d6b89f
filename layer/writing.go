package layer

import (
	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// changeFlags are those of an opening that is not only for reading what is
// there, 0 for one that is.
func changeFlags(flags int) (f uint32) {
	switch flags & unix.O_ACCMODE {
	case unix.O_RDONLY:
	case unix.O_WRONLY:
		f |= wire.OpenWrite
	default:
		f |= wire.OpenWrite | wire.OpenRead
	}
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		f |= wire.OpenTemporary
	} else if flags&unix.O_CREAT != 0 {
		f |= wire.OpenCreate
	}
	if flags&unix.O_TRUNC != 0 {
		f |= wire.OpenTruncate
	}
	if f == 0 {
		return 0
	}
	if flags&unix.O_ACCMODE == unix.O_RDONLY {
		f |= wire.OpenRead
	}
	if flags&unix.O_EXCL != 0 {
		f |= wire.OpenExclusive
	}
	return f
}

// openChange has the target's file opened, and made or emptied.
func (c *call) openChange(flags int, mode uint32) answer {
	q := c.ask(wire.Request{Op: wire.OpOpen, Flags: openFlags(flags) | changeFlags(flags), Mode: c.TID})
	if flags&unix.O_TMPFILE == unix.O_TMPFILE {
		q.Flags &^= wire.OpenDirectory // is a part of O_TMPFILE
	}
	if q.Flags&(wire.OpenCreate|wire.OpenTemporary) != 0 {
		umask, err := c.mask()
		if err != nil {
			return failWith(err)
		}
		q.Node = uint64(mode&0o7777) | uint64(umask)<<32
	}
	fd, err := c.l.Daemon.open(q, &c.l.files, flags)
	if err != nil {
		return failWith(err)
	}
	return give(fd, flags)
}
