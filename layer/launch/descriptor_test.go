package launch

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// O_PATH descriptors of the target's files, and paths that lead through
// descriptors, are the target's as well.
func TestPathDescriptors(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, build(t, "calls.c"), "path")
	want := `open("/app/none", O_PATH): ENOENT
open("/app/big", O_PATH | O_DIRECTORY): ENOTDIR
openat(f, "x", O_RDONLY): ENOTDIR
read(f, buf, 1): EBADF
types: 1 1 1
statx: 1
readlinkat: /etc/shop/config.yaml
readlink: /app/link
through /proc: color: blue
stat(link, &st): ok
size: 12
link: 1
open(link, O_WRONLY): EROFS
truncate(link, 0): EROFS
chmod(link, 0600): EROFS
access(link, W_OK): EROFS
open(link, O_RDWR): EROFS
open(link, O_RDONLY): ok
stat(link, &st): ok
size: 1048576
stat(link, &st): ok
syscall(SYS_faccessat2, f, "", R_OK, AT_EMPTY_PATH): ok
syscall(SYS_faccessat2, f, "", W_OK, AT_EMPTY_PATH): EROFS
fchmod(f, 0600): EBADF
fchown(f, 0, 0): EBADF
futimens(f, NULL): EBADF
fgetxattr(f, "user.origin", buf, 1): EBADF
flistxattr(f, buf, 1): EBADF
fsetxattr(f, "user.x", "y", 1, 0): EBADF
fremovexattr(f, "user.x"): EBADF
fchownat(f, "", 0, 0, AT_EMPTY_PATH): EROFS
fstatfs(f, &fs): ok
fstatfs(big, &fs): ok
as by path: 1
name_to_handle_at(d, "big", &handle.h, &mount, 0): EOPNOTSUPP
name_to_handle_at(big, "", &handle.h, &mount, AT_EMPTY_PATH): EOPNOTSUPP
inotify_add_watch(inotify_init(), "/app/big", IN_MODIFY): EOPNOTSUPP
execl("/app/big", "big", NULL): EACCES
execl("/app/none", "none", NULL): ENOENT
syscall(SYS_execveat, big, "", NULL, NULL, AT_EMPTY_PATH): EACCES
syscall(SYS_execveat, d, "big", NULL, NULL, 0): EACCES
openat2 1: 0
openat2 2: 0
openat2 4: 0
openat2 8: 0
openat2 16: 0
openat2 32: EAGAIN
a root of this machine: 1
syscall(SYS_openat2, root, "app/big", &how, sizeof how): ok
`
	if got := strings.ReplaceAll(r.out, "ENOTSUP", "EOPNOTSUPP"); got != want || r.err != nil || r.Code != 0 {
		t.Errorf("%+v %v: not wanted:\n%sbut\n%s", r.Exit, r.err, diff(got, want), diff(want, got))
	}
	if told := strings.Join(r.messages, "\n"); !strings.Contains(told, "the target's program /app/big cannot be executed") {
		t.Errorf("the user was told %q", told)
	}
}

func TestXattrs(t *testing.T) {
	w := newWorld(t)
	if err := unix.Setxattr(w.Root+"/app/big", "user.origin", []byte("shop"), 0); err != nil {
		t.Skipf("the file system of %s has no extended attributes: %v", w.Root, err)
	}
	r := w.run(t, build(t, "calls.c"), "xattrs")
	want := `getxattr("/app/big", "user.origin", NULL, 0): ok
size: 4
value: 4 shop
of a descriptor: 4
getxattr("/app/big", "user.origin", text, 2): ERANGE
getxattr("/app/big", "user.none", text, sizeof text): ENODATA
getxattr("/app/none", "user.origin", text, sizeof text): ENOENT
getxattr("/app/big", "", text, sizeof text): ERANGE
lgetxattr("/app/link", "user.origin", text, sizeof text): ENODATA
names: 12 user.origin
of a descriptor: 12
llistxattr("/app/link", names, sizeof names): ok
listxattr("/app/big", names, 2): ERANGE
fsetxattr(small, "user.x", "y", 1, 0): EROFS
fremovexattr(small, "user.x"): EROFS
syscall(464, AT_FDCWD, "/app/big", 0, "user.origin", NULL, 0): ENOSYS
`
	if r.out != want || r.err != nil || r.Code != 0 {
		t.Errorf("%+v %v: not wanted:\n%sbut\n%s", r.Exit, r.err, diff(r.out, want), diff(want, r.out))
	}
}

// The user is told how to have a program of this machine executed whose path is
// the target's.
func TestExecOfRemotePath(t *testing.T) {
	w := newWorld(t)
	w.policy.ReadOnly = []string{"^/usr/bin/printf$"}
	r := w.run(t, "/bin/bash", "-c", "/usr/bin/printf x; echo $?; (exec /app/dir/a); echo $?")
	if r.out != "127\n126\n" {
		t.Errorf("%+v %q", r.Exit, r.out)
	}
	if told := strings.Join(r.messages, "\n"); !strings.Contains(told, `/usr/bin/printf would be the target's (fs.read_only "^/usr/bin/printf$")`) {
		t.Errorf("the user was told %q", told)
	}
}
