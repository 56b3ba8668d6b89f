package browse

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A tree is a target whose files are below a directory.
type tree string

func (d tree) Stat(at string) (protocol.Attr, error) {
	var st unix.Stat_t
	err := unix.Lstat(string(d)+at, &st)
	return protocol.Attr{Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), Size: st.Size, Mtime: st.Mtim.Nano()}, err
}

func (d tree) Readlink(at string) (string, error) { return os.Readlink(string(d) + at) }
func (d tree) Statfs(at string) (protocol.StatfsReply, error) {
	var s unix.Statfs_t
	err := unix.Statfs(string(d)+at, &s)
	return protocol.StatfsReply{
		Bsize: s.Bsize, Frsize: s.Frsize, Namelen: s.Namelen, Blocks: s.Blocks, Bfree: s.Bfree, Bavail: s.Bavail, Files: s.Files, Ffree: s.Ffree,
	}, err
}
func (d tree) Xattr(at, name string) ([]byte, error) {
	b := make([]byte, 1<<10)
	var n int
	var err error
	if name == "" {
		n, err = unix.Llistxattr(string(d)+at, b)
	} else {
		n, err = unix.Lgetxattr(string(d)+at, name, b)
	}
	return b[:max(n, 0)], err
}
func (d tree) Access(at string, mode uint32) error { return unix.Access(string(d)+at, mode) }
func (d tree) Change(protocol.Change) error        { return syscall.EROFS }
func (d tree) Open(at string, flags int, mode uint32) (*os.File, error) {
	return os.OpenFile(string(d)+at, flags, os.FileMode(mode))
}

func TestMain(m *testing.M) {
	Serve() // does not return in the process beside a mount
	os.Exit(m.Run())
}

// mount mounts a target's files for the test.
func mount(t *testing.T, target Target, dir string, writable bool) *Mount {
	t.Helper()
	m, err := Start(target, dir, writable)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := m.End(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// The mount ends though somebody be inside.
func TestEndWithSomebodyInside(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(root, "f"), []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	m, err := Start(tree(root), dir, false)
	if err != nil {
		t.Skip(err)
	}
	// It goes there itself: a child of this process that did so before its execve(2) would
	// hold up the process that is to answer it.
	inside := exec.Command("sh", "-c", `cd "$0" && exec 3<f && echo inside && read wait && cat f`, dir)
	in, _ := inside.StdinPipe()
	out, _ := inside.StdoutPipe()
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	var word string
	if _, err := fmt.Fscan(out, &word); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error)
	go func() { ended <- m.End() }()
	select {
	case err := <-ended:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(30 * time.Second):
		t.Error("End waits for who is inside")
	}
	if ours(dir) {
		t.Error("the mount is still there")
	}
	in.Close()
	if err := inside.Wait(); err == nil {
		t.Error("who is inside still reads")
	}
}

// Attributes of users are the target's, the others are not shown, none is set.
func TestXattrs(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	file := filepath.Join(root, "f")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{"user.origin": "shop", "trusted.other": "x"} {
		if err := unix.Setxattr(file, name, []byte(value), 0); err == unix.ENOTSUP || err == unix.EPERM && name != "user.origin" {
			t.Skipf("setting %s: %v", name, err)
		} else if err != nil {
			t.Fatal(err)
		}
	}
	mount(t, tree(root), dir, true)
	file = filepath.Join(dir, "f")
	b := make([]byte, 64)
	for _, c := range []struct {
		what string
		get  func() (int, error)
		want string
		err  error
	}{
		{"the names", func() (int, error) { return unix.Listxattr(file, b) }, "user.origin\x00", nil},
		{"the names' size", func() (int, error) { return unix.Listxattr(file, nil) }, string(make([]byte, 12)), nil},
		{"the value", func() (int, error) { return unix.Getxattr(file, "user.origin", b) }, "shop", nil},
		{"the value's size", func() (int, error) { return unix.Getxattr(file, "user.origin", nil) }, string(make([]byte, 4)), nil},
		{"too little room", func() (int, error) { return unix.Getxattr(file, "user.origin", b[:2]) }, "", unix.ERANGE},
		{"one that is not there", func() (int, error) { return unix.Getxattr(file, "user.none", b) }, "", unix.ENODATA},
		{"one that is not shown", func() (int, error) { return unix.Getxattr(file, "trusted.other", b) }, "", unix.ENODATA},
		{"setting", func() (int, error) { return 0, unix.Setxattr(file, "user.origin", b[:1], 0) }, "", unix.ENOTSUP},
	} {
		clear(b)
		n, err := c.get()
		if got := string(b[:max(n, 0)]); got != c.want || err != c.err {
			t.Errorf("%s: %q, %v; want %q, %v", c.what, got, err, c.want, c.err)
		}
	}
}

// No link leads out of the mount: each leads where it does for a process whose
// root the target's is.
func TestLinksStayInside(t *testing.T) {
	above, root := t.TempDir(), t.TempDir()
	dir := filepath.Join(above, "mount")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(dir, 0o700))
	must(os.WriteFile(filepath.Join(above, "f"), []byte("not the target's"), 0o600))
	must(os.MkdirAll(filepath.Join(root, "a/b/c"), 0o700))
	for _, name := range []string{"f", "a/f", "a/b/f"} {
		must(os.WriteFile(filepath.Join(root, name), []byte("/"+name), 0o600))
	}
	links := []struct{ at, text, leads string }{
		{"a/same", "f", "/a/f"},
		{"a/up", "../f", "/f"},
		{"a/over", "../../../../f", "/f"},
		{"over", "../f", "/f"},
		{"a/b/absolute", "/a/f", "/a/f"},
		{"a/slashes", "//a//b/./f", "/a/b/f"},
		{"a/b/absolute-over", "/../../a/../f", "/f"},
		{"a/to-root", "/", ""},
		{"a/b/to-c", "c", ""},
		{"a/through", "to-root/../f", "/f"},
		{"a/b/through", "../to-root/../../../f", "/f"},
		{"a/deeper", "b/to-c/../f", "/a/b/f"},
		{"a/to-deeper", "b/../to-root/a/b/c/../../f", "/a/f"},
		{"a/by-mount", "/../mount/../f", ""},
		{"a/no-directory", "f/../f", ""},
		{"a/itself", "itself/../f", ""},
	}
	for _, l := range links {
		must(os.Symlink(l.text, filepath.Join(root, l.at)))
	}
	mount(t, tree(root), dir, false)
	for _, l := range links {
		to, err := os.Readlink(filepath.Join(dir, l.at))
		b, readErr := os.ReadFile(filepath.Join(dir, l.at))
		if string(b) != l.leads || (readErr == nil) != (l.leads != "") {
			t.Errorf("%s -> %s: shown as %q, %v, leads to %q, %v; want %q", l.at, l.text, to, err, b, readErr, l.leads)
		}
	}
	for at, want := range map[string]error{"a/no-directory": syscall.ENOTDIR, "a/itself": syscall.ELOOP, "a/by-mount": syscall.ENOENT} {
		if _, err := os.ReadFile(filepath.Join(dir, at)); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", at, err, want)
		}
	}
	if to, err := os.Readlink(filepath.Join(dir, "a/up")); to != "../f" || err != nil {
		t.Errorf("a link that stays inside by itself: %q, %v", to, err)
	}
}

// What is left of a Mount that was killed is taken away, and nobody else's.
func TestSweep(t *testing.T) {
	for _, tt := range []struct {
		source, kind string
		ours         bool
	}{{"mirrord", "fuse.mirrord", true}, {"host:/home", "fuse.sshfs", false}, {"mirrord", "fuse.sshfs", false}} {
		dir := filepath.Join(t.TempDir(), "a mount")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		dead(t, dir, tt.source, tt.kind)
		was := Sweep(dir)
		var st unix.Stat_t
		var want error = unix.ENOTCONN
		if tt.ours {
			want = nil
		}
		if err := unix.Stat(dir, &st); err != want || was != tt.ours {
			t.Errorf("%s of type %s after Sweep (%v): %v, want %v", tt.source, tt.kind, was, err, want)
		}
	}
	// Neither is what is alive, nor what has nothing mounted.
	dir := t.TempDir()
	Sweep(dir)
	mount(t, tree(t.TempDir()), dir, false)
	Sweep(dir)
	if !ours(dir) {
		t.Error("Sweep took away what is alive")
	}
}

// dead mounts at dir what nobody serves.
func dead(t *testing.T, dir, source, kind string) {
	t.Helper()
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	err = unix.Mount(source, dir, kind, 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0", fd))
	unix.Close(fd)
	if err != nil {
		t.Skipf("mounting: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
}

// Each path has the room of the file system that it is in.
func TestRoom(t *testing.T) {
	root, dir := t.TempDir(), t.TempDir()
	small := filepath.Join(root, "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", small, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("mounting: %v", err)
	}
	defer func() { _ = unix.Unmount(small, unix.MNT_DETACH) }()
	mount(t, tree(root), dir, true)
	for _, name := range []string{"", "small"} {
		var got, want unix.Statfs_t
		if err := unix.Statfs(filepath.Join(dir, name), &got); err != nil {
			t.Fatal(err)
		}
		if err := unix.Statfs(filepath.Join(root, name), &want); err != nil {
			t.Fatal(err)
		}
		if got.Blocks != want.Blocks || got.Files != want.Files || got.Frsize != want.Frsize || got.Namelen != want.Namelen || got.Blocks == 0 || got.Bavail == 0 {
			t.Errorf("%q has the room %+v, want %+v", name, got, want)
		}
	}
}

// What somebody has at a directory is not hidden.
func TestPlaceTaken(t *testing.T) {
	root, shown, full := tree(t.TempDir()), t.TempDir(), t.TempDir()
	for _, dir := range []string{string(root), full} {
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	mount(t, root, shown, false)
	for dir, want := range map[string]string{shown: "files are shown there already", full: "it is not empty"} {
		if m, err := Start(root, dir, false); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", dir, err, want)
			if err == nil {
				_ = m.End()
			}
		}
	}
}
