package files

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/protocol/layer"
)

func TestContent(t *testing.T) {
	const size = 9<<20 + 12345
	path, want := bigFile(t, size)
	d := newDisk(t)
	s := serveDisk(t, d)
	f := mustOpen(t, s, d.add(t, path))

	equal := func(t *testing.T, got []byte, off int) {
		t.Helper()
		if !bytes.Equal(got, want[off:off+len(got)]) {
			t.Errorf("%d bytes at %d differ", len(got), off)
		}
	}
	t.Run("read", func(t *testing.T) {
		got, err := io.ReadAll(f)
		if err != nil || len(got) != size {
			t.Fatal(len(got), err)
		}
		equal(t, got, 0)
	})
	t.Run("pread", func(t *testing.T) {
		f := mustOpen(t, s, d.add(t, path))
		r := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			off := r.IntN(size)
			got := make([]byte, min(1+r.IntN(300_000), size-off))
			if _, err := f.ReadAt(got, int64(off)); err != nil {
				t.Fatal(err)
			}
			equal(t, got, off)
		}
		if n, err := f.ReadAt(make([]byte, 10), size-3); n != 3 || err != io.EOF {
			t.Error("at the end:", n, err)
		}
		if n, err := f.ReadAt(make([]byte, 10), size+1<<40); n != 0 || err != io.EOF {
			t.Error("behind the end:", n, err)
		}
	})
	for _, how := range []string{"private", "shared"} {
		t.Run("mmap "+how, func(t *testing.T) {
			p := startDebuggee(t, nil, []*os.File{s.Root()}, "look", layer.NodeName(d.add(t, path)), how)
			p.line(t)
			if got, want := p.line(t), fmt.Sprintf("%x", sha256.Sum256(want)); got != want {
				t.Errorf("debuggee says %q, want %q", got, want)
			}
		})
	}
	t.Run("lseek", func(t *testing.T) {
		if off, err := f.Seek(-5, io.SeekEnd); off != size-5 || err != nil {
			t.Error(off, err)
		}
		if off, err := unix.Seek(int(f.Fd()), 7, unix.SEEK_DATA); off != 7 || err != nil {
			t.Error(off, err)
		}
		got := make([]byte, 10)
		if _, err := f.Read(got); err != nil {
			t.Fatal(err)
		}
		equal(t, got, 7)
	})
	t.Run("sendfile", func(t *testing.T) {
		out, err := os.Create(filepath.Join(t.TempDir(), "out"))
		if err != nil {
			t.Fatal(err)
		}
		defer out.Close()
		off := int64(1)
		for off < size {
			if _, err := unix.Sendfile(int(out.Fd()), int(f.Fd()), &off, size); err != nil {
				t.Fatal(err)
			}
		}
		got, _ := os.ReadFile(out.Name())
		equal(t, got, 1)
	})
	t.Run("reopen", func(t *testing.T) {
		again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
		if err != nil {
			t.Fatal(err)
		}
		defer again.Close()
		got, err := io.ReadAll(again)
		if err != nil {
			t.Fatal(err)
		}
		equal(t, got, 0)
	})
}

func TestFstat(t *testing.T) {
	path, _ := bigFile(t, 100_000)
	if err := os.Chmod(path, 0o4751); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, time.Unix(1e9, 5), time.Unix(1.1e9, 7)); err != nil {
		t.Fatal(err)
	}
	if mayMount() {
		if err := os.Chown(path, 1234, 4321); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(path, 0o4751); err != nil {
			t.Fatal(err)
		}
	}
	d := newDisk(t)
	s := serveDisk(t, d)
	f := mustOpen(t, s, d.add(t, path))
	var got, want unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &got); err != nil {
		t.Fatal(err)
	}
	if err := unix.Stat(path, &want); err != nil {
		t.Fatal(err)
	}
	want.Dev = got.Dev // the mount's
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(unix.Stat_t{})); diff != "" {
		t.Error(diff)
	}
}

func TestReleased(t *testing.T) {
	path, _ := bigFile(t, 100_000)
	d := newDisk(t)
	s := serveDisk(t, d)
	node := d.add(t, path)
	f := mustOpen(t, s, node)
	b, err := unix.Mmap(int(f.Fd()), 0, 4096, unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		t.Fatal(err)
	}
	second, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	third, err := open(s, node, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	second.Close()
	third.Close()
	other := mustOpen(t, s, d.add(t, path)) // its end comes after that of the three
	other.Close()
	if got := <-d.released; got != node+1 {
		t.Errorf("node %d was released while mapped", got)
	}
	unix.Munmap(b)
	if got := <-d.released; got != node {
		t.Errorf("node %d was released, want %d", got, node)
	}
}

// What is looked up and not opened, as by who is killed in between, ends too,
// but not as long as somebody has it.
func TestNeverOpened(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	path, content := bigFile(t, 100_000)
	d := newDisk(t)
	s, err := start(t.Context(), slog.New(slog.DiscardHandler), d, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	held, err := open(s, d.add(t, path), unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	opened := mustOpen(t, s, d.add(t, path))
	node := d.add(t, path)
	f, err := open(s, node, unix.O_PATH)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	within(t, "release", func() {
		if got := <-d.released; got != node {
			t.Errorf("node %d released, want %d", got, node)
		}
	})
	again, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", held.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{opened, again} {
		b := make([]byte, 10)
		if _, err := f.ReadAt(b, 50_000); err != nil || !bytes.Equal(b, content[50_000:][:10]) {
			t.Errorf("what was kept reads %x, %v", b, err)
		}
		f.Close()
		<-d.released
	}
	held.Close()
	if len(d.released) > 0 {
		t.Errorf("node %d released once more", <-d.released)
	}
}

func TestRefused(t *testing.T) {
	path, _ := bigFile(t, 10)
	d := newDisk(t)
	s := serveDisk(t, d)
	node := d.add(t, path)
	root := int(s.Root().Fd())
	for _, c := range []struct {
		name  string
		flags int
		want  error
	}{
		{"n0", unix.O_RDWR, unix.EROFS},
		{"n0", unix.O_WRONLY | unix.O_TRUNC, unix.EROFS},
		{"x", unix.O_CREAT | unix.O_WRONLY, unix.EROFS},
		{"n0", unix.O_DIRECTORY, unix.ENOTDIR},
		{"n7", unix.O_RDONLY, unix.ENOENT},
		{"n00", unix.O_RDONLY, unix.ENOENT},
		{"n-1", unix.O_RDONLY, unix.ENOENT},
		{"n18446744073709551615", unix.O_RDONLY, unix.ENOENT},
		{"etc", unix.O_RDONLY, unix.ENOENT},
		{".", unix.O_RDONLY, unix.EACCES},
	} {
		fd, err := unix.Openat(root, c.name, c.flags, 0)
		if err != c.want {
			t.Errorf("open %q with %#x: %v, want %v", c.name, c.flags, err, c.want)
		}
		if err == nil {
			unix.Close(fd)
		}
	}
	if node != 0 {
		t.Fatal(node)
	}
}

// What a file of proc or sysfs has is not told by its size.
func TestSizeless(t *testing.T) {
	d := newDisk(t)
	s := serveDisk(t, d)
	for _, path := range []string{"/proc/version", "/sys/kernel/mm/transparent_hugepage/enabled"} {
		want, err := os.ReadFile(path)
		if err != nil {
			t.Skip(err)
		}
		f := mustOpen(t, s, d.add(t, path))
		for range 2 {
			got := make([]byte, 4096)
			n, err := f.ReadAt(got, 0)
			if err != io.EOF || !bytes.Equal(got[:n], want) {
				t.Errorf("%s: %q, %v, want %q", path, got[:n], err, want)
			}
		}
	}
}

func TestSparse(t *testing.T) {
	const size, touched = 1 << 30, 100
	path := filepath.Join(t.TempDir(), "sparse")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
	var offs []int64
	for i := range int64(touched) {
		offs = append(offs, (i*7919+3)%touched*(size/touched)&^4095)
	}
	for _, off := range offs {
		if _, err := f.WriteAt(fmt.Append(nil, off), off); err != nil {
			t.Fatal(err)
		}
	}
	d := newDisk(t)
	s := serveDisk(t, d)
	check := func(t *testing.T, most int64, at func(off int64) string) {
		before := d.read.Load()
		for _, off := range offs {
			if got, want := at(off), fmt.Sprint(off); got != want {
				t.Errorf("at %d: %q", off, got)
			}
		}
		if got := d.read.Load() - before; got > most {
			t.Errorf("%d KiB fetched, want at most %d", got>>10, most>>10)
		} else {
			t.Logf("%d KiB fetched", got>>10)
		}
	}
	t.Run("pread", func(t *testing.T) {
		f := mustOpen(t, s, d.add(t, path))
		check(t, touched*2*blockSize, func(off int64) string {
			b := make([]byte, len(fmt.Sprint(off)))
			if _, err := f.ReadAt(b, off); err != nil {
				t.Fatal(err)
			}
			return string(b)
		})
	})
	t.Run("mmap", func(t *testing.T) {
		args := []string{"look", layer.NodeName(d.add(t, path)), "private"}
		for _, off := range offs {
			args = append(args, fmt.Sprint(off))
		}
		p := startDebuggee(t, nil, []*os.File{s.Root()}, args...)
		p.line(t)
		check(t, touched*(readAhead+2*blockSize), func(int64) string { return p.line(t) })
	})
}

// More readers than there are slots, of many files and of one.
func TestConcurrent(t *testing.T) {
	const size, readers = 1<<20 + 77, 100
	path, want := bigFile(t, size)
	d := newDisk(t)
	s := serveDisk(t, d)
	shared := mustOpen(t, s, d.add(t, path))
	var wg sync.WaitGroup
	for i := range readers {
		f := shared
		if i%2 == 0 {
			f = mustOpen(t, s, d.add(t, path))
		}
		wg.Go(func() {
			got, err := io.ReadAll(io.NewSectionReader(f, int64(i), size))
			if err != nil || !bytes.Equal(got, want[i:]) {
				t.Errorf("reader %d: %d bytes, %v", i, len(got), err)
			}
		})
	}
	wg.Wait()
}

func TestDirectory(t *testing.T) {
	dir := t.TempDir()
	var names []string
	for i := range 300 {
		names = append(names, fmt.Sprintf("a name that is long enough to fill pages %03d", i))
	}
	for _, name := range names {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("x", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "sub"), 0o700); err != nil {
		t.Fatal(err)
	}
	d := newDisk(t)
	s := serveDisk(t, d)
	node := d.add(t, dir)
	f := mustOpen(t, s, node)
	local, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer local.Close()
	want := dirents(t, local)
	got := dirents(t, f)
	for i := range got { // they have no true inode
		if n := got[i].name; n == "." || n == ".." {
			j := slices.IndexFunc(want, func(e dirent) bool { return e.name == n })
			got[i].ino, want[j].ino = 0, 0
		}
		if got[i].off == 0 {
			t.Errorf("%q has no offset", got[i].name)
		}
	}
	byName := func(list []dirent) map[string]dirent {
		m := make(map[string]dirent)
		for _, e := range list {
			e.off = 0
			m[e.name] = e
		}
		return m
	}
	if diff := cmp.Diff(byName(want), byName(got), cmp.AllowUnexported(dirent{})); diff != "" || len(got) != len(want) {
		t.Errorf("%d entries, want %d: %s", len(got), len(want), diff)
	}

	// Any place can be returned to.
	for _, i := range []int{0, 1, 2, 3, 150, len(got) - 2} {
		if _, err := f.Seek(got[i].off, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		rest := dirents(t, f)
		if len(rest) != len(got)-i-1 || rest[0].name != got[i+1].name {
			t.Errorf("after entry %d: %d entries", i, len(rest))
		}
	}

	// A rewound reader sees what is new.
	if err := os.WriteFile(filepath.Join(dir, "zz"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	f.Seek(0, io.SeekStart)
	if n := len(dirents(t, f)); n != len(got)+1 {
		t.Errorf("%d entries after one more was made, want %d", n, len(got)+1)
	}
	f.Close()
	if got := <-d.released; got != node {
		t.Errorf("node %d released, want %d", got, node)
	}
}

type dirent struct {
	ino  uint64
	off  int64
	typ  byte
	name string
}

// dirents is all that getdents64(2) tells from here on.
func dirents(t *testing.T, f *os.File) (list []dirent) {
	t.Helper()
	buf := make([]byte, 2000)
	for {
		n, err := unix.Getdents(int(f.Fd()), buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			return list
		}
		for b := buf[:n]; len(b) > 0; {
			size := le.Uint16(b[16:])
			name, _, _ := bytes.Cut(b[19:size], []byte{0})
			list = append(list, dirent{le.Uint64(b), int64(le.Uint64(b[8:])), b[18], string(name)})
			b = b[size:]
		}
	}
}
