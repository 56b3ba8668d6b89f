package launch

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

func TestFiles(t *testing.T) {
	w := newWorld(t)
	w.want(t, "color: blue\n", "cat", "/etc/shop/config.yaml")
	w.want(t, "color: blue\n", "cat", "/app/link")
	w.want(t, "/etc/shop/config.yaml\n", "readlink", "/app/link")
	w.want(t, "a\nb\n", "ls", "/app/dir")
	w.want(t, "bbbb", "sh", "-c", "cd /app && cat dir/b; cat /app/dir/../dir/b", "x")
	w.want(t, "/app/dir:\na\nb\n", "ls", "-R", "/app/dir")
	w.want(t, "web-1\n", "uname", "-n")
	w.want(t, "color: blue\n", "sh", "-c", "cp /app/link "+w.dir+"/copy && cat "+w.dir+"/copy")
	w.want(t, "local\n", "sh", "-c", "echo local > rel; cat ./rel")
	w.want(t, "2\n", "python3", "-c", `import os; d = os.open("/app/dir", 0); print(os.fstat(os.open("b", 0, dir_fd=d)).st_size)`)
}

func TestInjectedFiles(t *testing.T) {
	w := newWorld(t)
	calls := build(t, "calls.c")
	for path, real := range map[string]string{"/app/link": "/etc/shop/config.yaml", "/app/big": "/app/big"} {
		text := map[string]string{"/app/link": "color", "/app/big": "01234"}[path]
		want := strings.NewReplacer("REAL", real, "TEXT", text).Replace(
			"same file: 1 size: 1 mtime: 1 mode: 1 statx: 1\nreadlink: REAL\nmmap: TEXT\nagain: TEXT\nsendfile: TEXT\nwrite(fd, \"x\", 1): EBADF\nflags: 0\n")
		w.want(t, want, calls, "use", path)
	}
}

// What is read, and read again, costs the daemon one question each. (What else
// is asked is the business of python3, which may be a script of many shells.)
func TestOneQuestionPerOpen(t *testing.T) {
	w := newWorld(t)
	w.want(t, "color: blue\ncolor: blue\n", "python3", "-c", `
import os
for i in range(2):
    fd = os.open("/app/link", os.O_RDONLY); os.write(1, os.read(fd, 100)); os.close(fd)`)
	if n := w.Asked(wire.OpOpen, "/app/link"); n != 2 {
		t.Errorf("%d questions for 2 opens", n)
	}
}

// What a launcher answers by itself it tells, while somebody wants to know.
func TestOpenedByItself(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	w.Hold = func(q *wire.Request) {
		switch {
		case q.Op == wire.OpStatfs && q.Path == "/app/link":
			w.Watch(true)
		case q.Op == wire.OpStatfs && q.Path == "/app/dir/a":
			w.Watch(false)
		}
	}
	w.want(t, "aaabbNWNaab", "python3", "-c", `
import os
read = lambda name: os.write(1, os.read(os.open("/app/dir/" + name, 0), 1))
def no(name, flags):
    try: os.open("/app/dir/" + name, flags)
    except FileNotFoundError: os.write(1, b"N")
    except OSError: os.write(1, b"W")
read("a"); read("a")
os.statvfs("/app/link")
read("a"); read("b"); read("b")
no("none", 0); no("a", os.O_WRONLY); no("none", 0)
read("a"); read("a")
try: os.statvfs("/app/dir/a")
except OSError: pass
read("b")`)
	got := map[string]uint32{}
	for _, q := range w.Opened() {
		if q.Mode == 0 {
			t.Errorf("nobody opened %s", q.Path)
		}
		got[fmt.Sprint(q.Path, " ", q.Flags, " ", q.Node)] += q.Seq
	}
	want := map[string]uint32{
		"/app/dir/a 0 1": 3, "/app/dir/b 0 2": 1, fmt.Sprint("/app/dir/none ", wire.OpenFailed, " ", int(unix.ENOENT)): 1,
		fmt.Sprint("/app/dir/a ", wire.OpenFailed|wire.OpenWrite, " ", int(unix.EROFS)): 1,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// What was answered ahead is not asked for, until it expires.
func TestAhead(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	w.Hold = func(q *wire.Request) {
		switch {
		case q.Op == wire.OpOpen && q.Path == "/app/dir/a":
			if err := w.Ahead("/app/dir/b", 1<<40); err != nil {
				t.Error(err)
			}
		case q.Op == wire.OpStatfs && q.Path == "/app/link":
			if err := os.WriteFile(filepath.Join(w.Root, "app/dir/b"), []byte("BBB"), 0o644); err != nil {
				t.Error(err)
			}
			w.Expire()
		}
	}
	w.want(t, "a2bb|BBB", "python3", "-c", `
import os
read = lambda name: os.write(1, open("/app/dir/" + name, "rb", 0).read())
read("a")
os.write(1, b"%d" % os.stat("/app/dir/b").st_size)
read("b"); os.write(1, b"|")
os.statvfs("/app/link")
read("b")`)
	if n := w.Asked(wire.OpOpen, "/app/dir/b") + w.Asked(wire.OpStat, "/app/dir/b"); n != 1 {
		t.Errorf("asked %d times for what was told ahead, and changed once", n)
	}
}

// What may be kept is not asked for again, until it expires.
func TestLeases(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	var mu sync.Mutex
	asked := map[string]int{} // python looks for files of its own, too
	w.Hold = func(q *wire.Request) {
		mu.Lock()
		asked[fmt.Sprint(q.Op, q.Path)]++
		mu.Unlock()
		if q.Op != wire.OpStatfs || q.Path != "/app/link" {
			return
		}
		for name, content := range map[string]string{"etc/shop/config.yaml": "color: red\n", "app/late": "here now\n"} {
			if err := os.WriteFile(filepath.Join(w.Root, name), []byte(content), 0o644); err != nil {
				t.Error(err)
			}
		}
		w.Expire()
	}
	w.want(t, "color: blue\ncolor: blue\n[12, False, 12, False]\ncolor: red\n[11, True, 11, True]\n", "python3", "-c", `
import os
def show():
    fd = os.open("/app/link", os.O_RDONLY); os.write(1, os.read(fd, 100)); os.close(fd)
def look():
    seen = [f() for _ in range(2) for f in (lambda: os.stat("/app/link").st_size, lambda: os.path.exists("/app/late"))]
    os.write(1, (str(seen) + "\n").encode())
show(); show(); look()
os.statvfs("/app/link")
show(); look()`)
	mu.Lock()
	defer mu.Unlock()
	for _, q := range []string{fmt.Sprint(wire.OpOpen, "/app/link"), fmt.Sprint(wire.OpStat, "/app/late")} {
		if asked[q] != 2 {
			t.Errorf("asked %d times for %s, not once before and once after it expired; all: %v", asked[q], q, asked)
		}
	}
}

func TestUserPaths(t *testing.T) {
	w := newWorld(t)
	w.policy.NotFound = []string{`^/etc/shop`}
	if r := w.run(t, "cat", "/etc/shop/config.yaml"); r.Code != 1 {
		t.Errorf("a not_found path: %+v", r)
	}
	w.policy.FSMode, w.policy.NotFound = "local", nil
	if r := w.run(t, "cat", "/etc/shop/config.yaml"); r.Code != 1 {
		t.Errorf("mode local: %+v", r)
	}
	w.want(t, "127.0.0.1 localhost\n", "cat", "/etc/hosts")
}

// Pitfall 11: calls that would change the target fail and touch nothing here.
func TestPitfall11CompleteCallList(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, build(t, "calls.c"), "modify")
	want := `open(f, O_WRONLY): EROFS
open(f, O_RDWR | O_CREAT, 0644): EROFS
open(f, O_RDONLY | O_TRUNC): EROFS
open(f, O_CREAT | O_EXCL, 0644): EEXIST
open(n, O_WRONLY | O_CREAT, 0644): EROFS
open(n, O_WRONLY): ENOENT
open("/app", O_TMPFILE | O_RDWR, 0644): EROFS
open("/app/dir", O_WRONLY): EISDIR
creat(n, 0644): EROFS
unlink(f): EROFS
unlink(n): ENOENT
unlinkat(AT_FDCWD, "/app/dir", AT_REMOVEDIR): EROFS
rmdir("/app/dir"): EROFS
mkdir(n, 0755): EROFS
mkdir("/app/dir", 0755): EEXIST
mknod(n, S_IFREG | 0644, 0): EROFS
rename(f, n): EROFS
rename(f, "/tmp/x"): EXDEV
rename("/tmp", n): EXDEV
link(f, n): EROFS
symlink("x", n): EROFS
chmod(f, 0600): EROFS
chown(f, 1, 1): EROFS
lchown(f, 1, 1): EROFS
truncate(f, 0): EROFS
utimensat(AT_FDCWD, f, NULL, 0): EROFS
setxattr(f, "user.x", "y", 1, 0): EROFS
removexattr(f, "user.x"): EROFS
getxattr(f, "user.x", NULL, 0): ENODATA
listxattr(f, NULL, 0): ok
access(f, W_OK): EROFS
access(f, R_OK): ok
access(n, F_OK): ENOENT
chdir("/app/dir"): ok
chdir(f): ENOTDIR
syscall(SYS_io_uring_setup, 1, NULL): ENOSYS
statfs(f, &fs): ok
linkat(fd, "", AT_FDCWD, n, AT_EMPTY_PATH): EXDEV
linkat(fd, "", AT_FDCWD, n, 0): ENOENT
linkat(AT_FDCWD, f, AT_FDCWD, "", 0): ENOENT
`
	if runtime.GOARCH != "amd64" {
		want = strings.Replace(want, `chdir("/app/dir"): ok`, `chdir("/app/dir"): ENOTSUP`, 1)
	}
	want = strings.ReplaceAll(want, "ENOTSUP", "EOPNOTSUPP")
	if got := strings.ReplaceAll(r.out, "ENOTSUP", "EOPNOTSUPP"); got != want || r.Code != 0 || r.err != nil {
		t.Errorf("%+v:\n%s", r.Exit, diff(r.out, want))
	}
	if _, err := os.Stat("/app"); err == nil {
		t.Error("/app was made on this machine")
	}
}

// diff shows the lines of got that are not in want.
func diff(got, want string) string {
	known := map[string]bool{}
	for line := range strings.SplitSeq(want, "\n") {
		known[line] = true
	}
	var b strings.Builder
	for line := range strings.SplitSeq(got, "\n") {
		if !known[line] {
			b.WriteString("got " + line + "\n")
		}
	}
	return b.String()
}

// Pitfall 5: memory is read by thread, and no read crosses a page.
func TestPitfall05MemoryOfThreads(t *testing.T) {
	w := newWorld(t)
	w.want(t, "at the end: 5 color\nover a page: 5\nopen((char *)1, O_RDONLY): EFAULT\nopen(longest, O_RDONLY): ENAMETOOLONG\nby a thread: 1\n",
		build(t, "calls.c"), "edge")
}
