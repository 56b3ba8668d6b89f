// Package filestest has files that do what a target's do rarely.
package filestest

import (
	"context"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

type stuck struct {
	fs.MemRegularFile
	gate <-chan struct{}
}

var (
	_ fs.NodeWriter  = (*stuck)(nil)
	_ fs.NodeFsyncer = (*stuck)(nil)
)

// Stuck makes a file for the test, in a file system of its own, on which each
// write hangs until gate is closed.
func Stuck(t testing.TB, gate <-chan struct{}) (path string) {
	t.Helper()
	dir := t.TempDir()
	root := new(fs.Inode)
	server, err := fs.Mount(dir, root, &fs.Options{
		MountOptions: fuse.MountOptions{DirectMount: true},
		OnAdd: func(ctx context.Context) {
			root.AddChild("file", root.NewPersistentInode(ctx, &stuck{gate: gate}, fs.StableAttr{Mode: syscall.S_IFREG}), false)
		},
	})
	if err != nil {
		t.Skipf("mounting takes root's rights and /dev/fuse: %v", err)
	}
	t.Cleanup(func() {
		if err := server.Unmount(); err != nil {
			t.Error(err)
		}
	})
	return filepath.Join(dir, "file")
}

func (f *stuck) Write(ctx context.Context, h fs.FileHandle, p []byte, off int64) (uint32, syscall.Errno) {
	<-f.gate
	return f.MemRegularFile.Write(ctx, h, p, off)
}

func (f *stuck) Fsync(context.Context, fs.FileHandle, uint32) syscall.Errno { return 0 }
