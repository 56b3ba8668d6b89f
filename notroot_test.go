package mirrord_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	godiff "github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// A user is one who is not root, and what the machine offers him.
type user struct {
	*notRoot
	t          *testing.T
	id         int
	namespaces bool // he may make user namespaces
	env        []string
	run        string // his runtime directory
	agent      string // its address, if it is not the pod's
}

// command is mirrord as the user runs it.
func (u *user) command(args ...string) *exec.Cmd {
	cmd := exec.Command(u.debuggee(), slices.Concat(
		[]string{"be-user", fmt.Sprint(u.id), "namespaces", filepath.Join(u.bin, "mirrord")}, args)...)
	cmd.Dir = "/"
	if !u.namespaces {
		cmd.Args[3] = "none"
		all := []syscall.SysProcIDMap{{Size: 65536}}
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags: unix.CLONE_NEWUSER, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true,
			Credential: &syscall.Credential{},
		}
	}
	return cmd
}

// exec starts a debuggee.
func (u *user) exec(env []string, args ...string) *debuggee {
	u.t.Helper()
	cmd := u.command(append([]string{"exec", "--agent", cmp.Or(u.agent, podAddr+":7777")}, args...)...)
	var d *debuggee
	u.user.do(func() error {
		d = startedWith(u.t, cmd, slices.Concat(u.env, env))
		return nil
	})
	return d
}

// Somebody who is not root does all that root does, also where this machine
// offers him no FUSE or no user namespaces. Neither need root have it.
func TestNotRoot(t *testing.T) {
	t.Parallel()
	w := newNotRoot(t)
	fuse := filepath.Join(w.dir, "fuse")
	if err := errors.Join(unix.Mknod(fuse, unix.S_IFCHR, int(unix.Mkdev(10, 229))), os.Chmod(fuse, 0o666)); err != nil {
		t.Fatal(err)
	}
	closed := filepath.Join(w.dir, "closed")
	if err := errors.Join(unix.Mknod(closed, unix.S_IFCHR, int(unix.Mkdev(10, 229))), os.Chmod(closed, 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name       string
		id         int
		device     string
		namespaces bool
		runtimeDir bool
		lack       string // why there is no file server
	}{
		{"fuse", 1000, fuse, true, true, ""},
		{"root without fuse", 0, "/dev/null", true, true, "opening /dev/fuse: no such device; load the kernel's fuse module (modprobe fuse), or give the container the device /dev/fuse"},
		{"no fuse", 1001, closed, true, true, "opening /dev/fuse: permission denied; let user 1001 read and write /dev/fuse"},
		{"no namespaces", 1002, fuse, false, true, "making a user namespace: none may be made; allow user namespaces (sysctl user.max_user_namespaces"},
		{"no fuse driver or namespaces", 1003, "/dev/null", false, false, "making a user namespace"},
		{"no runtime directory", 1004, fuse, true, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			u := &user{notRoot: w, t: t, id: c.id, namespaces: c.namespaces}
			u.begin(c.runtimeDir)
			w.user.bind(c.device, "/dev/fuse")
			defer w.user.do(func() error { return unix.Unmount("/dev/fuse", unix.MNT_DETACH) })
			u.sees(c.lack)
			u.writes(c.lack)
			u.steals(syscall.SIGINT)
			u.steals(syscall.SIGKILL)
			u.end()
		})
	}
}

// begin gives the user a home and perhaps a runtime directory.
func (u *user) begin(runtimeDir bool) {
	u.t.Helper()
	home := filepath.Join(u.dir, fmt.Sprint("home", u.id))
	err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, u.id, u.id))
	u.env = []string{"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=" + home}
	u.run = fmt.Sprintf("/tmp/mirrord-%d", u.id)
	if runtimeDir {
		u.env = append(u.env, "XDG_RUNTIME_DIR="+home)
		u.run = filepath.Join(home, "mirrord")
	} else {
		u.t.Cleanup(func() { os.RemoveAll(u.run) })
	}
	if err != nil {
		u.t.Fatal(err)
	}
}

// end ends the daemon, and nothing is left.
func (u *user) end() {
	u.t.Helper()
	var st unix.Stat_t
	if err := unix.Lstat(u.run, &st); err != nil || st.Uid != uint32(u.id) || st.Mode != unix.S_IFDIR|0o700 {
		u.t.Errorf("the runtime directory is user %d's and of mode %o, %v", st.Uid, st.Mode, err)
	}
	daemon := pidsWith(u.t, u.env[1])
	stop := u.command("daemon", "stop")
	stop.Env = u.env
	var out []byte
	var err error
	u.user.do(func() error {
		out, err = stop.CombinedOutput()
		return nil
	})
	if err != nil {
		u.t.Errorf("stopping the daemon: %v\n%s", err, out)
	}
	for _, fd := range daemon {
		waitGone(u.t, fd)
	}
	if left := processesWith(u.env[1]); len(left) > 0 {
		u.t.Errorf("left running:\n%s", strings.Join(left, "\n"))
	}
	if _, err := os.Lstat(filepath.Join(u.run, "directories")); !errors.Is(err, os.ErrNotExist) {
		u.t.Errorf("directories that stood in for the target's: %v", err)
	}
}

// sees runs a debuggee that looks around. lack: why there is no file server.
func (u *user) sees(lack string) {
	u.t.Helper()
	d := u.exec(nil, "--", u.debuggee(), "see-pod")
	line := d.line("{")
	if code := d.wait(); code != 0 {
		u.t.Errorf("exit code %d", code)
	}
	var got inPod
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		u.t.Fatal(err)
	}
	hash := fmt.Sprintf("%x", sha256.Sum256(podLargeContent))
	want := inPod{
		UID: u.id, Env: "yes", Small: "small\n", SmallMode: "100640",
		Large: hash, LargeMapped: hash, LargeSize: int64(len(podLargeContent)), Huge: fmt.Sprint(hugeSize),
		Names: []string{"file ----------", "link L---------", "sub d---------"}, FromDir: "of sub\n",
		Write: "open " + podSmall + ": read-only file system",
		Name:  "[" + podAddr + "]", NoName: "not found: true", Answer: "pod", Refused: true,
		Child: "small\n", CleanedChild: "small\n",
	}
	if lack != "" {
		want.Huge = "open " + podHuge + ": operation not supported"
	}
	if diff := godiff.Diff(want, got); diff != "" {
		u.t.Errorf("the debuggee sees (-want +got):\n%s", diff)
	}
	told := d.errors()
	for _, begin := range []string{"mirrord: warning: files of the target are copied", "mirrord: opening " + podHuge} {
		n := 0
		for line := range strings.Lines(told) {
			if strings.HasPrefix(line, begin) && strings.Contains(line, lack) && strings.HasSuffix(line, ", or go on with --fs-mode local\n") {
				n++
			}
		}
		if (n == 1) != (lack != "") || n > 1 {
			u.t.Errorf("%q was told %d times:\n%s", begin, n, told)
		}
	}
}

// writes runs a debuggee that changes files, which are the pod's user's. Without
// a file server they are changed by name only. lack: why there is none.
func (u *user) writes(lack string) {
	u.t.Helper()
	dir := fmt.Sprint(podDir, "/of", u.id)
	d := u.exec(nil, "--fs-mode", "write", "--", u.debuggee(), "write-pod", dir)
	var got []string
	for line := d.line(""); line != "end"; line = d.line("") {
		got = append(got, line)
	}
	if code := d.wait(); code != 0 {
		u.t.Errorf("exit code %d", code)
	}
	want := []string{
		"mkdir: done", "create: done", "write: done", "append: done", "map: done", "truncate: done", "chmod: done", "chown: done", "sync: done",
		"of it: 640 1234:5678 10", "close: done", "again: open " + dir + "/new: file exists", "temporary: done", "link: done", "rename: done", "read: oNe\\ntwo\\nth",
	}
	holds := []string{". 40750 0:0", "linked 100600 0:0 temporary", "renamed 100640 1234:5678 oNe\ntwo\nth"}
	if lack != "" {
		create := "create: open " + dir + "/new: operation not supported"
		want, holds = []string{"mkdir: done", create, "mknod: done", "rename: done", "chmod: done", "read: "}, []string{". 40750 0:0", "renamed 100604 0:0 "}
	}
	if diff := godiff.Diff(want, got); diff != "" {
		u.t.Errorf("the debuggee writes (-want +got):\n%s", diff)
	}
	var there []string
	u.pod.do(func() (err error) {
		there, err = contents(dir)
		return err
	})
	if diff := godiff.Diff(holds, there); diff != "" {
		u.t.Errorf("the pod has (-want +got):\n%s", diff)
	}
	told := d.errors()
	for _, words := range []string{"what is changed by name (mkdir, rename, chmod, …) is changed there, but", "a file that is to be written of the target needs the file server"} {
		if n := strings.Count(told, words); (n == 1) != (lack != "") || n > 1 {
			u.t.Errorf("%q was told %d times:\n%s", words, n, told)
		}
	}
	u.pod.do(func() error { return os.RemoveAll(dir) })
}

// contents lists a directory and what its files hold.
func contents(dir string) (list []string, err error) {
	return list, fs.WalkDir(os.DirFS(dir), ".", func(path string, d fs.DirEntry, err error) error {
		var st unix.Stat_t
		var b []byte
		if err = errors.Join(err, unix.Lstat(filepath.Join(dir, path), &st)); err == nil && !d.IsDir() {
			b, err = os.ReadFile(filepath.Join(dir, path))
			b = append([]byte{' '}, b...)
		}
		list = append(list, fmt.Sprintf("%s %o %d:%d%s", path, st.Mode, st.Uid, st.Gid, b))
		return err
	})
}

// steals takes a port of the pod until a signal to the launcher.
func (u *user) steals(end syscall.Signal) {
	u.t.Helper()
	const port = "8080"
	mark := fmt.Sprintf("NOT_ROOT_TEST=%d.%d", u.id, end)
	d := u.exec([]string{mark}, "--steal", "--", u.debuggee(), "serve-pod", ":"+port)
	d.line("listening")
	for _, host := range []string{podAddr, podAddr6} {
		if got, want := u.pod.talk(net.JoinHostPort(host, port)), fmt.Sprint("user ", u.id); got != want {
			u.t.Errorf("the stolen port of %s says %q, want %q", host, got, want)
		}
	}
	tree := pidsWith(u.t, mark)
	if len(tree) < 3 {
		u.t.Errorf("%d processes; launcher, debuggee and its child are three", len(tree))
	}
	d.signal(end)
	if code := d.wait(); code != -int(end) {
		u.t.Errorf("the launcher ended with %d after %v", code, end)
	}
	for _, fd := range tree {
		waitGone(u.t, fd)
	}
	// The daemon hears of it from the socket, a moment later.
	for begin := time.Now(); u.pod.talk(podAddr+":"+port) != "pod"; {
		if time.Since(begin) > patience {
			u.t.Fatal("the pod does not get its port back")
		}
	}
}
