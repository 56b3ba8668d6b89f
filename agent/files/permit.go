package files

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// permitted judges whether the target's user may do all of want (R_OK, W_OK, X_OK) with
// a file, as the kernel's generic_permission does: by capabilities, mode bits, an ACL.
func (t *Tree) permitted(n *node, want uint32) error {
	if t.overrides(&n.stat, want) {
		return nil
	}
	bits, err := t.bits(n, want)
	if err == nil && want&^bits != 0 {
		err = unix.EACCES
	}
	return err
}

// bits are the user's part of the file's mode, or what an ACL gives in its place.
func (t *Tree) bits(n *node, want uint32) (uint32, error) {
	s := &n.stat
	if t.user.UID == s.Uid {
		return s.Mode >> 6 & 7, nil
	}
	if s.Mode&0o070 != 0 && n.kind() != unix.S_IFLNK { // else no ACL is asked
		acl, err := n.acl()
		if acl != nil || err != nil {
			return t.byACL(acl, s.Gid, want), err
		}
	}
	if t.user.In(s.Gid) {
		return s.Mode >> 3 & 7, nil
	}
	return s.Mode & 7, nil
}

// overrides tells whether a capability lets the user do so, whatever else says.
func (t *Tree) overrides(s *unix.Stat_t, want uint32) bool {
	directory := s.Mode&unix.S_IFMT == unix.S_IFDIR
	runs := directory || s.Mode&0o111 != 0 // not even root executes what nobody may
	if t.user.Can(unix.CAP_DAC_OVERRIDE) && (want&unix.X_OK == 0 || runs) {
		return true
	}
	reads := want == unix.R_OK || directory && want&unix.W_OK == 0
	return t.user.Can(unix.CAP_DAC_READ_SEARCH) && reads
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
		err = t.permitted(n, unix.X_OK)
		n.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// Access answers whether the target's user may do what q.Mode says. About
// writing the kernel is asked, as that user.
func (t *Tree) Access(q protocol.Access) (protocol.AccessReply, []byte, error) {
	var reply protocol.AccessReply
	switch {
	case q.Mode&^(unix.R_OK|unix.W_OK|unix.X_OK) != 0:
		return reply, nil, fmt.Errorf("access mode %#x: %w", q.Mode, unix.EINVAL)
	case q.Mode&unix.W_OK != 0:
		return reply, nil, t.act(0, func() error { return t.access(q) })
	}
	n, err := t.find(string(q.Path), 0)
	if err != nil {
		return reply, nil, err
	}
	defer n.Close()
	return reply, nil, t.permitted(n, q.Mode)
}

// access asks for whoever this thread is.
func (t *Tree) access(q protocol.Access) error {
	n, err := t.locate(string(q.Path), 0)
	if err != nil {
		return err
	}
	defer n.Close()
	// AT_EACCESS: else the kernel judges by the real user, which is the agent's.
	const flags = unix.AT_EMPTY_PATH | unix.AT_EACCESS
	_, _, errno := unix.Syscall6(unix.SYS_FACCESSAT2, n.file.Fd(), uintptr(unsafe.Pointer(&[1]byte{})), uintptr(q.Mode), flags, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
