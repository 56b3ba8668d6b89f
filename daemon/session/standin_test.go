package session

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/protocol/layer"
)

// withoutFiles starts a session as where there can be no file server.
func withoutFiles(t *testing.T, m *Manager) *caller {
	t.Helper()
	s := startSession(t, m, agentAddress(t))
	m.filesMu.Lock()
	if m.files != nil {
		m.files.Close()
		m.files = nil
	}
	m.filesMu.Unlock()
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	own.noFiles = errors.New("no FUSE here")
	return attach(t, m, s.ID)
}

// Without a file server files are copied and directories imitated.
func TestStandIns(t *testing.T) {
	m := manager(t)
	c := withoutFiles(t, m)
	dir := t.TempDir()
	large := strings.Repeat("0123456789abcdef", 5*inline/16)
	err := errors.Join(
		os.WriteFile(filepath.Join(dir, "large"), []byte(large), 0o640),
		os.WriteFile(filepath.Join(dir, "huge"), nil, 0o640),
		os.Truncate(filepath.Join(dir, "huge"), maxCopy+1),
		os.Mkdir(filepath.Join(dir, "sub"), 0),
		os.Symlink("large", filepath.Join(dir, "link")),
		unix.Mkfifo(filepath.Join(dir, "pipe"), 0o600),
	)
	if err != nil {
		t.Fatal(err)
	}
	open := func(path string) *os.File {
		t.Helper()
		reply, fd := c.call(layer.Request{Op: layer.OpOpen, Path: path})
		if reply.Errno != 0 || fd == nil {
			t.Fatalf("opening %s: errno %d: %s", path, reply.Errno, reply.Data)
		}
		return fd
	}
	got := make([]byte, len(large)+1)
	if n, err := open(dir+"/large").ReadAt(got, 0); string(got[:n]) != large {
		t.Errorf("read %d bytes of %d, %v", n, len(large), err)
	}

	before := open(dir)
	want := []string{"huge ----------", "large ----------", "link L---------", "pipe p---------", "sub d---------"}
	if diff := cmp.Diff(want, entries(t, before)); diff != "" {
		t.Errorf("the directory has (-want +got):\n%s", diff)
	}
	if again := open(dir); pathOf(t, again) != pathOf(t, before) {
		t.Errorf("the same directory is in %s and in %s", pathOf(t, before), pathOf(t, again))
	}
	if err := os.Remove(dir + "/pipe"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(slices.Delete(slices.Clone(want), 3, 4), entries(t, open(dir))); diff != "" {
		t.Errorf("after a change it has (-want +got):\n%s", diff)
	}
	if diff := cmp.Diff(want, entries(t, before)); diff != "" {
		t.Errorf("what was open before has (-want +got):\n%s", diff)
	}
}

// What has no stand-in is an error, which is told once.
func TestNoStandIn(t *testing.T) {
	m := manager(t)
	c := withoutFiles(t, m)
	huge := filepath.Join(t.TempDir(), "huge")
	if err := errors.Join(os.WriteFile(huge, nil, 0o600), os.Truncate(huge, maxCopy+1)); err != nil {
		t.Fatal(err)
	}
	want := "opening " + huge + ": a file over 64 MiB of the target needs the file server: no FUSE here"
	c.seq++
	request := layer.Request{Op: layer.OpOpen, Path: huge, Seq: c.seq}
	if _, err := c.conn.Write(request.Append(nil)); err != nil {
		t.Fatal(err)
	}
	if notice, _ := c.read(0); string(notice.Data) != want || notice.Errno != 0 {
		t.Errorf("told %q, want %q", notice.Data, want)
	}
	if reply, _ := c.read(request.Seq); unix.Errno(reply.Errno) != unix.ENOTSUP {
		t.Errorf("errno %v, want ENOTSUP", unix.Errno(reply.Errno))
	}
	c.seq++
	request.Seq = c.seq
	if _, err := c.conn.Write(request.Append(nil)); err != nil {
		t.Fatal(err)
	}
	var reply layer.Reply
	buf := make([]byte, layer.MaxMessage)
	n, err := c.conn.Read(buf)
	if err == nil {
		err = reply.Decode(buf[:n])
	}
	if err != nil {
		t.Fatal(err)
	}
	if reply.Seq != request.Seq || unix.Errno(reply.Errno) != unix.ENOTSUP {
		t.Errorf("the second time: %+v", reply)
	}
}

// The stand-ins end with their launcher, and those of a killed daemon with the next.
func TestStandInsEnd(t *testing.T) {
	m := manager(t)
	c := withoutFiles(t, m)
	if reply, fd := c.call(layer.Request{Op: layer.OpOpen, Path: t.TempDir()}); fd == nil {
		t.Fatalf("errno %d: %s", reply.Errno, reply.Data)
	}
	left := func() []os.DirEntry {
		list, err := os.ReadDir(m.standIns)
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if len(left()) != 1 {
		t.Fatalf("stand-ins: %v", left())
	}
	own := m.all()[0]
	m.Release(own.id, false)
	c.conn.Close()
	<-own.ctx.Done() // comes after
	if list := left(); len(list) > 0 {
		t.Errorf("left of a launcher: %v", list)
	}

	dir := t.TempDir()
	killed := filepath.Join(dir, standInsName, "123", "1")
	if err := os.MkdirAll(filepath.Join(killed, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	next, err := NewManager(slog.New(slog.DiscardHandler), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer next.Close()
	if _, err := os.Stat(killed); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left of a killed daemon: %v", err)
	}
}

// A node that a launcher was told of and did not open is closed.
func TestUnusedNodes(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	if c.root == nil {
		t.Skip("needs the file server")
	}
	path := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(path, make([]byte, inline+1), 0o600); err != nil {
		t.Fatal(err)
	}
	var names []string
	for range 2 {
		reply, _ := c.call(layer.Request{Op: layer.OpOpen, Path: path})
		names = append(names, layer.NodeName(reply.Node))
	}
	used, err := unix.Openat(int(c.root.Fd()), names[0], unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(used)
	var owner *launcher
	for l := range m.all()[0].launchers {
		owner = l
	}
	open := func() int {
		m.nodes.mu.Lock()
		defer m.nodes.mu.Unlock()
		return len(m.nodes.open)
	}
	m.nodes.dropUnused(owner, time.Now().Add(-time.Minute))
	if n := open(); n != 2 {
		t.Errorf("%d nodes before their time, want 2", n)
	}
	m.nodes.dropUnused(owner, time.Now())
	if n := open(); n != 1 {
		t.Errorf("%d nodes, want the one that is open", n)
	}
	if _, err := unix.Openat(int(c.root.Fd()), names[1], unix.O_RDONLY|unix.O_CLOEXEC, 0); !errors.Is(err, unix.ESTALE) {
		t.Errorf("opening what was closed: %v", err)
	}
	if _, err := unix.Read(used, make([]byte, 10)); err != nil {
		t.Errorf("reading the other: %v", err)
	}
}

func entries(t *testing.T, dir *os.File) (list []string) {
	t.Helper()
	if _, err := dir.Seek(0, 0); err != nil {
		t.Fatal(err)
	}
	all, err := dir.ReadDir(-1)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range all {
		list = append(list, fmt.Sprint(e.Name(), " ", e.Type()))
	}
	slices.Sort(list)
	return list
}

func pathOf(t *testing.T, f *os.File) string {
	t.Helper()
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return path
}
