package files

import (
	"fmt"
	"unsafe"

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
	return reply, nil, t.permitted(&n.stat, q.Mode)
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
