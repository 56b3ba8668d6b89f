package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

// Each path is walked by each set of flags as the kernel walks it.
func TestWalks(t *testing.T) {
	dir, shm := t.TempDir(), fmt.Sprintf("/dev/shm/walks%d", os.Getpid())
	for _, err := range []error{
		os.MkdirAll(dir+"/d/e", 0o755), os.WriteFile(dir+"/d/e/f", nil, 0o644), os.WriteFile(dir+"/f", nil, 0o644), os.MkdirAll(shm+"/d", 0o755),
		os.WriteFile(shm+"/d/f", nil, 0o644), os.Symlink("f", dir+"/d/e/same"), os.Symlink("../../f", dir+"/d/e/up"), os.Symlink("/d/e/f", dir+"/d/scoped"),
		os.Symlink(dir+"/f", dir+"/d/absolute"), os.Symlink(shm+"/d/f", dir+"/d/over"), os.Symlink("e", dir+"/d/dir"), os.Symlink("loop", dir+"/d/loop"),
		os.Symlink("f", shm+"/d/same"), os.Symlink(dir+"/f", shm+"/d/over"), os.Symlink("/../../"+shm+"/d/f", shm+"/d/absolute"), os.Symlink("none", dir+"/d/none"),
	} {
		if err != nil {
			t.Skip(err)
		}
	}
	defer os.RemoveAll(shm)
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	tree := New(root, target.User{})
	const flags = unix.RESOLVE_NO_XDEV | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_BENEATH | unix.RESOLVE_IN_ROOT
	outcomes := map[string]int{}
	for _, from := range []string{"/", dir, dir + "/d", shm + "/d", "/proc", dir + "/f", dir + "/gone"} {
		for _, path := range []string{
			"", ".", "/", "f", "e/f", "e/same", "e/up", "e/../../f", "e/../../../f", "/d/e/f", "/f", "scoped", "absolute", "over", "dir/f", "dir/up", "loop", "none",
			"same", "same/", "e/", "..", "../d/e/f", dir + "/d/absolute", dir[1:] + "/d/absolute", dir + "/d/dir/f", shm + "/d/f", shm[1:] + "/d/same", "version", "self/../version",
			filepath.Join("../../../../../../../../..", shm, "d/f"),
		} {
			for resolve := uint64(0); resolve <= flags; resolve++ {
				for _, follow := range []uint64{0, unix.O_NOFOLLOW} {
					want, wantErr := kernelWalk(from, path, follow, resolve)
					got := ""
					n, err := tree.findBy(from, &protocol.Walk{Path: protocol.Path(path), Resolve: resolve}, follow)
					if err == nil {
						got = n.path
						n.Close()
					}
					var errno unix.Errno
					errors.As(err, &errno)
					if got != want || errno != wantErr {
						t.Errorf("from %s along %q by %#x, flags %#o: %q, %v; the kernel says %q, %v", from, path, resolve, follow, got, err, want, wantErr)
					}
					outcomes[wantErr.Error()]++
				}
			}
		}
	}
	for _, errno := range []unix.Errno{0, unix.EXDEV, unix.ELOOP, unix.ENOENT, unix.EINVAL, unix.ENOTDIR} {
		if outcomes[errno.Error()] == 0 {
			t.Errorf("no walk came to %v", errno)
		}
	}
}

func kernelWalk(from, path string, flags, resolve uint64) (string, unix.Errno) {
	dir, err := unix.Open(from, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err.(unix.Errno)
	}
	defer unix.Close(dir)
	fd, err := persisting(func() (int, error) {
		return unix.Openat2(dir, path, &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC | flags, Resolve: resolve})
	})
	if err != nil {
		return "", err.(unix.Errno)
	}
	defer unix.Close(fd)
	to, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", fd))
	return to, 0
}
