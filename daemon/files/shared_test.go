package files

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// A writable is a Source of one shared node, over a file of this machine.
type writable struct {
	*disk
	left chan uint64

	writing sync.Mutex
	file    *os.File
	claims  uint64
	changed int64 // how often others changed the file
	stamp   protocol.Stamp
	stuck   chan struct{}  // not nil: writes are taken when it is closed
	fail    *syscall.Errno // not nil: what becomes of writes
	flushed int
}

const sharedNode = 1 << 20

func newWritable(t testing.TB) *writable {
	t.Helper()
	f, err := os.OpenFile(filepath.Join(t.TempDir(), "file"), os.O_RDWR|os.O_CREATE, 0o640)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return &writable{disk: newDisk(t), left: make(chan uint64, 100), file: f}
}

func (w *writable) Claim(context.Context, uint64) (Claim, error) {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.claims++
	a, err := w.attr()
	return Claim{Node: sharedNode, Count: w.claims, Attr: a}, err
}

// attr is called with mu held.
func (w *writable) attr() (protocol.Attr, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(w.file.Fd()), &st); err != nil {
		return protocol.Attr{}, err
	}
	a := protocol.Attr{Ino: st.Ino, Mode: st.Mode, Nlink: 1, UID: st.Uid, GID: st.Gid, Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
	if now := a.Stamp(); now != w.stamp {
		w.changed++
		w.stamp = now
	}
	a.Mtime = w.changed
	return a, nil
}

func (w *writable) Attr(ctx context.Context, node uint64) (protocol.Attr, error) {
	if node != sharedNode {
		return w.disk.Attr(ctx, node)
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	return w.attr()
}

func (w *writable) Read(ctx context.Context, node uint64, p []byte, off int64) (int, error) {
	if node != sharedNode {
		return w.disk.Read(ctx, node, p, off)
	}
	w.writing.Lock()
	defer w.writing.Unlock()
	n, err := w.file.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// ours does f, of which w knows that it changes the file.
func (w *writable) ours(f func(fd int) error) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	if _, err := w.attr(); err != nil {
		return err
	}
	err := f(int(w.file.Fd()))
	var st unix.Stat_t
	if e := unix.Fstat(int(w.file.Fd()), &st); e == nil {
		w.stamp = protocol.Stamp{Size: st.Size, Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano()}
	}
	return err
}

func (w *writable) Write(_ uint64, p []byte, off int64, flags uint32) func(context.Context) error {
	p = bytes.Clone(p)
	write := func() error {
		return w.ours(func(fd int) (err error) {
			if w.fail != nil {
				return *w.fail
			}
			if flags&protocol.WriteAppend != 0 {
				_, err = unix.Pwritev2(fd, [][]byte{p}, off, 0x10)
			} else {
				_, err = unix.Pwrite(fd, p, off)
			}
			return err
		})
	}
	if w.stuck == nil {
		err := write()
		return func(context.Context) error { return err }
	}
	return func(context.Context) error {
		<-w.stuck
		return write()
	}
}

func (w *writable) Change(_ context.Context, node uint64, q protocol.Write) (r protocol.WriteReply, err error) {
	if node != sharedNode {
		return r, unix.EROFS
	}
	err = w.ours(func(fd int) (err error) {
		switch q.Do {
		case protocol.WriteAttr:
			if q.Set.Size != nil {
				err = unix.Ftruncate(fd, *q.Set.Size)
			}
			if q.Set.Mode != nil {
				err = errors.Join(err, unix.Fchmod(fd, *q.Set.Mode))
			}
		case protocol.WriteSync:
			err = unix.Fsync(fd)
		case protocol.WriteAllocate:
			err = unix.Fallocate(fd, q.Flags, q.Offset, q.Length)
		case protocol.WriteSeek:
			r.Offset, err = unix.Seek(fd, q.Offset, q.Whence)
		}
		return err
	})
	if err == nil {
		r.Attr, err = w.Attr(context.Background(), sharedNode)
	}
	return r, err
}

func (w *writable) Flush(context.Context, uint64) error {
	w.writing.Lock()
	defer w.writing.Unlock()
	w.flushed++
	return nil
}

func (w *writable) Left(_, claims uint64) { w.left <- claims }

// openShared opens the one node by another number.
func openShared(t testing.TB, s *Server, number uint64, flags int) *os.File {
	t.Helper()
	for {
		fd, err := unix.Openat(int(s.Root().Fd()), layer.SharedName(number), flags|unix.O_CLOEXEC, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		given, err := unix.Dup(fd) // as the debuggee gets it, whose the first close is not
		unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		f := os.NewFile(uintptr(given), layer.SharedName(number))
		t.Cleanup(func() { f.Close() })
		return f
	}
}

func TestShared(t *testing.T) {
	w := newWritable(t)
	s := serveDisk(t, w)
	one, two := openShared(t, s, 1, unix.O_RDWR), openShared(t, s, 2, unix.O_WRONLY|unix.O_APPEND)
	if flags, err := unix.FcntlInt(two.Fd(), unix.F_GETFL, 0); err != nil || flags&(unix.O_ACCMODE|unix.O_APPEND) != unix.O_WRONLY|unix.O_APPEND {
		t.Errorf("flags %#x, %v", flags, err)
	}
	big := bytes.Repeat([]byte("0123456789abcdef"), 3<<16)
	if n, err := one.Write(big); n != len(big) || err != nil {
		t.Fatal(n, err)
	}
	if _, err := two.WriteString("end"); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 3)
	if _, err := one.ReadAt(b, int64(len(big))); err != nil || string(b) != "end" {
		t.Errorf("one reads %q of what two wrote, %v", b, err)
	}
	if got, err := os.ReadFile(w.file.Name()); !bytes.Equal(got, append(big, "end"...)) {
		t.Errorf("the file has %d bytes, %v", len(got), err)
	}
	if st, err := one.Stat(); err != nil || st.Size() != int64(len(big))+3 {
		t.Errorf("size %d, %v", st.Size(), err)
	}
	// Locks are the kernel's, for all who have the node.
	if err := unix.Flock(int(one.Fd()), unix.LOCK_EX); err != nil {
		t.Error(err)
	}
	if err := unix.Flock(int(two.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != unix.EWOULDBLOCK {
		t.Errorf("a lock that is held: %v", err)
	}
	if off, err := unix.Seek(int(one.Fd()), 0, unix.SEEK_HOLE); err != nil || off != int64(len(big))+3 {
		t.Errorf("hole at %d, %v", off, err)
	}
	two.Close()
	one.Close()
	if n := <-w.left; n != 2 {
		t.Errorf("left by %d claims, want 2", n)
	}
	if w.flushed == 0 {
		t.Error("close did not flush")
	}
}

// What is open for reading only stays so, whoever opens it again.
func TestReadOnlyNodes(t *testing.T) {
	path, _ := bigFile(t, 100_000)
	w := newWritable(t)
	s := serveDisk(t, w)
	node := w.add(t, path)
	f := mustOpen(t, s, node)
	if again, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), os.O_RDWR, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("opened again for writing: %v %v", again, err)
	}
	if err := unix.Fchmod(int(f.Fd()), 0o777); err != unix.EROFS {
		t.Errorf("fchmod: %v", err)
	}
	if off, err := unix.Seek(int(f.Fd()), 5, unix.SEEK_HOLE); off != 100_000 || err != nil {
		t.Errorf("hole at %d, %v", off, err)
	}
	if _, err := unix.Seek(int(f.Fd()), 100_000, unix.SEEK_DATA); err != unix.ENXIO {
		t.Errorf("data behind the end: %v", err)
	}
}

// Who has a shared node for reading cannot make more of it.
func TestSharedForReadingOnly(t *testing.T) {
	s := serveDisk(t, newWritable(t))
	writer := openShared(t, s, 1, unix.O_RDWR)
	if _, err := writer.WriteString("text"); err != nil {
		t.Fatal(err)
	}
	link := fmt.Sprintf("/proc/self/fd/%d", openShared(t, s, 2, unix.O_RDONLY).Fd())
	for _, flags := range []int{os.O_RDWR, os.O_WRONLY, os.O_WRONLY | os.O_TRUNC} {
		if again, err := os.OpenFile(link, flags, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("opened again with %#x: %v %v", flags, again, err)
		}
	}
	if b, err := os.ReadFile(link); err != nil || string(b) != "text" {
		t.Errorf("opened again for reading: %q, %v", b, err)
	}
}

// Others' changes are seen when the attributes' time is over.
func TestSharedChangedByOthers(t *testing.T) {
	w := newWritable(t)
	s := serveDisk(t, w)
	f := openShared(t, s, 1, unix.O_RDWR)
	if _, err := f.WriteString("before"); err != nil {
		t.Fatal(err)
	}
	read := func(want string) bool {
		b := make([]byte, 100)
		n, _ := f.ReadAt(b, 0)
		return string(b[:n]) == want
	}
	if !read("before") {
		t.Error("what was written is not read")
	}
	for _, content := range []string{"AFTER!", "longer than before", "short"} {
		if err := os.WriteFile(w.file.Name(), []byte(content), 0); err != nil {
			t.Fatal(err)
		}
		for begin := time.Now(); !read(content); time.Sleep(10 * time.Millisecond) {
			if time.Since(begin) > 10*SharedTime {
				t.Fatalf("%q is not seen", content)
			}
		}
	}
}

func TestSharedErrors(t *testing.T) {
	w := newWritable(t)
	s := serveDisk(t, w)
	f := openShared(t, s, 1, unix.O_RDWR)
	full := syscall.ENOSPC
	w.writing.Lock()
	w.fail = &full
	w.writing.Unlock()
	if _, err := f.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if err := f.Sync(); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("after writing to a full disk: %v", err)
	}
	w.writing.Lock()
	w.fail = nil
	w.writing.Unlock()
	if _, err := f.WriteString("x"); err != nil {
		t.Errorf("writing after it: %v", err)
	}
	if err := f.Sync(); err != nil {
		t.Errorf("told twice: %v", err)
	}
	s.cmd.Process.Kill()
	<-s.Done()
	if _, err := f.WriteString("x"); !errors.Is(err, unix.ENOTCONN) {
		t.Errorf("writing without file server: %v", err)
	}
}

// Who asks for a file by path, and not by way of the kernel, can know what was
// written before.
func TestCaughtUp(t *testing.T) {
	w := newWritable(t)
	s := serveDisk(t, w)
	f := openShared(t, s, 1, unix.O_RDWR)
	for i := range 500 {
		want := strconv.Itoa(1000 + i)
		if _, err := f.WriteAt([]byte(want), 0); err != nil {
			t.Fatal(err)
		}
		s.CaughtUp(t.Context())
		if got, err := os.ReadFile(w.file.Name()); string(got) != want || err != nil {
			t.Fatalf("%q, %v, want %s", got, err, want)
		}
	}
	s.Close()
	s.CaughtUp(t.Context()) // which is no end either
}

// What the launcher closes, having given it to the debuggee, neither waits nor
// is told of failures.
func TestLaunchersClose(t *testing.T) {
	w := newWritable(t)
	s := serveDisk(t, w)
	f := openShared(t, s, 1, unix.O_RDWR)
	f.Close()
	w.writing.Lock()
	defer w.writing.Unlock()
	if w.flushed != 1 {
		t.Errorf("%d flushes of two closes", w.flushed)
	}
}

// A write that waits holds up no debugger's stop; what becomes of it is told by
// the next one.
func TestInterruptedWrite(t *testing.T) {
	w := newWritable(t)
	w.stuck = make(chan struct{})
	s := serveDisk(t, w)
	openShared(t, s, 1, unix.O_RDWR)
	p := startDebuggee(t, nil, []*os.File{s.Root()}, "scribble", layer.SharedName(2))
	if got := p.line(t); got != "opened" {
		t.Fatal(got)
	}
	full := syscall.ENOSPC
	w.writing.Lock()
	w.fail = &full
	w.writing.Unlock()
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	within(t, "stop", func() {
		err := error(unix.EINTR)
		for err == unix.EINTR {
			err = unix.Waitid(unix.P_PID, p.Process.Pid, nil, unix.WSTOPPED, nil)
		}
		if err != nil {
			t.Error(err)
		}
	})
	close(w.stuck)
	if err := p.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if got := p.line(t); got != "no space left on device" {
		t.Errorf("after a write that failed: %s", got)
	}
}

// scribble writes until it fails.
func scribble(fd int) error {
	for {
		if _, err := unix.Write(fd, []byte("x")); err != nil {
			return err
		}
	}
}

// Random things done to a shared node have the outcome that they have on disk.
// MIRRORD_TEST_SOAK has them done for so long.
func TestScribe(t *testing.T) {
	long, ops := "0s", "3000"
	if soak := os.Getenv("MIRRORD_TEST_SOAK"); soak != "" {
		long = soak
	}
	scribe := filepath.Join(t.TempDir(), "scribe")
	if out, err := exec.Command("go", "build", "-o", scribe, "mirrord/testdata/apps/scribe").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	w := newWritable(t)
	s := serveDisk(t, w)
	cmd := exec.Command(scribe, "-for", long, "-ops", ops, "/proc/self/fd/3/w%d", filepath.Join(t.TempDir(), "double"))
	cmd.ExtraFiles = []*os.File{s.Root()}
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	t.Logf("%s", out)
	got, err := os.ReadFile(w.file.Name())
	want, err2 := os.ReadFile(cmd.Args[len(cmd.Args)-1])
	if !bytes.Equal(got, want) || errors.Join(err, err2) != nil {
		t.Errorf("%d bytes, want %d; %v %v", len(got), len(want), err, err2)
	}
}
