package mirrord_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// mounted tells whether something is mounted at dir.
func mounted(t *testing.T, dir string) bool {
	t.Helper()
	all, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(all), " "+dir+" ")
}

// A person looks into the target with the tools of this machine, until Ctrl+C or
// the session's end; nothing is left of it.
func TestSessionFiles(t *testing.T) {
	t.Parallel()
	namespace, dir := treeTarget(t)
	runtime := ownDaemon(t)
	write(t, dir, map[string]string{"a.txt": "text\n", "sub/b.txt": strings.Repeat("0123456789abcdef", 1<<16)})
	for name, to := range map[string]string{"relative": "sub/b.txt", "absolute": "/srv/tree/a.txt", "nowhere": "/none"} {
		if err := os.Symlink(to, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	noXattrs := unix.Setxattr(dir+"/a.txt", "user.origin", []byte("shop"), 0)
	session := execute(t, nil, "-n", namespace, "-t", "pod/web", "--", "sh", "-c", "echo ready; exec sleep 1000")
	session.line("ready")
	look := func(args ...string) (d *debuggee, at string) {
		t.Helper()
		cmd := mirrord(t, append([]string{"session", "files"}, args...)...)
		d = started(t, cmd, nil)
		return d, d.line("/")
	}

	d, at := look()
	if out, err := exec.Command("diff", "-r", "--no-dereference", dir+"/sub", at+"/srv/tree/sub").CombinedOutput(); err != nil {
		t.Errorf("diff: %v\n%s", err, out)
	}
	for name, want := range map[string]string{"a.txt": "text\n", "absolute": "text\n", "relative": strings.Repeat("0123456789abcdef", 1<<16)} {
		if b, err := os.ReadFile(at + "/srv/tree/" + name); err != nil || string(b) != want {
			t.Errorf("%s has %d bytes, %v", name, len(b), err)
		}
	}
	if to, err := os.Readlink(at + "/srv/tree/nowhere"); err != nil || !strings.HasSuffix(to, "none") || filepath.IsAbs(to) {
		t.Errorf("a link that leads nowhere: %q, %v", to, err)
	}
	origin := make([]byte, 16)
	if n, err := unix.Getxattr(at+"/srv/tree/a.txt", "user.origin", origin); noXattrs == nil && (err != nil || string(origin[:n]) != "shop") {
		t.Errorf("user.origin is %q, %v", origin, err)
	}
	var room, want unix.Statfs_t
	if err := unix.Statfs(at+"/srv/tree", &room); err != nil || unix.Statfs(dir, &want) != nil || room.Blocks != want.Blocks || room.Bavail == 0 {
		t.Errorf("the room there is %+v, want %+v; %v", room, want, err)
	}
	if b, err := os.ReadFile(at + "/proc/1/comm"); err != nil || string(b) != "shop\n" {
		t.Errorf("the target's /proc: %q, %v", b, err)
	}
	if _, err := os.ReadFile(at + "/srv/tree/none"); !os.IsNotExist(err) {
		t.Errorf("a file that is not there: %v", err)
	}
	if err := os.WriteFile(at+"/srv/tree/new", nil, 0o600); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("writing: %v", err)
	}
	d.signal(os.Interrupt)
	if code := d.wait(); code != 0 || mounted(t, at) {
		t.Errorf("after Ctrl+C: exit code %d, mounted %v; %s", code, mounted(t, at), d.errors())
	}
	if _, err := os.Stat(at); !os.IsNotExist(err) {
		t.Errorf("the mount's directory is left: %v", err)
	}

	// Where there is no FUSE it says how to get it.
	cmd := exec.Command("unshare", "-m", "sh", "-c", `mount -t tmpfs none /dev && exec "$0" session files`, mirrord(t).Path)
	cmd.Env = environ(t)
	if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "/dev/fuse") || !strings.Contains(string(out), "modprobe fuse") {
		t.Errorf("without /dev/fuse: %v\n%s", err, out)
	}

	// Nothing is left of one that was killed.
	own := filepath.Join(t.TempDir(), "made", "web")
	d, at2 := look("--mount", own)
	if at2 != own || !mounted(t, own) {
		t.Errorf("mounted at %s", at2)
	}
	if _, err := os.Stat(own); err != nil { // which the kernel keeps for a second
		t.Error(err)
	}
	d.signal(os.Kill)
	d.wait()
	eventually(t, "what a killed one has left", func() (string, bool) {
		_, err := os.Stat(filepath.Dir(own))
		return fmt.Sprint(err), os.IsNotExist(err)
	})

	d, _ = look("--mount", own)
	d2, again := look()
	if again != at {
		t.Errorf("the next is at %s, not %s", again, at)
	}
	if b, err := os.ReadFile(again + "/srv/tree/a.txt"); err != nil || string(b) != "text\n" {
		t.Errorf("after one was killed: %q, %v", b, err)
	}
	events := started(t, mirrord(t, "session", "events"), nil)
	events.line("") // what is the case

	// They are shown again by the daemon after one that was killed.
	if err := syscall.Kill(onlyDaemon(t, runtime), syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for _, d := range []*debuggee{d, d2} {
		at := d.line("/")
		if b, err := os.ReadFile(at + "/srv/tree/a.txt"); err != nil || string(b) != "text\n" {
			t.Errorf("by the next daemon: %q, %v", b, err)
		}
	}
	events.told("the daemon has ended")

	// The session's end is theirs, that by the daemon's, too.
	run(t, "daemon", "stop", "--force")
	session.wait()
	for _, d := range []*debuggee{d, d2} {
		began := time.Now()
		if code := d.wait(); code != 0 || !strings.Contains(d.errors(), "the session has ended") {
			t.Errorf("after the session's end (%v): exit code %d; %s", time.Since(began), code, d.errors())
		}
	}
	for ended := false; !ended; {
		ended = strings.Contains(events.line(""), "the session has ended")
	}
	if code := events.wait(); code != 0 || !strings.Contains(events.errors(), "the daemon was stopped") {
		t.Errorf("events, after the daemon's end: exit code %d; %s", code, events.errors())
	}
	for _, dir := range []string{at, filepath.Dir(own)} {
		if _, err := os.Stat(dir); !os.IsNotExist(err) || mounted(t, dir) {
			t.Errorf("%s is left: %v", dir, err)
		}
	}
}

// In mode write a person edits files of the target with the tools of this machine,
// as its user; what the debuggee has open is the same file.
func TestSessionFilesAreChanged(t *testing.T) {
	t.Parallel()
	namespace, dir := treeTarget(t)
	ownDaemon(t)
	write(t, dir, map[string]string{"a.txt": "text\n", "keep/b.txt": "kept\n"})
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	config := filepath.Join(t.TempDir(), "mirrord.json")
	if err := os.WriteFile(config, []byte(`{"feature": {"fs": {"mode": "write", "read_only": ["^/srv/tree/keep"]}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	wait := filepath.Join(t.TempDir(), "wait")
	if err := unix.Mkfifo(wait, 0o600); err != nil {
		t.Fatal(err)
	}
	session := execute(t, nil, "-n", namespace, "-t", "pod/web", "-f", config, "--", "sh", "-c",
		"exec 3<> /srv/tree/shared; echo ready; read line < "+wait+"; cat <&3; echo theirs >> /srv/tree/shared; echo done; exec sleep 1000")
	session.line("ready")
	d := started(t, mirrord(t, "session", "files"), nil)
	at := d.line("/") + "/srv/tree"
	out, err := exec.Command("sh", "-ec", `cd "$0"; umask 022; echo ours > shared; sed -i s/text/edited/ a.txt; mkdir new; cp a.txt new/b; chmod 640 new/b; mv new/b new/c; ln -s c new/l
git init -q new/repository; cd new/repository; cp ../c .; git add c; git -c user.name=n -c user.email=e commit -qm c; git status --short`, at).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("editing: %v\n%s", err, out)
	}
	if err := os.WriteFile(wait, []byte("go\n"), 0); err != nil {
		t.Fatal(err)
	}
	session.line("ours")
	session.line("done")
	for name, want := range map[string]string{"a.txt": "edited\n", "new/c": "edited\n", "new/l": "edited\n", "shared": "ours\ntheirs\n"} {
		for _, top := range []string{dir, at} {
			if b, err := os.ReadFile(filepath.Join(top, name)); err != nil || string(b) != want {
				t.Errorf("%s/%s holds %q, %v; want %q", top, name, b, err, want)
			}
		}
	}
	if st, err := os.Stat(dir + "/new/c"); err != nil || st.Mode() != 0o640 {
		t.Errorf("what was made is %v, %v", st, err)
	}
	if err := os.WriteFile(at+"/keep/b.txt", nil, 0o600); err == nil || !strings.Contains(err.Error(), "read-only file system") {
		t.Errorf("writing what is for reading: %v", err)
	}
	d.signal(os.Interrupt)
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d; %s", code, d.errors())
	}
}
