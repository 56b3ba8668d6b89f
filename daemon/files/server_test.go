package files

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// table is a mount table of the machine, or of this process where that may not be read.
func table(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/1/" + name)
	if err != nil {
		b, err = os.ReadFile("/proc/self/" + name)
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// mounts are those that are not in another test's directory, where they come and go.
func mounts(t *testing.T) string {
	t.Helper()
	var own strings.Builder
	for line := range strings.Lines(table(t, "mounts")) {
		at := strings.Fields(line)[1]
		if !strings.HasPrefix(at, os.TempDir()+"/") || strings.Contains(at, t.Name()) {
			own.WriteString(line)
		}
	}
	return own.String()
}

// unseen checks that no mount table has the file server's mount, which has no place.
func unseen(t *testing.T, s *Server) {
	t.Helper()
	device, err := deviceOf(s.Root())
	if err != nil {
		t.Fatal(err)
	}
	if all := table(t, "mountinfo"); strings.Contains(all, " "+device+" ") {
		t.Errorf("the mount %s is seen:\n%s", device, all)
	}
}

func TestKilledFileServer(t *testing.T) {
	before := mounts(t)
	path, content := bigFile(t, 10<<20)
	d := newDisk(t)
	s := serveDisk(t, d)
	f := mustOpen(t, s, d.add(t, path))
	b := make([]byte, 10)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	unseen(t, s)
	h := newHold()
	d.hold.Store(h)
	read := make(chan error)
	for _, node := range []uint64{d.add(t, path), d.add(t, "/proc/version")} {
		f := mustOpen(t, s, node)
		go func() {
			_, err := f.ReadAt(make([]byte, 10), 0)
			read <- err
		}()
		for (<-h.asked).node != node { // the other node's read-ahead
		}
	}
	within(t, "end of all", func() {
		s.cmd.Process.Kill()
		for range 2 {
			if err := <-read; !errors.Is(err, unix.ENOTCONN) && !errors.Is(err, unix.ECONNABORTED) {
				t.Errorf("blocked read ends with %v", err)
			}
		}
		<-s.Done()
	})
	if _, err := f.ReadAt(b, 0); err != nil || b[0] != content[0] {
		t.Error("what the kernel has cached:", err)
	}
	if _, err := f.ReadAt(b, 5<<20); !errors.Is(err, unix.ENOTCONN) {
		t.Error("what it has not:", err)
	}
	if _, err := open(s, 0, unix.O_RDONLY); !errors.Is(err, unix.ENOTCONN) {
		t.Error("open:", err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

func TestClose(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	before := mounts(t)
	path, _ := bigFile(t, 10<<20)
	d := newDisk(t)
	s, err := Start(t.Context(), slog.New(slog.DiscardHandler), d)
	if err != nil {
		t.Fatal(err)
	}
	f := mustOpen(t, s, d.add(t, path))
	h := newHold()
	d.hold.Store(h)
	read := make(chan error)
	go func() {
		_, err := f.ReadAt(make([]byte, 10), 0)
		read <- err
	}()
	<-h.asked
	unseen(t, s)
	if during := mounts(t); during != before {
		t.Errorf("mounts before:\n%s\nduring:\n%s", before, during)
	}
	pid := s.cmd.Process.Pid
	within(t, "close", func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if err := <-read; err == nil {
			t.Error("blocked read succeeded")
		}
	})
	<-s.Done()
	if err := unix.Kill(pid, 0); err != unix.ESRCH {
		t.Errorf("process %d: %v", pid, err)
	}
	if after := mounts(t); after != before {
		t.Errorf("mounts before:\n%s\nafter:\n%s", before, after)
	}
}

// When its daemon is killed the file server's open files fail with EIO; with
// the last of them it ends.
func TestKilledDaemonsOpenFile(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	p := startDebuggee(t, nil, nil, "daemon")
	pid, err := strconv.Atoi(p.line(t))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	root, err := unix.Open(p.line(t), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Openat(root, "n1", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(root)
	if n, err := unix.Pread(fd, make([]byte, 10), 0); n != 10 || err != nil {
		t.Fatalf("before: %d bytes, %v", n, err)
	}
	p.Process.Kill()
	p.Wait()
	if n, err := unix.Pread(fd, make([]byte, 10), 1<<20); err != unix.EIO {
		t.Errorf("afterwards: %d bytes, %v", n, err)
	}
	unix.Close(fd)
	gone(t, pidfd)
}

// gone waits for a process's end.
func gone(t *testing.T, pidfd int) {
	t.Helper()
	within(t, "end of the file server", func() {
		for {
			if _, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, -1); err != unix.EINTR {
				return
			}
		}
	})
}

// The file server does not outlive its daemon where nobody has a file open.
func TestKilledDaemon(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	p := startDebuggee(t, nil, nil, "daemon")
	pid, err := strconv.Atoi(p.line(t))
	if err != nil {
		t.Fatal(err)
	}
	name, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/comm")
	if err != nil || strings.TrimSpace(string(name)) != childName {
		t.Errorf("the process is called %q, %v", name, err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	p.Process.Kill()
	gone(t, pidfd)
}

// as runs this binary as another user where source stands for target.
func as(t *testing.T, uid, source, target string, args ...string) string {
	t.Helper()
	attr := &syscall.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	p := startDebuggee(t, attr, nil, append([]string{"as", uid, source, target}, args...)...)
	var out strings.Builder
	for p.out.Scan() {
		out.WriteString(p.out.Text() + "\n")
	}
	if err := p.Wait(); err != nil {
		t.Errorf("%v: %v", args, err)
	}
	return out.String()
}

// device makes a /dev/fuse of the given mode.
func device(t *testing.T, mode uint32) string {
	t.Helper()
	if !mayMount() {
		t.Skip("needs root, to make a /dev/fuse and to become another user")
	}
	path := filepath.Join(t.TempDir(), "fuse")
	err := unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(10, 229)))
	if err == nil {
		err = os.Chmod(path, os.FileMode(mode))
	}
	if err != nil {
		t.Skip(err)
	}
	return path
}

func TestUnavailable(t *testing.T) {
	dev := device(t, 0o600)
	empty := t.TempDir()
	if err := os.WriteFile(filepath.Join(empty, "null"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, uid, source, target, want string }{
		{"no device", "0", empty, "/dev",
			"opening /dev/fuse: no such file or directory; load the kernel's fuse module (modprobe fuse), or give the container the device /dev/fuse"},
		{"not permitted", "1000", dev, "/dev/fuse",
			"opening /dev/fuse: permission denied; let user 1000 read and write /dev/fuse"},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := "starting the file server for remote files: " + c.want + ", or go on with --fs-mode local\n"
			if got := as(t, c.uid, c.source, c.target, "debuggee", "available"); got != want {
				t.Errorf("got  %swant %s", got, want)
			}
		})
	}
}

// A user who is not root has the file server in a user namespace, where the
// same holds. This test brings a device that such a user may open.
func TestUserNamespace(t *testing.T) {
	out := as(t, "1000", device(t, 0o666), "/dev/fuse", "files.test", "-test.v", "-test.run",
		"^Test(Content|Fstat|Released|Refused|Sizeless|Directory|StopWhileWaiting|KillWhileWaiting|KilledFileServer|Close|KilledDaemon|KilledDaemonsOpenFile)$")
	if t.Failed() || strings.Contains(out, "SKIP") || !strings.Contains(out, "PASS: TestContent") {
		t.Error(out)
	}
}
