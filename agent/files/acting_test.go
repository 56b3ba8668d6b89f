package files

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/target"
)

// alice is a container's user without capabilities.
var alice = target.User{UID: 1000, GID: 2000, Groups: []uint32{3000}}

// asRoot skips the test where nobody else can be become.
func asRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("acting as another user needs root")
	}
}

// shared makes a directory that everybody comes to, which t.TempDir is not.
func shared(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mirrord")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// tree is the tree below dir as user sees it.
func tree(t *testing.T, dir string, user target.User) *Tree {
	t.Helper()
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	t.Cleanup(func() { f.Close() })
	return New(f, user)
}

// acl is a POSIX ACL that gives one more user some rights, as setfacl(1) stores it.
func acl(owner, user, mask uint16, uid uint32) []byte {
	const none = ^uint32(0)
	return aclOf([]aclEntryOf{{1, owner, none}, {aclUser, user, uid}, {aclGroupObj, 0, none}, {aclMask, mask, none}, {aclOther, 0, none}})
}

func TestActing(t *testing.T) {
	asRoot(t)
	dir := shared(t)
	of := func(name string, mode uint32, uid, gid int) string {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(unix.Mkdir(name, 0), unix.Chown(name, uid, gid), unix.Chmod(name, mode)); err != nil {
			t.Fatal(err)
		}
		return name
	}
	all := of("all", 0o777, 0, 0)
	group := of("group", 0o770, 0, 3000)
	setgid := of("setgid", 0o2777, 0, 5000)
	closed := of("closed", 0o755, 0, 0)
	byACL, masked := of("acl", 0o700, 0, 0), of("default", 0o777, 0, 0)
	if err := unix.Setxattr(byACL, "system.posix_acl_access", acl(7, 7, 7, alice.UID), 0); err != nil {
		t.Skipf("no ACLs at %s: %v", dir, err)
	}
	if err := unix.Setxattr(masked, "system.posix_acl_default", acl(7, 6, 6, 4000), 0); err != nil {
		t.Fatal(err)
	}
	capable := alice
	capable.Caps = 1 << unix.CAP_DAC_OVERRIDE
	foreign := capable
	foreign.Foreign = true
	for name, test := range map[string]struct {
		user  target.User
		dir   string
		umask uint32
		want  unix.Errno
		mode  uint32
		gid   uint32
	}{
		"to all":                 {user: alice, dir: all, umask: 0o022, mode: 0o644, gid: 2000},
		"nothing masked":         {user: alice, dir: all, mode: 0o666, gid: 2000},
		"by a group":             {user: alice, dir: group, umask: 0o077, mode: 0o600, gid: 2000},
		"the directory's group":  {user: alice, dir: setgid, umask: 0o022, mode: 0o644, gid: 5000},
		"by an ACL":              {user: alice, dir: byACL, umask: 0o022, mode: 0o644, gid: 2000},
		"a default ACL, no mask": {user: alice, dir: masked, umask: 0o077, mode: 0o660, gid: 2000},
		"closed":                 {user: alice, dir: closed, want: unix.EACCES},
		"by a capability":        {user: capable, dir: closed, umask: 0o022, mode: 0o644, gid: 2000},
		"another namespace's":    {user: foreign, dir: closed, want: unix.EACCES},
	} {
		t.Run(name, func(t *testing.T) {
			tr := tree(t, test.dir, test.user)
			if err := tr.CanAct(); err != nil {
				t.Error(err)
			}
			file := strings.ReplaceAll(name, " ", "_")
			err := tr.act(test.umask, func() error {
				return unix.Mknodat(int(tr.root.Fd()), file, unix.S_IFREG|0o666, 0)
			})
			if test.want != 0 {
				if !errors.Is(err, test.want) {
					t.Errorf("%v, want %v", err, test.want)
				}
				return
			}
			var st unix.Stat_t
			if err := errors.Join(err, unix.Stat(filepath.Join(test.dir, file), &st)); err != nil {
				t.Fatal(err)
			}
			if st.Uid != test.user.UID || st.Gid != test.gid || st.Mode&0o7777 != test.mode {
				t.Errorf("made of %d:%d with mode %#o", st.Uid, st.Gid, st.Mode&0o7777)
			}
		})
	}
}

// Whoever acts at one time as two users is two threads, and nobody else is either.
func TestActingIsAThreads(t *testing.T) {
	asRoot(t)
	dir := shared(t)
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	bob := target.User{UID: 1001, GID: 2001}
	var wg sync.WaitGroup
	for i := range 100 {
		user, umask := alice, uint32(0o077)
		if i%2 == 1 {
			user, umask = bob, 0
		}
		wg.Go(func() {
			tr := tree(t, dir, user)
			name := filepath.Join(dir, string(rune('A'+i/10))+string(rune('0'+i%10)))
			err := tr.act(umask, func() error { return unix.Mkdir(name, 0o777) })
			var st unix.Stat_t
			if err := errors.Join(err, unix.Stat(name, &st)); err != nil || st.Uid != user.UID || st.Gid != user.GID || st.Mode&0o777 != 0o777&^umask {
				t.Errorf("%v; made of %d:%d with mode %#o", err, st.Uid, st.Gid, st.Mode)
			}
		})
		wg.Go(func() {
			fsuid, _ := unix.SetfsuidRetUid(-1)
			if groups, err := unix.Getgroups(); fsuid != 0 || err != nil || len(groups) == 1 && groups[0] == 3000 {
				t.Errorf("another thread has uid %d and groups %v, %v", fsuid, groups, err)
			}
		})
	}
	wg.Wait()
	if umask := unix.Umask(0o022); umask == 0o077 || umask == 0 {
		t.Errorf("the process masks %#o", umask)
	}
}

// What judges by the effective user, as /proc/sys does, judges by the target's.
func TestActingIsEffective(t *testing.T) {
	asRoot(t)
	const dir = "/proc/sys"
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil || fs.Flags&unix.ST_RDONLY != 0 {
		t.Skipf("%s cannot be written to here: %v", dir, err)
	}
	for name, test := range map[string]struct {
		user target.User
		want error
	}{
		"root":          {target.User{}, nil},
		"alice":         {alice, unix.EACCES},
		"root's group":  {target.User{UID: 1000}, unix.EACCES},
		"all for files": {target.User{UID: 1000, GID: 2000, Caps: 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER}, unix.EACCES},
	} {
		h := tree(t, dir, test.user).Handles()
		if _, _, err := h.Open(opening("/vm/overcommit_memory", unix.O_WRONLY, 0)); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
		h.CloseAll()
	}
	err := tree(t, dir, alice).act(0, func() error {
		ruid, _, suid := unix.Getresuid()
		if ruid == int(alice.UID) || suid == int(alice.UID) {
			t.Errorf("real uid %d, saved uid %d: the user may send signals", ruid, suid)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// An agent without a capability of the target's says so.
func TestActingLacks(t *testing.T) {
	asRoot(t)
	dir := shared(t)
	user := alice
	user.Caps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER
	made := make(chan *Tree)
	go func() {
		runtime.LockOSThread() // and without it the thread ends
		head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var caps [2]unix.CapUserData
		caps[0].Permitted = 1<<unix.CAP_FOWNER | 1<<unix.CAP_DAC_OVERRIDE
		if err := unix.Capset(&head, &caps[0]); err != nil {
			t.Error(err)
		}
		made <- tree(t, dir, user)
	}()
	tr := <-made
	if err := tr.CanAct(); err == nil || !strings.Contains(err.Error(), "CHOWN") || strings.Contains(err.Error(), "FOWNER") {
		t.Errorf("can act: %v", err)
	}
	err := tr.act(0, func() error { return unix.Fchownat(int(tr.root.Fd()), ".", 7, 7, 0) })
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "lacks") {
		t.Errorf("chown: %v", err)
	}
	if err := tr.act(0, func() error { return unix.Fchmodat(int(tr.root.Fd()), ".", 0o700, 0) }); err != nil {
		t.Errorf("chmod: %v", err)
	}
}
