package launch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	wire "mirrord/protocol/layer"
)

// writing makes a world whose files may be written.
func writing(t *testing.T) *world {
	w := newWorld(t)
	w.policy.FSMode = "write"
	return w
}

func (w *world) holds(t *testing.T, name, want string) {
	t.Helper()
	if b, err := os.ReadFile(w.Root + name); err != nil || string(b) != want {
		t.Errorf("%s holds %q, %v; want %q", name, b, err, want)
	}
}

func TestWriting(t *testing.T) {
	w := writing(t)
	w.want(t, "", "sh", "-c", "echo one > /app/new; echo two >> /app/new; echo red > /app/link")
	w.holds(t, "/app/new", "one\ntwo\n")
	w.holds(t, "/etc/shop/config.yaml", "red\n")
	w.want(t, "3\n", "sh", "-c", "umask 027; > /app/masked; set -C; (> /app/masked) 2>/dev/null || echo 3")
	if st, err := os.Stat(w.Root + "/app/masked"); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("masked is %v, %v", st.Mode(), err)
	}
	w.want(t, "", "cp", "/app/big", "/app/copy")
	big, _ := os.ReadFile(w.Root + "/app/big")
	w.holds(t, "/app/copy", string(big))
	w.want(t, "", "sh", "-c", "dd if=/dev/zero of=/app/sparse bs=1 count=1 seek=4095 2>/dev/null; truncate -s 10 /app/sparse")
	if st, err := os.Stat(w.Root + "/app/sparse"); err != nil || st.Size() != 4096 { // truncate opens, and sets the size by descriptor
		if err != nil || st.Size() != 10 {
			t.Errorf("sparse is %v, %v", st, err)
		}
	}
}

// Each flag of open(2) means what it means on a disk.
func TestOpenFlags(t *testing.T) {
	w := writing(t)
	w.want(t, "", "python3", "-c", fmt.Sprintf(`
import os, fcntl, errno
A, L = "/app/", %q
os.makedirs(L + "/dir", exist_ok=True)
for d in (L + "/",):
    open(d + "a", "w").write("0123456789"); os.chmod(d + "a", 0o644)
    os.symlink("a", d + "ln"); os.symlink("gone", d + "dangling")
def seen(dir, name, flags):
    try:
        fd = os.open(dir + name, flags, 0o6666)
    except OSError as e:
        return errno.errorcode[e.errno]
    st = os.fstat(fd)
    got = [fcntl.fcntl(fd, fcntl.F_GETFL) & (os.O_ACCMODE | os.O_APPEND | os.O_SYNC | os.O_DSYNC | os.O_NONBLOCK), oct(st.st_mode), st.st_size]
    try: os.write(fd, b"xyz")
    except OSError as e: got.append(errno.errorcode[e.errno])
    try: got.append(os.pread(fd, 100, 0))
    except OSError as e: got.append(errno.errorcode[e.errno])
    got.append(os.fstat(fd).st_size)
    os.close(fd)
    return got
R, W, RW, C, E, T, AP = os.O_RDONLY, os.O_WRONLY, os.O_RDWR, os.O_CREAT, os.O_EXCL, os.O_TRUNC, os.O_APPEND
n = 0
for name in ("a", "ln", "dangling", "none", "dir", "a/", "none/x", "new1"):
    for flags in (W, RW, RW | AP, RW | C, W | C | E, RW | T, RW | C | T, R | C, R | T, RW | os.O_NOFOLLOW, RW | C | os.O_NOFOLLOW, RW | C | os.O_SYNC,
                  RW | os.O_DSYNC | os.O_NONBLOCK, W | os.O_DIRECTORY, RW | os.O_TMPFILE, os.O_PATH | RW):
        here, there = seen(L + "/", name, flags), seen(A + "t/", name, flags)
        if here != there and not (flags & os.O_PATH): print(name, oct(flags), "local", here, "remote", there)
        n += 1
`, prepared(t, w)))
}

// prepared makes the same files in the target as the program makes here.
func prepared(t *testing.T, w *world) string {
	t.Helper()
	for _, err := range []error{
		os.MkdirAll(w.Root+"/app/t/dir", 0o755), os.WriteFile(w.Root+"/app/t/a", []byte("0123456789"), 0o644),
		os.Symlink("a", w.Root+"/app/t/ln"), os.Symlink("gone", w.Root+"/app/t/dangling"),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(w.dir, "here")
}

// What a debuggee changes it sees at once, whatever was kept.
func TestOwnChangesAreSeen(t *testing.T) {
	w := writing(t)
	w.Leases = true
	w.want(t, "color: blue\nFalse 12\nred\n4 4\nTrue\n", "python3", "-c", `
import os
p = "/app/link"
print(open(p).read(), end="")
print(os.path.exists("/app/late"), os.stat(p).st_size)
f = open("/etc/shop/config.yaml", "w"); f.write("red\n"); f.flush()
print(open(p).read(), end="")
print(os.fstat(f.fileno()).st_size, os.stat(p).st_size)
open("/app/late", "w").close()
print(os.path.exists("/app/late"))`)
}

// Nor is what is told of an open file older than what the debuggee, or another, has
// done to it by name.
func TestOwnChangesByNameAreSeen(t *testing.T) {
	w := writing(t)
	w.Leases = true
	w.write(t, "/app/theirs", "x")
	w.write(t, "/app/own", "x")
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpStatfs && q.Path == "/step" {
			if err := os.Remove(w.Root + "/app/theirs"); err != nil {
				t.Error(err)
			}
			w.Expire()
		}
	}
	w.want(t, "384 5 2 1 0 0 0\n", "python3", "-c", `
import os, time
p = "/app/own"
f, theirs = os.open(p, os.O_RDONLY), os.open("/app/theirs", os.O_RDONLY)
seen = []
os.chmod(p, 0o600); seen.append(os.fstat(f).st_mode & 0o7777)
os.utime(p, (5, 5)); seen.append(int(os.fstat(f).st_mtime))
os.link(p, p + "2"); seen.append(os.fstat(f).st_nlink)
os.unlink(p + "2"); seen.append(os.fstat(f).st_nlink)
os.mknod("/app/new"); os.rename("/app/new", p); seen.append(os.fstat(f).st_nlink)
os.unlink(p); seen.append(os.fstat(f).st_nlink)
try: os.statvfs("/step")
except OSError: pass
end = time.monotonic() + 30
while os.fstat(theirs).st_nlink and time.monotonic() < end: time.sleep(0.01)
seen.append(os.fstat(theirs).st_nlink)
print(*seen)`)
}

// In mode read, and where the user says so in mode write, nothing is written.
func TestReadOnlyPaths(t *testing.T) {
	w := writing(t)
	w.policy.ReadOnly = []string{"^/app/dir/"}
	w.want(t, "EROFS EROFS EEXIST EROFS\n", "python3", "-c", `
import os, errno
def no(name, flags):
    try: os.open(name, flags)
    except OSError as e: return errno.errorcode[e.errno]
print(no("/app/dir/a", os.O_WRONLY), no("/app/dir/new", os.O_RDWR | os.O_CREAT), no("/app/dir/a", os.O_RDWR | os.O_CREAT | os.O_EXCL), no("/app/dir/a", os.O_TRUNC))`)
	w.holds(t, "/app/dir/a", "a")
	if w.Calls(wire.OpOpen) > 0 {
		for _, name := range []string{"/app/dir/a", "/app/dir/new"} {
			if n := w.Asked(wire.OpOpen, name); n != 0 {
				t.Errorf("%s was asked to be opened", name)
			}
		}
	}
}

// A file without a name is given one by its descriptor, in both ways of linkat(2).
// What is renamed or has no name left is still the debuggee's to give away.
func TestTemporaryFilesAreLinked(t *testing.T) {
	w := writing(t)
	w.want(t, "one two 2 EXDEV EEXIST\n7 8\n", "python3", "-c", fmt.Sprintf(`
import ctypes, errno, os
libc = ctypes.CDLL(None, use_errno=True)
def link(fd, old, new, flags):
    if libc.linkat(fd, old, -100, new, flags): return errno.errorcode[ctypes.get_errno()]
    os.write(fd, b"!")
    return open(new).read()[:-1] if flags != 0x1000 or new.startswith(b"/app") else new
def temp(text):
    fd = os.open("/app/dir", os.O_TMPFILE | os.O_RDWR, 0o600)
    os.write(fd, text)
    return fd
one, two = temp(b"one"), temp(b"two")
print(link(one, b"/proc/self/fd/%%d" %% one, b"/app/one", 0x400), link(two, b"", b"/app/two", 0x1000), end=" ")
os.rename("/app/two", "/app/three")
print(len(os.listdir("/app/dir")), link(two, b"", %q.encode(), 0x1000), end=" ")
try: os.link(str(one), "/app/one", src_dir_fd=os.open("/proc/self/fd", os.O_RDONLY), follow_symlinks=True)
except OSError as e: print(errno.errorcode[e.errno])
os.fchown(two, 7, 8)
st = os.fstat(two)
print(st.st_uid, st.st_gid)`, w.dir+"/here"))
	w.holds(t, "/app/one", "one!")
	w.holds(t, "/app/three", "two!")
}

// openat2 means of the target's files what it means of this machine's.
func TestOpenat2(t *testing.T) {
	for _, mode := range []string{"read", "write"} {
		w := newWorld(t)
		w.policy.FSMode = mode
		here := prepared(t, w)
		if err := errors.Join(os.Symlink("../a", w.Root+"/app/t/dir/up"), os.Symlink("/dir/f", w.Root+"/app/t/dir/scoped"), os.WriteFile(w.Root+"/app/t/dir/f", []byte("f"), 0o644)); err != nil {
			t.Fatal(err)
		}
		w.want(t, "True\n", "python3", "-c", fmt.Sprintf(`
import ctypes, errno, os, struct
L, mode = %q, %q
libc = ctypes.CDLL(None, use_errno=True)
os.makedirs(L + "/dir", exist_ok=True)
for name, text in (("a", "0123456789"), ("dir/f", "f")):
    open(L + "/" + name, "w").write(text); os.chmod(L + "/" + name, 0o644)
for text, name in (("a", "ln"), ("gone", "dangling"), ("../a", "dir/up"), ("/dir/f", "dir/scoped")): os.symlink(text, L + "/" + name)
def seen(top, dir, name, flags, mode, resolve, extra=b""):
    d = os.open(top + dir, os.O_RDONLY | os.O_DIRECTORY)
    how = struct.pack("QQQ", flags, mode, resolve) + extra
    while True:
        fd = libc.syscall(437, d, name.replace("TOP", top).encode(), how, ctypes.c_size_t(len(how)))
        if fd >= 0 or top != L or ctypes.get_errno() != errno.EAGAIN: break # somebody renamed or mounted meanwhile
    os.close(d)
    if fd < 0: return errno.errorcode[ctypes.get_errno()]
    got = [os.fstat(fd).st_size]
    if not flags & os.O_PATH or resolve & ~2: got.append(os.readlink("/proc/self/fd/%%d" %% fd)[len(top):]) # else it is as it was spelled
    if flags & os.O_ACCMODE and not flags & os.O_PATH: os.write(fd, b"x")
    if not flags & os.O_PATH: got.append(os.fstat(fd).st_size)
    os.close(fd)
    return got
R, W, C, E, N, P = os.O_RDONLY, os.O_RDWR, os.O_CREAT, os.O_EXCL, os.O_NOFOLLOW, os.O_PATH
calls, outcomes = 0, set()
def compare(*args):
    global calls
    here, there = seen(L, *args), seen("/app/t", *args)
    calls += 1
    outcomes.add(str(here))
    if mode == "read" and args[2] & (W | C | os.O_TRUNC) and not args[2] & P:
        if there == "EROFS" and (here == "EXDEV" or isinstance(here, list)) or there == "EROFS" and (here == "ENOENT" or args[1][:3] == "new"): return
    if here != there: print(mode, *args, here, there)
for resolve in 0, 1, 2, 4, 5, 8, 12, 16, 18:
    for dir in "", "/dir":
        for name in ("a", "f", "ln", "dangling", "up", "scoped", "dir/f", "dir/up", "../a", "../dir/f", "/a", "/dir/f", "TOP/a", "TOP/dir/up", "none", ".", "..", "", "a/"):
            for flags in (R, R | N, P, P | N, W, R | os.O_DIRECTORY): compare(dir, name, flags, 0, resolve)
    compare("", "new%%d" %% resolve, W | C, 0o640, resolve); compare("", "new%%d" %% resolve, W | C | E, 0o640, resolve)
    compare("/dir", "../new%%da" %% resolve, W | C | E, 0o640, resolve)
for args in (("", "a", 1 << 40, 0, 0), ("", "a", R, 0o644, 8), ("", "x", W | C, 0o10644, 8), ("", "a", R, 0, 64), ("", "a", R, 0, 24), ("", "a", P | W, 0, 8)): compare(*args)
compare("", "a", R, 0, 8, b"\0" * 8); compare("", "a", R, 0, 8, b"\1" * 8)
print(calls > 2000 and {"EXDEV", "ELOOP", "ENOENT", "EINVAL", "E2BIG"} < outcomes)
`, here, mode))
	}
}
