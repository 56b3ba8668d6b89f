package files

import (
	"bytes"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Attributes by who may know them (xattr(7)).
const (
	trustedPrefix = "trusted."
	userPrefix    = "user."
)

// Xattr answers with an extended attribute of a file, or with the names of all,
// as far as the target's user may know them.
func (t *Tree) Xattr(q protocol.Xattr) (protocol.XattrReply, []byte, error) {
	var reply protocol.XattrReply
	n, err := t.find(string(q.Path), noFollow(q.NoFollow))
	if err != nil {
		return reply, nil, err
	}
	defer n.Close()
	if q.Name == "" {
		names, err := t.xattrNames(n)
		return reply, names, err
	}
	value, err := t.xattr(n, string(q.Name))
	return reply, value, err
}

// xattrNames are those of all, each ended by NUL.
func (t *Tree) xattrNames(n *node) ([]byte, error) {
	names, err := all(func(to []byte) (int, error) { return unix.Listxattr(procFD(n.file), to) })
	return t.knownXattrs(names), err
}

func (t *Tree) xattr(n *node, name string) ([]byte, error) {
	if err := t.mayKnow(n, name); err != nil {
		return nil, err
	}
	return all(func(to []byte) (int, error) { return unix.Getxattr(procFD(n.file), name, to) })
}

// mayKnow does for the target's user what the kernel's xattr_permission does for us.
func (t *Tree) mayKnow(n *node, name string) error {
	switch {
	case strings.HasPrefix(name, trustedPrefix):
		if !t.user.Can(unix.CAP_SYS_ADMIN) {
			return unix.ENODATA
		}
	case strings.HasPrefix(name, userPrefix):
		if n.kind() != unix.S_IFREG && n.kind() != unix.S_IFDIR {
			return unix.ENODATA
		}
		return t.permitted(n, unix.R_OK)
	}
	return nil
}

// knownXattrs leaves out of a list of names those that the user is not told.
func (t *Tree) knownXattrs(names []byte) []byte {
	if t.user.Can(unix.CAP_SYS_ADMIN) {
		return names
	}
	var known []byte
	for name := range bytes.SplitAfterSeq(names, []byte{0}) {
		if !bytes.HasPrefix(name, []byte(trustedPrefix)) {
			known = append(known, name...)
		}
	}
	return known
}

// all reads what may grow between being measured and being read.
func all(read func([]byte) (int, error)) ([]byte, error) {
	for {
		size, err := read(nil)
		if err != nil || size == 0 {
			return nil, err
		}
		b := make([]byte, size)
		if size, err = read(b); err != unix.ERANGE {
			return b[:max(size, 0)], err
		}
	}
}
