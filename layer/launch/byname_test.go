package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// What changes files by name comes to the same in the target as on local disk,
// whatever was kept of them.
func TestByName(t *testing.T) {
	script, err := filepath.Abs("../testdata/byname.py")
	if err != nil {
		t.Fatal(err)
	}
	fill := func(dir string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, "file"), []byte("content"), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
			t.Fatal(err)
		}
	}
	disk := t.TempDir()
	fill(disk)
	want, err := exec.Command("python3", script, disk).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, set := range map[string]func(*ide.Policy){
		"mode write": func(p *ide.Policy) { p.FSMode = "write" },
		"read_write": func(p *ide.Policy) { p.ReadWrite = []string{"^/app/w"} },
		"mapped": func(p *ide.Policy) {
			p.FSMode, p.Mapping = "write", map[string]string{"^/nowhere/(.*)": "/app/$1"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.Leases = true
			w.policy.Local = append(w.policy.Local, "byname.py")
			set(&w.policy)
			if err := os.Mkdir(w.Root+"/app/w", 0o755); err != nil {
				t.Fatal(err)
			}
			fill(w.Root + "/app/w")
			dir := "/app/w"
			if name == "mapped" {
				dir = "/nowhere/w"
			}
			got := w.run(t, "python3", script, dir)
			if diff := cmp.Diff(string(want), got.out); diff != "" || got.err != nil || got.Exit != (Exit{}) {
				t.Errorf("%+v, %v; -disk +target:\n%s", got.Exit, got.err, diff)
			}
		})
	}
}

// Where files are there for reading nothing is changed, here or there.
func TestByNameReadOnly(t *testing.T) {
	w := newWorld(t)
	w.policy.ReadWrite = []string{"^/app/w"}
	if err := os.Mkdir(w.Root+"/app/w", 0o755); err != nil {
		t.Fatal(err)
	}
	w.write(t, "/app/w/file", "x")
	w.want(t, `EROFS EROFS EROFS EROFS EROFS EROFS EROFS EROFS EROFS
EEXIST ENOENT EXDEV EXDEV EXDEV EXDEV EROFS EROFS ENOENT
`, "python3", "-c", `
import errno, os, sys
def do(f, *args, **kw):
    try: r = f(*args, **kw); print("done", end=" ")
    except OSError as e: print(errno.errorcode[e.errno], end=" ")
d = "/app/dir/"
for c in [(os.mkdir, d + "x"), (os.rmdir, d), (os.unlink, d + "a"), (os.rename, d + "a", d + "x"), (os.chmod, d + "a", 0o600), (os.utime, d + "a"),
          (os.truncate, d + "a", 0), (os.symlink, "x", d + "x")]: do(*c)
sys.stdout.write("EROFS" if not os.access(d + "a", os.W_OK) else "may"); print()
fd = os.open(d + "a", os.O_RDONLY)
for c in [(os.mkdir, d + "a"), (os.unlink, d + "x"), (os.rename, d + "a", "/app/w/a"), (os.rename, "/app/w/file", d + "x"),
          (os.link, "/app/w/file", os.getcwd() + "/x"), (os.rename, os.getcwd() + "/none", "/app/w/x"), (os.utime, fd), (os.fchmod, fd, 0o600)]: do(*c)
sys.stdout.write("ENOENT" if not os.path.exists("/app/w/a") else "there"); print()
`)
	if list := w.Changes(); len(list) > 0 {
		t.Errorf("the target was asked for %+v", list)
	}
	var st unix.Stat_t
	if err := unix.Stat(w.Root+"/app/dir/a", &st); err != nil || st.Size != 1 || st.Mode&0o777 != 0o644 {
		t.Errorf("%+v, %v", st, err)
	}
}
