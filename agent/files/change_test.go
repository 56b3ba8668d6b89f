package files

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

// owner is a container's root, with what it usually may do with files.
var owner = target.User{Caps: 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID}

// A disk is a tree with all that calls can stumble over. Two of them are the
// same, for a call by the agent and one by the kernel.
type disk struct {
	t      *testing.T
	dir    string
	mounts *os.File // the namespace
	root   *os.File
}

const past = 1_000_000_000 // of all times on a disk

func newDisk(t *testing.T, dir string) *disk {
	t.Helper()
	mounts, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { mounts.Close() })
	d := &disk{t: t, dir: dir, mounts: mounts}
	d.fill()
	return d
}

// fill makes the tree, anew if there is one.
func (d *disk) fill() {
	d.t.Helper()
	d.empty()
	steps := []error{os.Mkdir(d.dir, 0o755)}
	do := func(err error) { steps = append(steps, err) }
	at := func(name string) string { return filepath.Join(d.dir, name) }
	for _, x := range []struct {
		name     string
		mode     uint32
		uid, gid int
	}{
		{"dir", 0o755, 0, 0}, {"dir/full", 0o755, 0, 0}, {"all", 0o777, 0, 0}, {"closed", 0o700, 0, 0}, {"sticky", 0o1777, 0, 0},
		{"own", 0o755, 1000, 2000}, {"own/empty", 0o755, 1000, 2000}, {"setgid", 0o2777, 0, 5000}, {"group", 0o770, 0, 3000},
		{"ro", 0o777, 0, 0}, {"tiny", 0o777, 0, 0}, {"other", 0o777, 0, 0},
	} {
		do(os.Mkdir(at(x.name), 0))
		do(unix.Chmod(at(x.name), x.mode))
		do(unix.Chown(at(x.name), x.uid, x.gid))
		do(unix.Chmod(at(x.name), x.mode))
	}
	do(unix.Mount("none", at("tiny"), "tmpfs", 0, "nr_inodes=2,mode=777"))
	do(unix.Mount("none", at("other"), "tmpfs", 0, "mode=777"))
	for _, x := range []struct {
		name     string
		mode     uint32
		uid, gid int
	}{
		{"file", 0o644, 0, 0}, {"dir/file", 0o644, 0, 0}, {"dir/full/file", 0o644, 0, 0}, {"closed/file", 0o666, 0, 0}, {"sticky/roots", 0o666, 0, 0},
		{"sticky/mine", 0o644, 1000, 2000}, {"own/file", 0o6755, 1000, 2000}, {"own/roots", 0o644, 0, 0}, {"own/writable", 0o666, 0, 0},
		{"group/file", 0o664, 0, 3000}, {"ro/file", 0o666, 1000, 2000}, {"tiny/file", 0o666, 1000, 2000}, {"other/file", 0o666, 1000, 2000},
	} {
		do(os.WriteFile(at(x.name), []byte(x.name), 0o600))
		do(unix.Chown(at(x.name), x.uid, x.gid))
		do(unix.Chmod(at(x.name), x.mode))
	}
	for name, text := range map[string]string{
		"link": "file", "dlink": "/own", "dangling": "/own/made", "loop": "loop", "up": "../../../own", "abs": "/own/file", "own/link": "file",
	} {
		do(os.Symlink(text, at(name)))
	}
	do(unix.Mkfifo(at("own/fifo"), 0o644))
	do(unix.Chown(at("own/fifo"), 1000, 2000))
	do(unix.Mount(at("ro"), at("ro"), "", unix.MS_BIND, ""))
	do(unix.Mount("", at("ro"), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	do(os.WriteFile(at("own/mounted"), nil, 0o644))
	do(unix.Mount(at("file"), at("own/mounted"), "", unix.MS_BIND, ""))
	do(filepath.WalkDir(d.dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil || strings.HasPrefix(path, at("ro")) {
			return err
		}
		times := []unix.Timespec{{Sec: past}, {Sec: past}}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, times, unix.AT_SYMLINK_NOFOLLOW)
	}))
	if err := errors.Join(steps...); err != nil {
		d.t.Fatal(err)
	}
	fd, err := unix.Open(d.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		d.t.Fatal(err)
	}
	d.root = os.NewFile(uintptr(fd), d.dir)
}

func (d *disk) empty() {
	if d.root != nil {
		d.root.Close()
	}
	for _, name := range []string{"ro", "tiny", "other", "own/mounted"} {
		_ = unix.Unmount(filepath.Join(d.dir, name), unix.MNT_DETACH)
	}
	if err := os.RemoveAll(d.dir); err != nil {
		d.t.Fatal(err)
	}
}

// look describes all that is there, times as far as two disks can have the same.
func (d *disk) look() map[string]string {
	seen := map[string]string{}
	err := filepath.WalkDir(d.dir, func(path string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err := errors.Join(err, unix.Lstat(path, &st)); err != nil {
			return err
		}
		text, _ := os.Readlink(path)
		name := strings.TrimPrefix(path, d.dir)
		if st.Mode&unix.S_IFMT == unix.S_IFDIR { // its times and size are by what was done in it
			seen[name] = fmt.Sprintf("%#o %d:%d, %d links", st.Mode, st.Uid, st.Gid, st.Nlink)
			return nil
		}
		seen[name] = fmt.Sprintf("%#o %d:%d, %d links, %d bytes, %q, atime %s, mtime %s",
			st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, text, when(st.Atim), when(st.Mtim))
		return nil
	})
	if err != nil {
		d.t.Fatal(err)
	}
	return seen
}

func when(t unix.Timespec) string {
	if t.Sec > 2*past-past/2 { // later than this test knows
		return "now"
	}
	return fmt.Sprint(t.Sec, ".", t.Nsec)
}

// kernel calls f as a process of the user would that has the disk as its root.
func (d *disk) kernel(u target.User, umask int, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		groups := make([]int, 0, len(u.Groups))
		for _, g := range u.Groups {
			groups = append(groups, int(g))
		}
		set := func(call uintptr, id uint32) error {
			if _, _, errno := unix.RawSyscall(call, uintptr(id), uintptr(id), uintptr(id)); errno != 0 {
				return errno
			}
			return nil
		}
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		caps[0].Permitted = uint32(u.Caps)
		caps[0].Effective = caps[0].Permitted
		for _, step := range []func() error{
			func() error { return unix.Unshare(unix.CLONE_FS) },
			func() error { return unix.Setns(int(d.mounts.Fd()), unix.CLONE_NEWNS) },
			func() error { return unix.Fchdir(int(d.root.Fd())) },
			func() error { return unix.Chroot(".") },
			func() error { return unix.Setgroups(groups) },
			func() error { return unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0) },
			func() error { return set(unix.SYS_SETRESGID, u.GID) },
			func() error { return set(unix.SYS_SETRESUID, u.UID) },
			func() error { return unix.Capset(&head, &caps[0]) },
		} {
			if err := step(); err != nil {
				d.t.Errorf("becoming %+v: %v", u, err)
			}
		}
		unix.Umask(umask)
		done <- f()
	}()
	return <-done
}

// direct makes the call that q stands for.
func direct(q protocol.Change) error {
	path, other := string(q.Path), string(q.Other)
	follow := 0
	if q.NoFollow {
		follow = unix.AT_SYMLINK_NOFOLLOW
	}
	switch q.Op {
	case protocol.ChangeMkdir:
		return unix.Mkdir(path, q.Mode)
	case protocol.ChangeMknod:
		return unix.Mknod(path, q.Mode, int(unix.Mkdev(1, 3)))
	case protocol.ChangeSymlink:
		return unix.Symlink(other, path)
	case protocol.ChangeLink:
		if q.NoFollow {
			return unix.Link(path, other)
		}
		return unix.Linkat(unix.AT_FDCWD, path, unix.AT_FDCWD, other, unix.AT_SYMLINK_FOLLOW)
	case protocol.ChangeUnlink:
		return unix.Unlink(path)
	case protocol.ChangeRmdir:
		return unix.Rmdir(path)
	case protocol.ChangeRename:
		return unix.Renameat2(unix.AT_FDCWD, path, unix.AT_FDCWD, other, uint(q.Flags))
	case protocol.ChangeMode:
		return unix.Chmod(path, q.Mode)
	case protocol.ChangeOwner:
		return unix.Fchownat(unix.AT_FDCWD, path, int(int32(q.UID)), int(int32(q.GID)), follow)
	case protocol.ChangeTimes:
		var ts []unix.Timespec
		for _, t := range q.Times {
			ts = append(ts, unix.Timespec{Sec: t.Sec, Nsec: t.Nsec})
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, path, ts, follow)
	case protocol.ChangeSize:
		return unix.Truncate(path, q.Size)
	}
	return unix.ENOSYS
}

// spellings are paths of a disk, and what else may be written for one.
var spellings = []string{
	"/file", "/file/", "/file/x", "/dir", "/dir/", "/dir/.", "/dir/..", "/dir/full", "/dir/full/", "/", "//", "/..", "/.",
	"/missing", "/missing/", "/missing/x", "/link", "/link/", "/dlink", "/dlink/", "/dlink/x", "/dlink/file", "/dlink/../file", "/dangling", "/dangling/",
	"/loop", "/loop/x", "/up/x", "/up/file", "/abs", "/closed/file", "/closed/x", "/closed/../own/x", "/sticky/roots", "/sticky/mine", "/sticky/x",
	"/own/file", "/own/roots", "/own/writable", "/own/empty", "/own/empty/", "/own//./x", "/own/link", "/own/fifo", "/own/../../own/x", "/own/mounted", "/own/mounted/", "/setgid/x",
	"/group/file", "/group/x", "/ro/file", "/ro/x", "/ro", "/tiny/file", "/tiny/x", "/other/file", "/other/x", "/all/x", "/all/x/",
	"/all/" + strings.Repeat("n", 255), "/all/" + strings.Repeat("n", 256),
	"/all" + strings.Repeat("/.", 2044) + "/xx", "/all" + strings.Repeat("/.", 2044) + "/xxx", // 4095 and 4096 bytes
}

// Each call comes to what the kernel makes of it, on local disk, for the same user.
func TestChangeIsTheKernels(t *testing.T) {
	asRoot(t)
	// Mounts are this thread's, which ends with the test.
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Skipf("no mount namespace: %v", err)
	}
	top := t.TempDir()
	if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), unix.Mount("none", top, "tmpfs", 0, "mode=755")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(top, unix.MNT_DETACH) })
	ours, theirs := newDisk(t, filepath.Join(top, "ours")), newDisk(t, filepath.Join(top, "theirs"))
	defer ours.empty()
	defer theirs.empty()

	all := func(q protocol.Change, list ...protocol.Change) []protocol.Change {
		for _, path := range spellings {
			q.Path = protocol.Path(path)
			list = append(list, q)
		}
		return list
	}
	now, omit := protocol.Timespec{Nsec: unix.UTIME_NOW}, protocol.Timespec{Nsec: unix.UTIME_OMIT}
	some := protocol.Timespec{Sec: 12345, Nsec: 678}
	var list []protocol.Change
	for _, q := range []protocol.Change{
		{Op: protocol.ChangeMkdir, Mode: 0o7777, Umask: 0o022},
		{Op: protocol.ChangeMknod, Mode: unix.S_IFREG | 0o666, Umask: 0o077},
		{Op: protocol.ChangeMknod, Mode: unix.S_IFIFO | 0o6777},
		{Op: protocol.ChangeMknod, Mode: unix.S_IFCHR | 0o666},
		{Op: protocol.ChangeMknod, Mode: unix.S_IFDIR | 0o666},
		{Op: protocol.ChangeMknod, Mode: 0o640},
		{Op: protocol.ChangeSymlink, Other: "../anything"}, {Op: protocol.ChangeSymlink},
		{Op: protocol.ChangeUnlink}, {Op: protocol.ChangeRmdir},
		{Op: protocol.ChangeMode, Mode: 0o4751}, {Op: protocol.ChangeMode, Mode: 0o2000},
		{Op: protocol.ChangeOwner, UID: 1000, GID: 3000}, {Op: protocol.ChangeOwner, UID: protocol.KeepID, GID: 3000, NoFollow: true},
		{Op: protocol.ChangeOwner, UID: 7, GID: protocol.KeepID}, {Op: protocol.ChangeOwner, UID: protocol.KeepID, GID: protocol.KeepID},
		{Op: protocol.ChangeTimes}, {Op: protocol.ChangeTimes, Times: []protocol.Timespec{now, now}, NoFollow: true},
		{Op: protocol.ChangeTimes, Times: []protocol.Timespec{some, omit}}, {Op: protocol.ChangeTimes, Times: []protocol.Timespec{now, some}, NoFollow: true},
		{Op: protocol.ChangeTimes, Times: []protocol.Timespec{some, {Nsec: 1e9}}},
		{Op: protocol.ChangeSize, Size: 3}, {Op: protocol.ChangeSize, Size: 1 << 20}, {Op: protocol.ChangeSize, Size: -1},
	} {
		list = all(q, list...)
	}
	list = all(protocol.Change{Op: protocol.ChangeRename, Other: "/own/x", Flags: unix.RENAME_NOREPLACE | unix.RENAME_EXCHANGE}, list...)
	list = all(protocol.Change{Op: protocol.ChangeRename, Other: "/own/x", Flags: 1 << 5}, list...)
	for _, from := range spellings {
		for _, to := range []string{
			"/all/x/", "/own/x", "/own/file", "/own/empty", "/own/empty/", "/dir/full", "/sticky/roots", "/dlink", "/dangling", "/ro/x", "/other/x",
			"/dir/full/deep", "/", "/all/.", "/missing/x", "/all/" + strings.Repeat("n", 256), from,
		} {
			q := protocol.Change{Path: protocol.Path(from), Other: protocol.Path(to)}
			if from == "/own/mounted" && to == "/sticky/roots" {
				continue // the agent does not ask the sticky bit before it sees the mount
			}
			for _, flags := range []uint32{0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE} {
				q.Op, q.Flags = protocol.ChangeRename, flags
				list = append(list, q)
			}
			q.Op, q.Flags = protocol.ChangeLink, 0
			list = append(list, q)
			q.NoFollow = true
			list = append(list, q)
		}
	}
	for _, user := range []target.User{alice, owner} {
		done := 0
		for _, q := range list {
			h := New(ours.root, user).Handles()
			_, _, err := h.Change(q)
			want := theirs.kernel(user, int(q.Umask), func() error { return direct(q) })
			if !errors.Is(err, want) && (err != nil || want != nil) {
				t.Errorf("uid %d: %+v: %v, want %v", user.UID, q, err, want)
			}
			if err == nil || want == nil {
				done++
				if diff := cmp.Diff(theirs.look(), ours.look()); diff != "" {
					t.Errorf("uid %d: %+v: -kernel +agent:\n%s", user.UID, q, diff)
				}
				ours.fill()
				theirs.fill()
			}
		}
		for _, path := range spellings {
			for mode := range uint32(8) {
				_, _, err := New(ours.root, user).Access(protocol.Access{Path: protocol.Path(path), Mode: mode})
				want := theirs.kernel(user, 0, func() error { return unix.Access(path, mode) })
				if mode&unix.W_OK != 0 && err != want {
					t.Errorf("uid %d: access %s %o: %v, want %v", user.UID, path, mode, err, want)
				}
			}
		}
		t.Logf("uid %d: %d of %d calls were done", user.UID, done, len(list))
	}
}

// A rename tells where both names were found.
func TestRenameTells(t *testing.T) {
	asRoot(t)
	_, h := build(t, root)
	reply, _, err := h.Change(protocol.Change{Op: protocol.ChangeRename, Path: "/etc/shop/..data/config.yaml", Other: "/etc/../etc/new"})
	if err != nil || reply.From != "/etc/shop/..2026/config.yaml" || reply.To != "/etc/new" {
		t.Errorf("%+v, %v", reply, err)
	}
}

// What is open is changed whatever has become of its name.
func TestChangeOfOpenFiles(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("needs root, to give files away")
	}
	dir := t.TempDir()
	root, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	h := New(root, owner).Handles()
	defer h.CloseAll()
	open := func(path string, flags int) uint64 {
		t.Helper()
		r, _, err := h.Open(opening(path, flags, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		return r.Handle
	}
	change := func(q protocol.Change) error {
		_, _, err := h.Change(q)
		return err
	}
	other := protocol.Path(dir + "/linked")
	temporary, renamed := open(dir, unix.O_TMPFILE|unix.O_RDWR), open(dir+"/old", unix.O_CREAT|unix.O_RDWR)
	private, gone := open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_EXCL), open(dir+"/gone", unix.O_CREAT|unix.O_RDWR)
	if err := errors.Join(os.Rename(dir+"/old", dir+"/new"), os.WriteFile(dir+"/old", nil, 0o600), os.Remove(dir+"/gone")); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		what string
		q    protocol.Change
		want error
	}{
		{"a temporary file's name", protocol.Change{Op: protocol.ChangeLink, Handle: temporary, Other: other}, nil},
		{"it again", protocol.Change{Op: protocol.ChangeLink, Handle: temporary, Other: other}, unix.EEXIST},
		{"one that may have none", protocol.Change{Op: protocol.ChangeLink, Handle: private, Other: other + "2"}, unix.ENOENT},
		{"one that had one", protocol.Change{Op: protocol.ChangeLink, Handle: gone, Other: other + "3"}, unix.ENOENT},
		{"owner", protocol.Change{Op: protocol.ChangeOwner, Handle: renamed, Path: protocol.Path(dir + "/old"), UID: 12, GID: 34}, nil},
		{"owner of what is gone", protocol.Change{Op: protocol.ChangeOwner, Handle: gone, UID: 12, GID: 34}, nil},
		{"mode", protocol.Change{Op: protocol.ChangeMode, Handle: renamed, Mode: 0o640}, nil},
		{"no such handle", protocol.Change{Op: protocol.ChangeMode, Handle: 99}, unix.EBADF},
	} {
		if err := change(tt.q); !errors.Is(err, tt.want) || (err == nil) != (tt.want == nil) {
			t.Errorf("%s: %v, want %v", tt.what, err, tt.want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(dir+"/new", &st); err != nil || st.Uid != 12 || st.Gid != 34 || st.Mode != unix.S_IFREG|0o640 {
		t.Errorf("what was renamed is %d:%d's and %o, %v", st.Uid, st.Gid, st.Mode, err)
	}
	if err := unix.Stat(dir+"/old", &st); err != nil || st.Uid != 0 {
		t.Errorf("what has its name is %d's, %v", st.Uid, err)
	}
}
