package files

import (
	"fmt"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// permitted judges by mode bits whether the target's user may do all of want
// (R_OK, W_OK, X_OK), as the kernel's generic_permission does.
func (t *Tree) permitted(s *unix.Stat_t, want uint32) error {
	bits := s.Mode
	switch {
	case t.user.UID == s.Uid:
		bits >>= 6
	case t.user.In(s.Gid):
		bits >>= 3
	}
	if want&^bits&7 == 0 {
		return nil
	}
	directory := s.Mode&unix.S_IFMT == unix.S_IFDIR
	runs := directory || s.Mode&0o111 != 0 // not even root executes what nobody may
	if t.user.Can(unix.CAP_DAC_OVERRIDE) && (want&unix.X_OK == 0 || runs) {
		return nil
	}
	reads := want == unix.R_OK || directory && want&unix.W_OK == 0
	if t.user.Can(unix.CAP_DAC_READ_SEARCH) && reads {
		return nil
	}
	return unix.EACCES
}

// searchable checks the directories of a resolved path. For a user who passes
// them by it costs nothing.
func (t *Tree) searchable(path string) error {
	if t.user.Can(unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH) {
		return nil
	}
	for _, dir := range parents(path) {
		n, err := t.open(dir, unix.O_DIRECTORY, unix.RESOLVE_IN_ROOT|unix.RESOLVE_NO_SYMLINKS)
		if err != nil {
			return fmt.Errorf("looking at %s: %w", dir, err)
		}
		err = t.permitted(&n.stat, unix.X_OK)
		n.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Access answers whether the target's user may do what q.Mode says.
func (t *Tree) Access(q protocol.Access) (protocol.AccessReply, []byte, error) {
	var reply protocol.AccessReply
	if q.Mode&^(unix.R_OK|unix.W_OK|unix.X_OK) != 0 {
		return reply, nil, fmt.Errorf("access mode %#x: %w", q.Mode, unix.EINVAL)
	}
	n, err := t.find(q.Path, 0)
	if err != nil {
		return reply, nil, err
	}
	defer n.Close()
	if err := t.permitted(&n.stat, q.Mode); err != nil || q.Mode&unix.W_OK == 0 {
		return reply, nil, err
	}
	return reply, nil, n.writable()
}

// writable refuses what lies in a file system mounted for reading only.
func (n *node) writable() error {
	switch n.kind() {
	case unix.S_IFREG, unix.S_IFDIR:
	default:
		return nil // writing to it does not write to its file system
	}
	var fs unix.Statfs_t
	if err := unix.Fstatfs(int(n.file.Fd()), &fs); err != nil {
		return fmt.Errorf("fstatfs: %w", err)
	}
	if fs.Flags&unix.ST_RDONLY != 0 {
		return unix.EROFS
	}
	return nil
}
