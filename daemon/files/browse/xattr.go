package browse

import (
	"bytes"
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
)

var _ interface {
	fs.NodeGetxattrer
	fs.NodeListxattrer
	fs.NodeSetxattrer
	fs.NodeRemovexattrer
} = (*node)(nil)

// userPrefix is of the attributes that are shown. The kernel and ls ask for others
// of each file: those are not worth a request.
const userPrefix = "user."

func (n *node) Getxattr(ctx context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if !strings.HasPrefix(name, userPrefix) {
		return 0, syscall.ENODATA
	}
	at := n.path()
	value, errno := during(ctx, func() ([]byte, error) { return n.target.Xattr(at, name) }, nil)
	return give(dest, value, errno)
}

func (n *node) Listxattr(ctx context.Context, dest []byte) (uint32, syscall.Errno) {
	at := n.path()
	names, errno := during(ctx, func() ([]byte, error) { return n.target.Xattr(at, "") }, nil)
	var shown []byte
	for name := range bytes.SplitAfterSeq(names, []byte{0}) {
		if bytes.HasPrefix(name, []byte(userPrefix)) {
			shown = append(shown, name...)
		}
	}
	return give(dest, shown, errno)
}

// give answers with b, or, where there is no room, with its size.
func give(dest, b []byte, errno syscall.Errno) (uint32, syscall.Errno) {
	if errno == 0 && len(b) > len(dest) {
		return uint32(len(b)), syscall.ERANGE
	}
	return uint32(copy(dest, b)), errno
}

// None is set: ENOSYS is ENOTSUP to who tries, and the kernel asks no more.

func (n *node) Setxattr(context.Context, string, []byte, uint32) syscall.Errno {
	return syscall.ENOSYS
}

func (n *node) Removexattr(context.Context, string) syscall.Errno { return syscall.ENOSYS }
