package mirrord_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// A writablePod is a pod whose files may be written, as its own user.
type writablePod struct {
	namespace string
	root      string // its files, as they are seen from here
}

func newWritablePod(t *testing.T) writablePod {
	t.Helper()
	namespace := ownNamespace(t)
	apply(t, namespace, pod("web", `args: [sleep]
    securityContext: {runAsUser: 1000, runAsGroup: 2000}
    volumeMounts:
    - {name: data, mountPath: /srv/data}
    - {name: small, mountPath: /srv/small}
    - {name: data, mountPath: /srv/ro, readOnly: true}
  volumes:
  - {name: data, emptyDir: {}}
  - {name: small, emptyDir: {medium: Memory, sizeLimit: 1Mi}}`))
	kubectl(t, "wait", "pod/web", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	return writablePod{namespace, fmt.Sprintf("/proc/%d/root", processOf(t, namespace, "web"))}
}

// start runs a command whose files are the pod's, in mode write.
func (w writablePod) start(t *testing.T, command ...string) *debuggee {
	t.Helper()
	return execute(t, nil, append([]string{"-n", w.namespace, "--target", "pod/web", "--fs-mode", "write", "--"}, command...)...)
}

// run returns what the command prints.
func (w writablePod) run(t *testing.T, command ...string) string {
	t.Helper()
	d := w.start(t, command...)
	var out []string
	for l := range d.lines {
		out = append(out, l)
	}
	if code := d.wait(); code != 0 {
		t.Errorf("%.100q ends with %d: %q", command, code, out)
	}
	return strings.Join(out, "\n")
}

func (w writablePod) file(name string) string { return filepath.Join(w.root, name) }

func TestWriteInTheTarget(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	got := w.run(t, "sh", "-c", `cd "$1" && umask 027
echo one > /srv/data/a; echo two >> /srv/data/a; cat /srv/data/a
stat -c '%a %u:%g %s' /srv/data/a
(echo x > /srv/ro/a) 2>&1
head -c 3000000 /dev/urandom > local; cp local /srv/data/big; cmp local /srv/data/big && echo same
truncate -s 5 /srv/data/a; cat /srv/data/a; dd if=/dev/zero of=/srv/data/a bs=1 count=1 seek=9 conv=notrunc 2>/dev/null; stat -c %s /srv/data/a
flock /srv/data/lock sh -c 'flock -n /srv/data/lock true || echo locked'
n=$(printf '/srv/data/caf\351'); echo bytes > "$n"; cat "$n"; stat -c %s "$n"; (cd /srv/data && printf '%s ' caf* | od -An -tx1)`, "sh", t.TempDir())
	want := "one\ntwo\n640 1000:2000 8\nsh: 4: cannot create /srv/ro/a: Read-only file system\nsame\none\nt10\nlocked\nbytes\n6\n 63 61 66 e9 20"
	if got != want {
		t.Errorf("prints\n%q\nwant\n%q", got, want)
	}
	if b, err := os.ReadFile(w.file("/srv/data/a")); string(b) != "one\nt\x00\x00\x00\x00\x00" {
		t.Errorf("the pod has %q, %v", b, err)
	}
	if b, err := os.ReadFile(w.file("/srv/data/caf\xe9")); string(b) != "bytes\n" { // not UTF-8
		t.Errorf("the pod has %q, %v", b, err)
	}
}

// What is done by descriptors, also of files whose names are gone, has the outcome
// that it has on this machine's disk.
func TestOpenFilesInTheTarget(t *testing.T) {
	t.Parallel()
	const program = `
import errno, fcntl, os, sys
def tell(f, *args):
    try: return f(*args)
    except OSError as e: return errno.errorcode[e.errno]
os.chdir(sys.argv[1])
one, two = (os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o640) for name in ("one", "two"))
os.write(one, b"0123456789" * 10000)
copied = 0
while copied < 100000: copied += os.copy_file_range(one, two, 100000 - copied, copied, copied)
print(os.fstat(two).st_size, os.pread(two, 8, 99996))
os.posix_fallocate(two, 0, 200000)
print(os.fstat(two).st_size, os.pread(two, 4, 99998))
fcntl.lockf(one, fcntl.LOCK_EX, 100)
sys.stdout.flush()
if os.fork() == 0:
    own = os.open("one", os.O_RDWR)
    print([tell(fcntl.lockf, own, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, at) for at in (50, 100)], flush=True)
    os._exit(0)
os.wait()
os.unlink("one")
print(tell(os.stat, "one"), tell(os.open, "one", 0), os.fstat(one).st_size, os.pread(one, 5, 3))
os.pwrite(one, b"new", 1)
os.ftruncate(one, 6)
print(os.pread(one, 10, 0), os.fstat(one).st_size)
os.rename("two", "three")
os.pwrite(two, b"moved", 0)
os.fsync(two)
print(open("three", "rb").read(5), os.stat("three").st_ino == os.fstat(two).st_ino, sorted(os.listdir(".")))
os.unlink("three")
print([tell(os.close, f) for f in (one, two)], tell(os.rmdir, "."), os.listdir("."))
def named(flags, size):
    with open("f", "wb") as f: f.write(b"0123456789" * size)
    os.chmod("f", 0o644)
    f, seen = os.open("f", flags), []
    def see(): st = os.fstat(f); seen.append((oct(st.st_mode), st.st_nlink, st.st_size))
    os.fstat(f); os.chmod("f", 0o600); see()
    os.utime("f", (5, 5)); seen.append(os.fstat(f).st_mtime)
    os.link("f", "g"); see()
    os.unlink("g"); see()
    if flags or size > 1: # small and for reading: its content follows later
        os.truncate("f", 3); see(); seen.append((os.lseek(f, 0, os.SEEK_END), tell(os.pread, f, 9, 0)))
    open("h", "w").close(); os.rename("h", "f"); see()
    os.unlink("f"); see()
    os.close(f)
    return seen
for flags, size in (os.O_RDWR, 1), (os.O_WRONLY | os.O_APPEND, 1), (0, 1), (0, 20000):
    print(tell(named, flags, size))`
	want, err := exec.Command("python3", "-c", program, t.TempDir()).CombinedOutput()
	if err != nil {
		t.Fatalf("on this machine: %v\n%s", err, want)
	}
	w := newWritablePod(t)
	if got := w.run(t, "sh", "-c", `mkdir /srv/data/open && exec python3 -c "$0" /srv/data/open`, program); got != strings.TrimSpace(string(want)) {
		t.Errorf("prints\n%s\nand here\n%s", got, want)
	}
}

// Two who append at a time, by their own debuggees, lose nothing, and each line
// stays whole; the pod's own writer too.
func TestTwoAppend(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	program := `import os, sys
fd = os.open("/srv/data/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
print("open", flush=True); sys.stdin.read(0)
for i in range(500): os.write(fd, (sys.argv[1] * (i % 97 * 61 + 1) + "\n").encode())
os.fsync(fd); os.close(fd)`
	one, two := w.start(t, "python3", "-c", program, "1"), w.start(t, "python3", "-c", program, "2")
	one.line("open")
	two.line("open")
	own, err := os.OpenFile(w.file("/srv/data/log"), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	for i := range 500 {
		if _, err := fmt.Fprintln(own, strings.Repeat("3", i%97*61+1)); err != nil {
			t.Fatal(err)
		}
	}
	if a, b := one.wait(), two.wait(); a != 0 || b != 0 {
		t.Fatalf("they end with %d and %d", a, b)
	}
	b, err := os.ReadFile(w.file("/srv/data/log"))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for l := range strings.Lines(string(b)) {
		seen[strings.TrimSuffix(l, "\n")]++
	}
	var want []string
	for _, who := range []string{"1", "2", "3"} {
		for i := range 97 {
			want = append(want, strings.Repeat(who, i*61+1))
		}
	}
	for _, l := range want {
		if seen[l] < 5 || seen[l] > 6 {
			t.Errorf("%d times a line of %d %c, want 5 or 6", seen[l], len(l), l[0])
		}
	}
	total := 0
	for l, n := range seen {
		if total += n; !slices.Contains(want, l) {
			t.Errorf("a line %.100q", l)
		}
	}
	if total != 1500 {
		t.Errorf("%d lines, want 1500", total)
	}
}

// A database that two processes write to is whole, whichever way it journals.
func TestDatabaseInTheTarget(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	program := file(t, "database.py", `
import sqlite3, subprocess, sys
path, mode, child = sys.argv[1:]
db = sqlite3.connect(path, timeout=60)
assert db.execute("pragma journal_mode=" + mode).fetchone() == (mode,)
db.execute("create table if not exists t (a integer primary key, b text)")
others = [subprocess.Popen([sys.executable, *sys.argv[:3], "1"]) for _ in range(2)] if child == "0" else []
for i in range(30):
    with db: db.execute("insert into t(b) values (?)", ("x" * 300,))
for o in others: assert o.wait() == 0
if child == "0": print(db.execute("select count(*) from t").fetchone(), db.execute("pragma integrity_check").fetchone())
`)
	for _, mode := range []string{"delete", "truncate", "persist", "wal"} {
		if got := w.run(t, "python3", program, "/srv/data/"+mode+".db", mode, "0"); got != "(90,) ('ok',)" {
			t.Errorf("%s: %q", mode, got)
		}
	}
}

// Tools that make and replace files by the hundred do so in the target; another
// process of the target's machine finds what they have made.
func TestToolsWriteInTheTarget(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	dir := t.TempDir()
	got := w.run(t, "sh", "-e", "-c", `cd "$0"
mkdir -p tree/a/b; for i in 1 2 3 4 5 6 7 8 9; do echo "$i" > tree/a/$i; head -c ${i}0000 /dev/urandom > tree/a/b/$i; done
ln -s a/1 tree/link; chmod 640 tree/a/1
tar cf t.tar tree; tar xf t.tar --no-same-owner -C /srv/data; diff -r tree /srv/data/tree && echo tar
export HOME="$0" GIT_CONFIG_GLOBAL="$0/config" GIT_CONFIG_NOSYSTEM=1 GIT_PAGER=cat
git config --global user.name t; git config --global user.email t@example.com; git config --global init.defaultBranch main
git config --global safe.directory '*'
cd tree; g() { git --git-dir=/srv/data/repo --work-tree=. "$@"; }
g init -q; echo two > two; g add a two; g commit -qm first; g status --short; echo three >> two; g status --short -uno; g commit -qam second
g log --format=%s; g fsck --full --no-progress && echo git
rm -r /srv/data/tree; ls /srv/data`, dir)
	if want := "tar\n?? link\n M two\nsecond\nfirst\ngit\nrepo"; got != want {
		t.Errorf("prints\n%q\nwant\n%q", got, want)
	}
	git := exec.Command("git", "--git-dir="+w.file("/srv/data/repo"), "-c", "safe.directory=*", "show", "HEAD:two")
	if b, err := git.Output(); string(b) != "two\nthree\n" {
		t.Errorf("the pod's repository has %q, %v", b, err)
	}
}

// A repository that is made where the configuration says is the target's, as what
// other programs make there.
func TestRepositoryInTheTarget(t *testing.T) {
	w := newWritablePod(t)
	config := file(t, "mirrord.json", `{"feature": {"fs": {"mode": "read", "read_write": ["^/srv/data"]}}}`)
	d := execute(t, nil, "-n", w.namespace, "--target", "pod/web", "-f", config, "--", "git", "init", "-q", "/srv/data/repo")
	if code := d.wait(); code != 0 {
		t.Fatalf("git ends with %d", code)
	}
	if _, err := os.Stat(w.file("/srv/data/repo/.git/HEAD")); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat("/srv/data/repo"); err == nil {
		t.Error("the repository is on this machine")
	}
}

// What rules of /sys and /dev say is the pod's is read and written there, files
// whose length nobody knows, too.
func TestKernelFilesOfTheTarget(t *testing.T) {
	w := newWritablePod(t)
	limit := "/sys/fs/cgroup/memory.max"
	if _, err := os.Stat(w.file(limit)); err != nil {
		limit = "/sys/fs/cgroup/memory/memory.limit_in_bytes" // of the first version
	}
	want := ""
	for _, name := range []string{limit, "/sys/devices/virtual/net/eth0/address"} {
		b, err := os.ReadFile(w.file(name))
		if err != nil || len(b) == 0 {
			t.Fatalf("the pod's %s is %q, %v", name, b, err)
		}
		want += string(b)
	}
	config := file(t, "mirrord.json", `{"feature": {"fs": {"read_only": ["^/sys/fs/cgroup", "^/sys/class/net"], "read_write": ["^/dev/termination-log"], "not_found": ["^/dev/fuse"]}}}`)
	d := execute(t, nil, "-n", w.namespace, "--target", "pod/web", "-f", config, "--", "sh", "-c", `cat "$0" /sys/class/net/eth0/address; ls "${0%/*}" | grep -c "^${0##*/}$"
echo done > /dev/termination-log; echo away > /dev/null; test -e /dev/fuse || echo none; test -e /sys/kernel && echo sys`, limit)
	var out []string
	for l := range d.lines {
		out = append(out, l)
	}
	if got, want := strings.Join(out, "\n"), want+"1\nnone\nsys"; d.wait() != 0 || got != want {
		t.Errorf("prints\n%q\nwant\n%q", got, want)
	}
	if b, err := os.ReadFile(w.file("/dev/termination-log")); string(b) != "done\n" {
		t.Errorf("the pod's log is %q, %v", b, err)
	}
}

// Random things done to a file of the target have the outcome that they have
// here; see testdata/apps/scribe. MIRRORD_TEST_SOAK has them done for so long.
func TestScribe(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	long := "5s"
	if soak := os.Getenv("MIRRORD_TEST_SOAK"); soak != "" {
		long = soak
	}
	scribe, double := buildFor(t, "./testdata/apps/scribe"), filepath.Join(t.TempDir(), "double")
	if got := w.run(t, scribe, "-for", long, "/srv/data/file", double); !strings.HasPrefix(got, "alike") {
		t.Error(got)
	}
	got, err := os.ReadFile(w.file("/srv/data/file"))
	want, err2 := os.ReadFile(double)
	if string(got) != string(want) || err != nil || err2 != nil {
		t.Errorf("the pod has %d bytes, want %d; %v %v", len(got), len(want), err, err2)
	}
}

// What the pod's disk refuses the debuggee hears of, at the latest when it closes.
func TestWriteErrorsOfTheTarget(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	if err := os.WriteFile(w.file("/srv/data/theirs"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(w.file("/srv/data/search"), 0o711), os.WriteFile(w.file("/srv/data/search/f"), []byte("found"), 0o644)); err != nil {
		t.Fatal(err)
	}
	got := w.run(t, "python3", "-c", `
import errno, os
def tell(f):
    try: return f()
    except OSError as e: return errno.errorcode[e.errno]
def fill(finish):
    fd = os.open("/srv/small/f", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        for _ in range(64): os.write(fd, b"x" * (64 << 10))
    except OSError as e: return errno.errorcode[e.errno]
    return tell(lambda: finish(fd))
print(fill(os.fsync), fill(os.close), tell(lambda: os.open("/srv/data/theirs", os.O_RDWR)), tell(lambda: os.open("/srv/ro/new", os.O_RDWR | os.O_CREAT)),
    tell(lambda: os.open("/srv/data/none/x", os.O_RDWR | os.O_CREAT)))
fd = os.open("/srv/data/new", os.O_WRONLY | os.O_CREAT)
print(tell(lambda: os.read(fd, 1)), tell(lambda: (os.pwrite(fd, b"x", 1 << 62), os.fsync(fd))))
os.chdir("/srv/data/search")
print(os.getcwd(), open("f").read(), tell(os.listdir))`)
	if want := "ENOSPC ENOSPC EACCES EROFS ENOENT\nEBADF EFBIG\n/srv/data/search found EACCES"; got != want {
		t.Errorf("prints\n%q\nwant\n%q", got, want)
	}
}

// Without its agent a writer gets EIO, soon.
func TestWriteWithoutAgent(t *testing.T) {
	t.Parallel()
	w := newWritablePod(t)
	d := w.start(t, "python3", "-c", `
import errno, os, time
fd = os.open("/srv/data/f", os.O_WRONLY | os.O_CREAT)
print("open", flush=True)
try:
    while True: os.write(fd, b"x" * 4096); os.fsync(fd)
except OSError as e: print(errno.errorcode[e.errno], flush=True)
try: os.write(fd, b"x"); os.close(fd); print("written")
except OSError as e: print("then", errno.errorcode[e.errno])`)
	d.line("open")
	kubectl(t, "delete", "pod", "-n", w.namespace, "-l", "app.kubernetes.io/name=mirrord-agent", "--grace-period=0", "--force")
	begin := time.Now()
	d.line("EIO")
	t.Logf("after %v", time.Since(begin))
	d.line("then EIO")
	if code := d.wait(); code != 0 {
		t.Errorf("it ends with %d", code)
	}
}
