package files

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

// opening is the question that open(2) with flags comes to.
func opening(path string, flags int, mode uint32) protocol.Open {
	acc := flags & unix.O_ACCMODE
	return protocol.Open{
		Path: protocol.Path(path), NoFollow: flags&unix.O_NOFOLLOW != 0, Directory: flags&unix.O_DIRECTORY != 0 && flags&unix.O_TMPFILE != unix.O_TMPFILE,
		Change: &protocol.OpenChange{
			Read: acc != unix.O_WRONLY, Write: acc != unix.O_RDONLY, Create: flags&unix.O_CREAT != 0, Exclusive: flags&unix.O_EXCL != 0,
			Truncate: flags&unix.O_TRUNC != 0, Temporary: flags&unix.O_TMPFILE == unix.O_TMPFILE, Mode: mode,
		},
	}
}

// world makes files of several owners for the user to try, in dir.
func world(t *testing.T, dir string) {
	t.Helper()
	do := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	write := func(name string, mode os.FileMode, uid, gid int) {
		t.Helper()
		name = filepath.Join(dir, name)
		do(os.WriteFile(name, []byte("0123456789"), 0o600))
		do(os.Chown(name, uid, gid))
		do(os.Chmod(name, mode))
	}
	for name, mode := range map[string]os.FileMode{"open": 0o777, "shut": 0o700, "sticky": 0o777 | os.ModeSticky, "setgid": 0o777 | os.ModeSetgid} {
		do(os.Mkdir(filepath.Join(dir, name), 0o700))
		do(os.Chown(filepath.Join(dir, name), 0, 500))
		do(os.Chmod(filepath.Join(dir, name), mode))
	}
	write("mine", 0o600, 1000, 2000)
	write("readonly", 0o444, 1000, 2000)
	write("group", 0o660, 0, 3000)
	write("other", 0o640, 0, 0)
	write("all", 0o666, 0, 0)
	write("setuid", 0o4777, 1000, 2000)
	write("shut/file", 0o666, 1000, 2000)
	write("running", 0o777, 0, 0)
	for name, text := range map[string]string{"link": "mine", "dangling": "open/new", "deep": "shut/file", "loop": "loop"} {
		do(os.Symlink(text, filepath.Join(dir, name)))
	}
	do(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o666))
}

// Whoever opens to write gets the errno that the kernel has for that user on a
// local disk, and what is made is alike.
func TestOpenChangeIsTheKernels(t *testing.T) {
	asRoot(t)
	flags := map[string]int{
		"w": unix.O_WRONLY, "rw": unix.O_RDWR, "create": unix.O_RDWR | unix.O_CREAT, "excl": unix.O_WRONLY | unix.O_CREAT | unix.O_EXCL,
		"trunc": unix.O_WRONLY | unix.O_TRUNC, "create trunc": unix.O_WRONLY | unix.O_CREAT | unix.O_TRUNC, "create ro": unix.O_RDONLY | unix.O_CREAT,
		"trunc ro": unix.O_RDONLY | unix.O_TRUNC, "nofollow": unix.O_WRONLY | unix.O_NOFOLLOW, "create nofollow": unix.O_WRONLY | unix.O_CREAT | unix.O_NOFOLLOW,
		"dir": unix.O_WRONLY | unix.O_DIRECTORY, "temp": unix.O_TMPFILE | unix.O_RDWR, "temp excl": unix.O_TMPFILE | unix.O_WRONLY | unix.O_EXCL,
	}
	paths := []string{
		"mine", "readonly", "group", "other", "all", "setuid", "shut/file", "link", "dangling", "deep", "loop", "none", "none/none", "open", "open/new",
		"open/new/", "mine/", "mine/x", "shut/new", "sticky/new", "setgid/new", "open/.", "open/..", ".", "shut", "link/", "dangling/",
		"open/" + string(bytes.Repeat([]byte("n"), 255)), "open/" + string(bytes.Repeat([]byte("n"), 256)),
	}
	container := target.User{Caps: 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_CHOWN | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID}
	for name, user := range map[string]target.User{"alice": alice, "root": container, "root without capabilities": {}} {
		for how, flags := range flags {
			var local, remote string // made anew when something has changed
			var fresh []string
			for _, path := range paths {
				if fresh == nil {
					local, remote = shared(t), shared(t)
					world(t, local)
					world(t, remote)
					fresh = listing(t, local)
				}
				var want, got string
				disk := tree(t, local, user)
				_ = disk.act(0, func() error {
					fd, err := unix.Open(filepath.Join(local)+"/"+path, flags|unix.O_CLOEXEC, 0o6664)
					want = result(fd, err)
					return nil
				})
				h := tree(t, remote, user).Handles()
				reply, _, err := h.Open(opening("/"+path, flags, 0o6664))
				if err != nil {
					got = result(-1, err)
				} else {
					o, _ := h.get(reply.Handle)
					got = result(int(o.file.Fd()), nil)
				}
				h.CloseAll()
				now := listing(t, local)
				if diff := cmp.Diff(now, listing(t, remote)); want != got || diff != "" {
					t.Errorf("%s opens %.20s to %s: %s, want %s\n%s", name, path, how, got, want, diff)
				}
				if !slices.Equal(now, fresh) {
					fresh = nil
				}
			}
		}
	}
}

// result tells what was opened, and closes it.
func result(fd int, err error) string {
	if err != nil {
		errno, _ := errors.AsType[unix.Errno](err)
		return unix.ErrnoName(errno)
	}
	defer unix.Close(fd)
	flags, _ := unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0)
	var st unix.Stat_t
	_ = unix.Fstat(fd, &st)
	return fmt.Sprintf("access %d mode %o owner %d:%d size %d links %d", flags&unix.O_ACCMODE, st.Mode, st.Uid, st.Gid, st.Size, st.Nlink)
}

// listing is what there is below a directory.
func listing(t *testing.T, dir string) []string {
	t.Helper()
	var list []string
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		var st unix.Stat_t
		if err = errors.Join(err, unix.Lstat(path, &st)); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			st.Size = 0 // is the disk's business
		}
		list = append(list, fmt.Sprintf("%s %o %d:%d %d", path[len(dir):], st.Mode, st.Uid, st.Gid, st.Size))
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestOpenChangeTouchesNoDevice(t *testing.T) {
	dir, h := build(t, root)
	for _, q := range []protocol.Open{opening("/fifo", unix.O_WRONLY, 0), opening("/fifo", unix.O_RDWR|unix.O_CREAT, 0o600)} {
		if _, _, err := h.Open(q); !errors.Is(err, unix.ENXIO) {
			t.Errorf("a FIFO opened to write: %v", err)
		}
	}
	if _, _, err := h.Open(opening("/../outside", unix.O_WRONLY|unix.O_CREAT, 0o600)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "outside")); err != nil {
		t.Errorf("what is made above the root is not made in it: %v", err)
	}
	if _, _, err := h.Open(opening("/magic", unix.O_WRONLY, 0)); err == nil {
		t.Error("a magic link was followed")
	}
}

// Who opens or makes a file has one, whenever others make and remove it.
func TestOpenChangeRaces(t *testing.T) {
	dir, h := build(t, root)
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 100 {
				reply, _, err := h.Open(opening("/raced", unix.O_RDWR|unix.O_CREAT, 0o600))
				if err != nil {
					t.Error(err)
					return
				}
				h.Close(protocol.Close{Handle: reply.Handle})
				if err := os.Remove(filepath.Join(dir, "raced")); err != nil && !errors.Is(err, os.ErrNotExist) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

// A writer is a file that a client has open.
type writer struct {
	t      *testing.T
	h      *Handles
	handle uint64
	attr   protocol.Attr
}

func openWriter(t *testing.T, h *Handles, path string, flags int) *writer {
	t.Helper()
	reply, _, err := h.Open(opening(path, flags, 0o644))
	if err != nil {
		t.Fatal(err)
	}
	return &writer{t, h, reply.Handle, reply.Attr}
}

func (w *writer) do(q protocol.Write, data string) protocol.WriteReply {
	w.t.Helper()
	q.Handle = w.handle
	r, err := w.h.Write(q, []byte(data))
	if err != nil {
		w.t.Fatalf("%+v: %v", q, err)
	}
	return r
}

func TestWrite(t *testing.T) {
	dir, h := build(t, root)
	w := openWriter(t, h, "/new", unix.O_RDWR|unix.O_CREAT)
	want := func(content string) {
		t.Helper()
		if got, err := os.ReadFile(filepath.Join(dir, "new")); string(got) != content {
			t.Errorf("file is %q, %v; want %q", got, err, content)
		}
	}
	first := w.do(protocol.Write{}, "hello")
	if first.Before != w.attr.Stamp() || first.Attr.Size != 5 {
		t.Errorf("first reply %+v after %+v", first, w.attr)
	}
	w.do(protocol.Write{Offset: 7}, "x")
	want("hello\x00\x00x")
	w.do(protocol.Write{Offset: 1, Flags: protocol.WriteAppend | protocol.WriteSynced}, "end")
	w.do(protocol.Write{Offset: 0, Flags: protocol.WriteDataOnly}, "H")
	want("Hello\x00\x00xend")
	size, mode, ns := int64(4), uint32(0o600), int64(1e18+5)
	r := w.do(protocol.Write{Do: protocol.WriteAttr, Set: &protocol.SetAttr{Size: &size, Mode: &mode, Mtime: &protocol.Time{NS: ns}}}, "")
	want("Hell")
	if r.Attr.Size != 4 || r.Attr.Mode&0o7777 != 0o600 || r.Attr.Mtime != ns {
		t.Errorf("attributes %+v", r.Attr)
	}
	w.do(protocol.Write{Do: protocol.WriteAttr, Set: &protocol.SetAttr{Mtime: &protocol.Time{Now: true}}}, "")
	if got := w.do(protocol.Write{Do: protocol.WriteStat}, ""); got.Attr.Mtime == ns || got.Before != got.Attr.Stamp() {
		t.Errorf("attributes %+v", got)
	}
	w.do(protocol.Write{Do: protocol.WriteSync}, "")
	w.do(protocol.Write{Do: protocol.WriteSync, Flags: protocol.WriteDataOnly}, "")
	w.do(protocol.Write{Do: protocol.WriteAllocate, Offset: 0, Length: 1 << 20}, "")
	w.do(protocol.Write{Do: protocol.WriteAllocate, Flags: unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE, Offset: 4096, Length: 1 << 19}, "")
	if r := w.do(protocol.Write{Do: protocol.WriteSeek, Whence: unix.SEEK_HOLE}, ""); r.Offset != 4096 || r.Attr.Size != 1<<20 {
		t.Errorf("hole at %d of %d", r.Offset, r.Attr.Size)
	}
	for name, c := range map[string]struct {
		q    protocol.Write
		want error
	}{
		"handle":   {protocol.Write{Handle: 99}, unix.EBADF},
		"negative": {protocol.Write{Handle: w.handle, Offset: -1}, unix.EINVAL},
		"whence":   {protocol.Write{Handle: w.handle, Do: protocol.WriteSeek, Whence: io.SeekEnd}, unix.EINVAL},
		"nothing":  {protocol.Write{Handle: w.handle, Do: protocol.WriteAttr}, unix.EINVAL},
		"unknown":  {protocol.Write{Handle: w.handle, Do: 99}, unix.ENOSYS},
	} {
		if _, err := h.Write(c.q, []byte("xx")); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
}

// A program of another's loses the bits by which it runs as that one, as on a
// local disk, whatever is done to its content.
func TestWriteTakesSetuidAway(t *testing.T) {
	asRoot(t)
	size := int64(3)
	for name, test := range map[string]struct {
		q     protocol.Write
		local func(fd int) error
	}{
		"write":    {protocol.Write{}, func(fd int) error { _, err := unix.Pwrite(fd, []byte("data"), 0); return err }},
		"truncate": {protocol.Write{Do: protocol.WriteAttr, Set: &protocol.SetAttr{Size: &size}}, func(fd int) error { return unix.Ftruncate(fd, size) }},
		"allocate": {protocol.Write{Do: protocol.WriteAllocate, Length: 100}, func(fd int) error { return unix.Fallocate(fd, 0, 0, 100) }},
	} {
		for who, user := range map[string]target.User{"alice": alice, "may keep": {UID: 1000, GID: 2000, Caps: 1 << unix.CAP_FSETID}} {
			local, remote := shared(t), shared(t)
			for _, dir := range []string{local, remote} {
				file := filepath.Join(dir, "program")
				if err := errors.Join(os.WriteFile(file, []byte("0123456789"), 0o600), unix.Chmod(file, 0o6777)); err != nil {
					t.Fatal(err)
				}
			}
			err := tree(t, local, user).act(0, func() error {
				fd, err := unix.Open(filepath.Join(local, "program"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
				if err != nil {
					return err
				}
				defer unix.Close(fd)
				return test.local(fd)
			})
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			h := tree(t, remote, user).Handles()
			openWriter(t, h, "/program", unix.O_WRONLY).do(test.q, "data")
			h.CloseAll()
			if want, got := listing(t, local), listing(t, remote); !slices.Equal(want[1:], got[1:]) {
				t.Errorf("%s, %s: %q, want %q", name, who, got, want)
			}
		}
	}
}

// What the disk refuses is told by its errno.
func TestWriteErrors(t *testing.T) {
	asRoot(t)
	dir, h := build(t, root)
	mount := func(name, kind string, flags uintptr, data string) {
		t.Helper()
		at := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(at, 0o755), unix.Mount(kind, at, kind, flags, data)); err != nil {
			t.Skip("mounting:", err)
		}
		t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	}
	mount("small", "tmpfs", 0, "size=64k")
	w := openWriter(t, h, "/small/f", unix.O_WRONLY|unix.O_CREAT)
	if _, err := h.Write(protocol.Write{Handle: w.handle}, make([]byte, 1<<20)); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("a full disk: %v", err)
	}
	h.Close(protocol.Close{Handle: w.handle})
	mount("ro", "tmpfs", 0, "")
	if err := os.WriteFile(filepath.Join(dir, "ro/f"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", filepath.Join(dir, "ro"), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	for _, q := range []protocol.Open{opening("/ro/f", unix.O_WRONLY, 0), opening("/ro/new", unix.O_WRONLY|unix.O_CREAT, 0o600)} {
		if _, _, err := h.Open(q); !errors.Is(err, unix.EROFS) {
			t.Errorf("%s on a read-only file system: %v", q.Path, err)
		}
	}
	binary := filepath.Join(dir, "sleep")
	if err := exec.Command("cp", "/bin/sleep", binary).Run(); err != nil {
		t.Fatal(err)
	}
	running := exec.Command(binary, "60")
	if err := running.Start(); err != nil {
		t.Fatal(err)
	}
	defer running.Wait()
	defer running.Process.Kill()
	if _, _, err := h.Open(opening("/sleep", unix.O_WRONLY, 0)); !errors.Is(err, unix.ETXTBSY) {
		t.Errorf("a running program: %v", err)
	}
	read := openWriter(t, h, "/secret", unix.O_RDONLY|unix.O_CREAT)
	if _, err := h.Write(protocol.Write{Handle: read.handle}, []byte("x")); !errors.Is(err, unix.EBADF) {
		t.Errorf("writing what is open for reading: %v", err)
	}
}

// What is to be tried again is, but not for ever.
func TestPersisting(t *testing.T) {
	for _, errno := range []unix.Errno{unix.EAGAIN, unix.EINTR} {
		tries := 0
		n, err := persisting(func() (int, error) {
			if tries++; tries == 3 {
				return 7, nil
			}
			return -1, errno
		})
		if n != 7 || err != nil || tries != 3 {
			t.Errorf("%v twice: %d, %v after %d tries", errno, n, err, tries)
		}
		if _, err := persisting(func() (int, error) { return -1, errno }); err != errno {
			t.Errorf("always %v: %v", errno, err)
		}
	}
	if _, err := persisting(func() (int, error) { return -1, unix.EIO }); err != unix.EIO {
		t.Error(err)
	}
}

// What is open for writing is neither kept by leases, nor told whole.
func TestNoLeaseOfWhatIsWritten(t *testing.T) {
	dir, h := build(t, root)
	l, err := h.Watch()
	if err != nil {
		t.Fatal(err)
	}
	expired := make(chan protocol.Expired, 1)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			e, err := l.Next()
			if err != nil {
				return
			}
			expired <- e
		}
	}()
	defer func() { <-ended }()
	defer h.Unwatch(l)
	ask := func() protocol.OpenReply {
		t.Helper()
		r, _, err := h.Open(protocol.Open{Path: "/etc/shop/config.yaml", Inline: 1 << 16, Lease: true})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	before := ask()
	if before.Lease.ID == 0 || before.Handle != 0 {
		t.Fatalf("nobody writes, but %+v", before)
	}
	w := openWriter(t, h, "/etc/shop/..data/config.yaml", unix.O_RDWR)
	if e := <-expired; len(e.IDs) != 1 || e.IDs[0] != before.Lease.ID {
		t.Errorf("opening expired %+v, want lease %d", e, before.Lease.ID)
	}
	if r := ask(); r.Lease.ID != 0 || r.Handle == 0 {
		t.Errorf("while it is open for writing: %+v", r)
	}
	if r, _, err := h.Stat(protocol.Stat{Path: "/etc/shop/config.yaml", Lease: true}); err != nil || r.Lease.ID != 0 {
		t.Errorf("while it is open for writing: %+v, %v", r, err)
	}
	if _, _, err := h.Close(protocol.Close{Handle: w.handle}); err != nil {
		t.Fatal(err)
	}
	if r := ask(); r.Lease.ID == 0 || r.Handle != 0 {
		t.Errorf("nobody writes any more, but %+v", r)
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/shop/config.yaml"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	<-expired
}
