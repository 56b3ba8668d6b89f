package session

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// writable asks for a file that is to be changed. The number of its reply is
// good for one opening.
func (c *caller) writable(path string, flags uint32) layer.Reply {
	c.t.Helper()
	r, _ := c.call(layer.Request{Op: layer.OpOpen, Path: path, Flags: flags, Node: 0o640})
	if r.Errno != 0 {
		c.t.Fatalf("opening %s: %v: %s", path, unix.Errno(r.Errno), r.Data)
	}
	if r.Flags&layer.ReplyShared == 0 {
		c.t.Fatalf("opening %s: reply %+v is of no shared node", path, r)
	}
	return r
}

func (c *caller) open(r layer.Reply, flags int) *os.File {
	c.t.Helper()
	fd, err := unix.Openat(int(c.root.Fd()), layer.SharedName(r.Node), flags|unix.O_CLOEXEC, 0)
	if err != nil {
		c.t.Fatal(err)
	}
	given, err := unix.Dup(fd) // as the debuggee gets it
	unix.Close(fd)
	if err != nil {
		c.t.Fatal(err)
	}
	f := os.NewFile(uintptr(given), "shared")
	c.t.Cleanup(func() { f.Close() })
	return f
}

func withNodes(t *testing.T, c *caller) {
	t.Helper()
	if c.root == nil {
		t.Skip("there is no file server here")
	}
}

const readWrite = layer.OpenRead | layer.OpenWrite

// Two launchers that open a file by two names have the same one, and who asks
// by path sees what was written.
func TestSharedFile(t *testing.T) {
	m := manager(t)
	s, one := start(t, m)
	withNodes(t, one)
	two := attach(t, m, s.ID)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	a := one.writable(path, readWrite|layer.OpenCreate|layer.OpenExclusive)
	if err := os.Symlink("file", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	b := two.writable(filepath.Join(dir, "link"), layer.OpenWrite)
	if a.File != b.File || a.Node == b.Node {
		t.Errorf("files %d and %d, numbers %d and %d", a.File, b.File, a.Node, b.Node)
	}
	f, g := one.open(a, unix.O_RDWR), two.open(b, unix.O_WRONLY|unix.O_APPEND)
	if _, err := f.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if _, err := g.WriteString(" world"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	if n, _ := f.ReadAt(buf, 0); string(buf[:n]) != "hello world" {
		t.Errorf("one reads %q", buf[:n])
	}
	for _, q := range []layer.Request{{Op: layer.OpStat, Path: path}, {Op: layer.OpStat, Node: a.File}} {
		if r, _ := two.call(q); r.Attr.Size != 11 || r.Attr.Ino != a.Attr.Ino || r.Attr.Dev != a.Attr.Dev || r.Lease.ID != 0 {
			t.Errorf("%+v: %+v", q, r)
		}
	}
	// Who opens it for reading shares it too, for as long as it is open to be written.
	r, _ := two.call(layer.Request{Op: layer.OpOpen, Path: path})
	if r.File != a.File {
		t.Errorf("opened for reading: %+v", r)
	}
	two.open(r, unix.O_RDONLY).Close()
	f.Close()
	g.Close()
	eventually(t, "the end of the node", func() bool {
		m.nodes.mu.Lock()
		defer m.nodes.mu.Unlock()
		return len(m.nodes.shared)+len(m.nodes.sharedByID)+len(m.nodes.numbers)+len(m.nodes.ending) == 0
	})
	eventually(t, "its content with the open, now that nobody writes", func() bool { // the agent may hear of it last
		_, fd := two.call(layer.Request{Op: layer.OpOpen, Path: path})
		return fd != nil
	})
}

// Who has a large file open for reading sees what is written after it, where the
// policy lets it be written.
func TestReaderSeesWriter(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	path := filepath.Join(t.TempDir(), "file")
	content := bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	r, _ := c.call(layer.Request{Op: layer.OpOpen, Path: path, Flags: layer.OpenMayChange})
	if r.Flags&layer.ReplyShared == 0 {
		t.Fatalf("reply %+v", r)
	}
	reader := c.open(r, unix.O_RDONLY)
	got := make([]byte, len(content)+1)
	if n, _ := reader.ReadAt(got[:len(got)/2], 0); !bytes.Equal(got[:n], content[:len(got)/2]) { // the rest may be on its way
		t.Error("it reads something else")
	}
	writer := c.open(c.writable(path, layer.OpenWrite), unix.O_WRONLY)
	copy(content[len(content)-100:], "written")
	if _, err := writer.WriteAt([]byte("written"), int64(len(content)-100)); err != nil {
		t.Fatal(err)
	}
	if n, _ := reader.ReadAt(got, 0); !bytes.Equal(got[:n], content) {
		t.Error("what was written is not read")
	}
	if _, err := reader.Write([]byte("x")); err == nil {
		t.Error("a descriptor for reading writes")
	}
}

// What others write, on the target, is seen after files.SharedTime at most.
func TestSharedFileChangedByOthers(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	path := filepath.Join(t.TempDir(), "file")
	f := c.open(c.writable(path, readWrite|layer.OpenCreate), unix.O_RDWR)
	if _, err := f.WriteString("ours"); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 100)
	for _, content := range []string{"OURS", "longer than ours", "s"} {
		if _, err := f.ReadAt(buf, 0); err == nil {
			t.Fatal("no end of file")
		}
		if err := os.WriteFile(path, []byte(content), 0); err != nil {
			t.Fatal(err)
		}
		eventually(t, content, func() bool {
			n, _ := f.ReadAt(buf, 0)
			return string(buf[:n]) == content
		})
	}
	// An appending writer does not overwrite what another one has appended.
	g := c.open(c.writable(path, layer.OpenWrite), unix.O_WRONLY|unix.O_APPEND)
	other, err := os.OpenFile(path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	want := "s"
	for i := range 20 {
		text := fmt.Sprintf("%d,", i)
		want += text + text
		if _, err := g.WriteString(text); err != nil {
			t.Fatal(err)
		}
		if err := g.Sync(); err != nil {
			t.Fatal(err)
		}
		if _, err := other.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := os.ReadFile(path); string(got) != want {
		t.Errorf("the file is %q, %v; want %q", got, err, want)
	}
	eventually(t, "what both appended", func() bool {
		n, _ := f.ReadAt(buf, 0)
		return string(buf[:n]) == want[:min(len(want), len(buf))]
	})
}

// What is done to an open file by a name is seen by its descriptor, at once: also
// what the kernel keeps of it.
func TestSharedFileChangedByName(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	path := filepath.Join(t.TempDir(), "file")
	r := c.writable(path, readWrite|layer.OpenCreate)
	f := c.open(r, unix.O_RDWR)
	if _, err := f.WriteString("0123456789"); err != nil {
		t.Fatal(err)
	}
	own, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	c.writable(path+"3", readWrite|layer.OpenCreate)
	name := func(suffix string) protocol.Path { return protocol.Path(path + suffix) }
	for _, q := range []protocol.Change{
		{Op: protocol.ChangeMode, Path: name(""), Mode: 0o600},
		{Op: protocol.ChangeTimes, Path: name(""), Times: []protocol.Timespec{{Sec: 5}, {Sec: 5}}},
		{Op: protocol.ChangeSize, Path: name(""), Size: 3},
		{Op: protocol.ChangeLink, Path: name(""), Other: name("2")},
		{Op: protocol.ChangeLink, Path: name("2"), Other: name("4")},
		{Op: protocol.ChangeSize, Path: name("4"), Size: 5},
		{Op: protocol.ChangeUnlink, Path: name("2")},
		{Op: protocol.ChangeRename, Path: name("3"), Other: name("")},
		{Op: protocol.ChangeUnlink, Path: name("4")},
	} {
		fstat := func() (st unix.Stat_t, told protocol.Attr) { // so that it is kept, now
			if err := unix.Fstat(int(f.Fd()), &st); err != nil {
				t.Fatal(err)
			}
			r, _ := c.call(layer.Request{Op: layer.OpStat, Node: r.File})
			return st, r.Attr
		}
		fstat()
		if r := c.change(q); r.Errno != 0 {
			t.Fatalf("%v: %v: %s", q.Op, unix.Errno(r.Errno), r.Data)
		}
		var want unix.Stat_t
		if err := unix.Fstat(int(own.Fd()), &want); err != nil {
			t.Fatal(err)
		}
		got, told := fstat()
		end, err := f.Seek(0, io.SeekEnd)
		if got.Mode != want.Mode || got.Nlink != want.Nlink || got.Size != want.Size || end != want.Size || err != nil {
			t.Errorf("%v: the kernel has mode %o, %d links, %d bytes and ends at %d, %v; want %o, %d, %d", q.Op, got.Mode, got.Nlink, got.Size, end, err, want.Mode, want.Nlink, want.Size)
		}
		if told.Mode != want.Mode || uint64(told.Nlink) != uint64(want.Nlink) || told.Size != want.Size || told.Mtime != want.Mtim.Nano() {
			t.Errorf("%v: told %+v, want %+v", q.Op, told, want)
		}
	}
}

// What cannot be written is told once, whether or not its writer waited.
func TestNoFailureIsLost(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	f := c.open(c.writable(filepath.Join(t.TempDir(), "file"), readWrite|layer.OpenCreate), unix.O_RDWR)
	fd := int(f.Fd())
	for i := range 500 {
		_, err := unix.Pwrite(fd, []byte("x"), 1<<60) // more than any disk has
		synced := unix.Fsync(fd)
		if (err != unix.EFBIG) == (synced != unix.EFBIG) {
			t.Fatalf("write %d: %v, fsync: %v", i, err, synced)
		}
	}
}

// A descriptor for reading sets attributes where the policy lets files be changed.
func TestAttributesByDescriptor(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	dir := t.TempDir()
	for _, may := range []bool{false, true} {
		q := layer.Request{Op: layer.OpOpen, Path: dir}
		if may {
			q.Flags = layer.OpenMayChange
		}
		r, _ := c.call(q)
		fd, err := unix.Openat(int(c.root.Fd()), layer.NodeName(r.Node), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		if err := unix.Fsync(fd); err != nil {
			t.Errorf("fsync: %v", err)
		}
		err = unix.Fchmod(fd, 0o751)
		if !may {
			if err != unix.EROFS {
				t.Errorf("fchmod: %v", err)
			}
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Mkdir(filepath.Join(dir, "new"), 0o755); err != nil {
			t.Fatal(err)
		}
		c.writable(filepath.Join(dir, "file"), readWrite|layer.OpenCreate) // by which it is known that the directory changes
		var want unix.Stat_t
		if err := unix.Stat(dir, &want); err != nil {
			t.Fatal(err)
		}
		r, _ = c.call(layer.Request{Op: layer.OpStat, Node: r.Node})
		if r.Attr.Mode != want.Mode || uint64(r.Attr.Nlink) != uint64(want.Nlink) || r.Attr.Mtime != want.Mtim.Nano() {
			t.Errorf("attributes %+v, want %+v", r.Attr, want)
		}
	}
}

// A number that nobody opens does not keep its file open.
func TestSharedFileNeverOpened(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	withNodes(t, c)
	attach(t, m, s.ID) // keeps the session
	c.writable(filepath.Join(t.TempDir(), "file"), readWrite|layer.OpenCreate)
	c.conn.Close()
	eventually(t, "the end of the node", func() bool {
		m.nodes.mu.Lock()
		defer m.nodes.mu.Unlock()
		return len(m.nodes.shared)+len(m.nodes.numbers) == 0
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for begin := time.Now(); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Since(begin) > 20*time.Second {
			t.Fatalf("%s: not seen", what)
		}
	}
}

// Random things done to a file of the target have the outcome that they have
// here; see testdata/apps/scribe.
func TestScribe(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	withNodes(t, c)
	dir := t.TempDir()
	scribe, path := filepath.Join(dir, "scribe"), filepath.Join(dir, "file")
	if out, err := exec.Command("go", "build", "-o", scribe, "mirrord/testdata/apps/scribe").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const ops = 1500
	var first layer.Reply
	for i := range ops {
		if r := c.writable(path, readWrite|layer.OpenCreate); i == 0 {
			first = r
		}
	}
	for i := range ops { // the names that it opens
		if err := os.Symlink(fmt.Sprintf("/proc/self/fd/3/%s", layer.SharedName(first.Node+uint64(i))), fmt.Sprintf("%s/n%d", dir, i+1)); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command(scribe, "-ops", fmt.Sprint(ops), dir+"/n%d", filepath.Join(dir, "double"))
	cmd.ExtraFiles = []*os.File{c.root}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	got, err := os.ReadFile(path)
	want, err2 := os.ReadFile(dir + "/double")
	if !bytes.Equal(got, want) {
		t.Errorf("%d bytes, want %d; %v %v", len(got), len(want), err, err2)
	}
}
