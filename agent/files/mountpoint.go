package files

import (
	"cmp"
	"strings"

	"golang.org/x/sys/unix"
)

// What something is mounted on is not removed, renamed or replaced. The kernel
// refuses that only where it is mounted for the caller as well: from the
// agent's mount namespace it would take the mount away from the target. So that
// is refused here, and what the kernel would say before is found out.

// mounted tells whether something is mounted on p.
func (p place) mounted() bool {
	how := unix.OpenHow{Flags: unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: unix.RESOLVE_NO_XDEV}
	fd, err := unix.Openat2(p.fd(), strings.TrimRight(p.name, "/"), &how)
	if err == nil {
		unix.Close(fd)
	}
	return err == unix.EXDEV
}

// remove removes the entry as unlinkat(2) does.
func (p place) remove(flags int) error {
	if p.mounted() {
		st, err := p.stat()
		if err != nil {
			return err
		}
		directory := st.Mode&unix.S_IFMT == unix.S_IFDIR
		if directory == (flags == unix.AT_REMOVEDIR) && (directory || !strings.HasSuffix(p.name, "/")) {
			return cmp.Or(p.may(unix.W_OK|unix.X_OK), error(unix.EBUSY))
		}
	}
	return unix.Unlinkat(p.fd(), p.name, flags)
}

// renameMounted is a rename where something is mounted on one of the two.
func (p place) renameMounted(to place, flags uint32) error {
	if mountOf(p.dir) != mountOf(to.dir) {
		return unix.EXDEV
	}
	switch {
	case p.dots():
		return unix.EBUSY
	case to.dots() && flags == unix.RENAME_NOREPLACE:
		return unix.EEXIST
	case to.dots():
		return unix.EBUSY
	}
	st, err := p.stat()
	if err != nil {
		return err
	}
	other, err := to.stat()
	switch {
	case err != nil && (err != unix.ENOENT || flags == unix.RENAME_EXCHANGE):
		return err
	case err == nil && flags == unix.RENAME_NOREPLACE:
		return unix.EEXIST
	case st.Mode&unix.S_IFMT != unix.S_IFDIR && (strings.HasSuffix(p.name, "/") || flags != unix.RENAME_EXCHANGE && strings.HasSuffix(to.name, "/")):
		return unix.ENOTDIR
	case p.same(to):
		return nil
	}
	if err := cmp.Or(p.may(unix.W_OK|unix.X_OK), to.may(unix.W_OK|unix.X_OK)); err != nil {
		return err
	}
	if err == nil && flags == 0 {
		switch from, to := st.Mode&unix.S_IFMT == unix.S_IFDIR, other.Mode&unix.S_IFMT == unix.S_IFDIR; {
		case from && !to:
			return unix.ENOTDIR
		case to && !from:
			return unix.EISDIR
		}
	}
	return unix.EBUSY
}

func (p place) stat() (st unix.Stat_t, err error) {
	err = unix.Fstatat(p.fd(), strings.TrimRight(p.name, "/"), &st, unix.AT_SYMLINK_NOFOLLOW)
	return st, err
}

func (p place) dots() bool {
	name := strings.TrimRight(p.name, "/")
	return name == "." || name == ".."
}

func (p place) same(q place) bool {
	return p.dir.stat.Dev == q.dir.stat.Dev && p.dir.stat.Ino == q.dir.stat.Ino && strings.TrimRight(p.name, "/") == strings.TrimRight(q.name, "/")
}

// may asks what this thread may do with the directory, as access(2) does.
func (p place) may(mode uint32) error {
	return unix.Faccessat(p.fd(), ".", mode, unix.AT_EACCESS)
}

func mountOf(n *node) uint64 {
	var st unix.Statx_t
	_ = unix.Statx(int(n.file.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st)
	return st.Mnt_id
}
