package files

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// maxXattrs is the most bytes of extended attributes that are told unasked.
const maxXattrs = 512

// beside is what else programs are likely to ask of a file. Extended attributes are
// told to who may keep them.
func (t *Tree) beside(n *node, keeps bool) (b protocol.Beside) {
	if n.kind() == unix.S_IFLNK {
		text := make([]byte, unix.PathMax)
		size, err := unix.Readlinkat(int(n.file.Fd()), "", text)
		if err != nil {
			b.NoLink = protocol.AsError("readlink", err).Errno
		}
		b.Link = protocol.Path(text[:max(size, 0)])
	}
	for _, may := range []uint32{unix.R_OK, unix.X_OK} {
		if t.permitted(n, may) == nil {
			b.May |= may
		}
	}
	if keeps {
		b.Xattrs = t.xattrs(n)
	}
	return b
}

// xattrs is all that Xattr tells of a file; nil if that is much, or not to be told.
func (t *Tree) xattrs(n *node) []byte {
	names, err := t.xattrNames(n)
	if err != nil || len(names) > maxXattrs {
		return nil
	}
	told := []byte{}
	for name := range bytes.SplitSeq(bytes.TrimSuffix(names, []byte{0}), []byte{0}) {
		if len(name) == 0 {
			break // there are none
		}
		value, err := t.xattr(n, string(name))
		if err != nil || len(told)+len(value) > maxXattrs {
			return nil
		}
		told = protocol.AppendXattr(told, string(name), value)
	}
	return slices.Clip(told)
}
