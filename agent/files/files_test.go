package files

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// root passes every permission by, as a container's root does.
var root = target.User{Caps: 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH}

// build makes a tree as a container with mounted volumes has it, and one
// client's view of it.
func build(t *testing.T, user target.User) (dir string, h *Handles) {
	t.Helper()
	outside := t.TempDir()
	dir = filepath.Join(outside, "root")
	write := func(name, content string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, []byte(content), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	link := func(text, name string) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.Symlink(text, name)); err != nil {
			t.Fatal(err)
		}
	}
	write("../secret", "developer's or node's")
	write("secret", "target's")
	write("etc/shop/..2026/config.yaml", "colour: blue\n")
	link("..2026", "etc/shop/..data")
	link("..data/config.yaml", "etc/shop/config.yaml")
	link("/etc/shop/config.yaml", "absolute")
	link("../../../../secret", "etc/up")
	link("/etc/../../../secret", "etc/round")
	link("loop2", "loop1")
	link("loop1", "loop2")
	link("missing", "dangling")
	link("/proc/self/root/secret", "magic")
	write("limit", strings.Repeat("x", 64<<10))
	write("over", strings.Repeat("y", 64<<10+1))
	write("empty", "")
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), dir)
	h = New(f, user).Handles()
	t.Cleanup(func() {
		h.CloseAll()
		f.Close()
	})
	return dir, h
}

func TestOpenResolves(t *testing.T) {
	_, h := build(t, root)
	for path, want := range map[string]struct{ path, content string }{
		"/etc/shop/config.yaml":              {"/etc/shop/..2026/config.yaml", "colour: blue\n"},
		"/absolute":                          {"/etc/shop/..2026/config.yaml", "colour: blue\n"},
		"/etc/../../../../../secret":         {"/secret", "target's"},
		"/etc/up":                            {"/secret", "target's"},
		"/etc/round":                         {"/secret", "target's"},
		"//etc/./shop/..data//config.yaml":   {"/etc/shop/..2026/config.yaml", "colour: blue\n"},
		"/limit":                             {"/limit", strings.Repeat("x", 64<<10)},
		"/empty":                             {"/empty", ""},
		"/etc/shop/..data/../../../../empty": {"/empty", ""},
	} {
		reply, content, err := h.Open(protocol.Open{Path: protocol.Path(path), Inline: 64 << 10})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		if string(reply.Path) != want.path || string(content) != want.content || reply.Handle != 0 || reply.Attr.Size != int64(len(content)) {
			t.Errorf("%s: %+v with %d bytes", path, reply, len(content))
		}
	}
}

func TestOpenRefuses(t *testing.T) {
	dir, h := build(t, root)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	if err := unix.Bind(sock, &unix.SockaddrUnix{Name: filepath.Join(dir, "socket")}); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		q    protocol.Open
		want unix.Errno
	}{
		{protocol.Open{Path: "/loop1"}, unix.ELOOP},
		{protocol.Open{Path: "/dangling"}, unix.ENOENT},
		{protocol.Open{Path: "/missing"}, unix.ENOENT},
		{protocol.Open{Path: "/secret/below"}, unix.ENOTDIR},
		{protocol.Open{Path: "/secret", Directory: true}, unix.ENOTDIR},
		{protocol.Open{Path: "/secret/"}, unix.ENOTDIR},
		{protocol.Open{Path: "/absolute", NoFollow: true}, unix.ELOOP},
		{protocol.Open{Path: "/fifo"}, unix.ENXIO},
		{protocol.Open{Path: "/socket"}, unix.ENXIO},
		{protocol.Open{Path: "relative"}, unix.EINVAL},
		{protocol.Open{Path: ""}, unix.EINVAL},
		{protocol.Open{Path: "/nul\x00"}, unix.EINVAL},
		{protocol.Open{Path: protocol.Path("/" + strings.Repeat("x", 256))}, unix.ENAMETOOLONG},
		{protocol.Open{Path: protocol.Path(strings.Repeat("/x", 2100))}, unix.ENAMETOOLONG},
	}
	if unix.Mknod(filepath.Join(dir, "device"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))) == nil {
		tests = append(tests, struct {
			q    protocol.Open
			want unix.Errno
		}{protocol.Open{Path: "/device"}, unix.ENXIO})
	}
	for _, test := range tests {
		if reply, _, err := h.Open(test.q); !errors.Is(err, test.want) {
			t.Errorf("%+v: %+v, %v; want %v", test.q, reply, err, test.want)
		}
	}
}

// A process's magic links must not lead into the agent's own tree.
func TestMagicLinks(t *testing.T) {
	fd, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "/")
	defer f.Close()
	h := New(f, root).Handles()
	for _, path := range []string{"/proc/self/exe", "/proc/self/root/etc/passwd", "/proc/self/cwd"} {
		if _, _, err := h.Open(protocol.Open{Path: protocol.Path(path)}); !errors.Is(err, unix.ELOOP) {
			t.Errorf("%s: %v", path, err)
		}
	}
	// What procfs says has no size is whole only at its end.
	reply, content, err := h.Open(protocol.Open{Path: "/proc/version", Inline: 64 << 10})
	if err != nil || reply.Attr.Size != 0 || len(content) == 0 || reply.Path != "/proc/version" {
		t.Errorf("/proc/version: %+v, %d bytes, %v", reply, len(content), err)
	}
}

func TestReadHandle(t *testing.T) {
	_, h := build(t, root)
	reply, content, err := h.Open(protocol.Open{Path: "/over", Inline: 64 << 10})
	if err != nil || reply.Handle == 0 || content != nil {
		t.Fatalf("%+v, %d bytes, %v", reply, len(content), err)
	}
	read := func(off int64, n int) (int, error) {
		b := make([]byte, protocol.MaxPayload)
		got, err := h.Read(protocol.Read{Handle: reply.Handle, Offset: off, Len: n}, b)
		if len(bytes.Trim(b[:got], "y")) > 0 {
			t.Errorf("read %q", b[:got])
		}
		return got, err
	}
	for _, test := range []struct {
		off     int64
		n, want int
	}{{0, 100, 100}, {64 << 10, 100, 1}, {1 << 40, 100, 0}, {0, protocol.MaxPayload, 64<<10 + 1}, {0, 0, 0}} {
		if got, err := read(test.off, test.n); err != nil || got != test.want {
			t.Errorf("reading %d at %d: %d, %v", test.n, test.off, got, err)
		}
	}
	for _, bad := range []protocol.Read{
		{Handle: reply.Handle, Offset: -1, Len: 1},
		{Handle: reply.Handle, Len: -1},
		{Handle: reply.Handle, Len: protocol.MaxPayload + 1},
	} {
		if _, err := h.Read(bad, make([]byte, protocol.MaxPayload+1)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
	if _, _, err := h.ReadDir(protocol.ReadDir{Handle: reply.Handle}); !errors.Is(err, unix.ENOTDIR) {
		t.Errorf("listing a file: %v", err)
	}
	if _, _, err := h.Close(protocol.Close{Handle: reply.Handle}); err != nil {
		t.Error(err)
	}
	if _, err := read(0, 1); !errors.Is(err, unix.EBADF) {
		t.Errorf("reading a closed handle: %v", err)
	}
	if _, _, err := h.Close(protocol.Close{Handle: reply.Handle}); !errors.Is(err, unix.EBADF) {
		t.Errorf("closing twice: %v", err)
	}
}

// An answer claims to be whole only if the end of the file was seen, however
// the file changes meanwhile.
func TestOpenGrowingFile(t *testing.T) {
	dir, h := build(t, root)
	name := filepath.Join(dir, "growing")
	if err := os.WriteFile(name, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		f, err := os.OpenFile(name, os.O_WRONLY|os.O_APPEND, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		for size := 0; ; size += 1 << 10 {
			select {
			case <-stop:
				return
			default:
			}
			if size > 128<<10 {
				size = 0
				_ = f.Truncate(0)
			}
			_, _ = f.Write(bytes.Repeat([]byte("g"), 1<<10))
		}
	}()
	for end := time.Now().Add(300 * time.Millisecond); time.Now().Before(end); {
		reply, content, err := h.Open(protocol.Open{Path: "/growing", Inline: 64 << 10})
		switch {
		case err != nil:
			t.Fatal(err)
		case len(content) > 64<<10:
			t.Fatalf("%d bytes inline", len(content))
		case reply.Handle != 0:
			if len(content) > 0 {
				t.Fatalf("handle and %d bytes", len(content))
			}
			_, _, err = h.Close(protocol.Close{Handle: reply.Handle})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	<-done
}

func TestReadDir(t *testing.T) {
	dir, h := build(t, root)
	var want []string
	for i := range 3000 {
		name := fmt.Sprintf("%s-%04d", strings.Repeat("n", 40), i)
		want = append(want, name)
		if err := os.MkdirAll(filepath.Join(dir, "many", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	reply, _, err := h.Open(protocol.Open{Path: "/many", Directory: true, Inline: 64 << 10})
	if err != nil || reply.Handle == 0 {
		t.Fatalf("%+v, %v", reply, err)
	}
	list := func(off int) ([]protocol.DirEntry, bool) {
		t.Helper()
		r, payload, err := h.ReadDir(protocol.ReadDir{Handle: reply.Handle, Offset: off})
		if err != nil {
			t.Fatal(err)
		}
		entries, err := protocol.DirEntries(payload)
		if err != nil {
			t.Fatal(err)
		}
		return entries, r.More
	}
	for range 2 { // the second time it starts over
		var got []string
		answers := 0
		for more := true; more; answers++ {
			var part []protocol.DirEntry
			part, more = list(len(got))
			for _, e := range part {
				if e.Type != unix.DT_DIR || e.Ino == 0 {
					t.Fatalf("entry %+v", e)
				}
				got = append(got, e.Name)
			}
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, got); diff != "" || answers < 2 {
			t.Errorf("%d answers; -want +got:\n%s", answers, diff)
		}
	}
	all, _ := list(0)
	if some, _ := list(7); some[0] != all[7] {
		t.Errorf("entry 7 is %v and %v", some[0], all[7])
	}
	if rest, more := list(4000); len(rest) != 0 || more {
		t.Errorf("behind the end: %d entries, more %v", len(rest), more)
	}
	if _, err := h.Read(protocol.Read{Handle: reply.Handle, Len: 1}, make([]byte, 1)); !errors.Is(err, unix.EISDIR) {
		t.Errorf("reading a directory: %v", err)
	}
}

func TestStatAndReadlink(t *testing.T) {
	_, h := build(t, root)
	stat := func(q protocol.Stat) uint32 {
		t.Helper()
		r, _, err := h.Stat(q)
		if err != nil {
			t.Errorf("%+v: %v", q, err)
		}
		return r.Attr.Mode & unix.S_IFMT
	}
	if got := stat(protocol.Stat{Path: "/absolute"}); got != unix.S_IFREG {
		t.Errorf("followed link has type %#o", got)
	}
	if got := stat(protocol.Stat{Path: "/loop1", NoFollow: true}); got != unix.S_IFLNK {
		t.Errorf("link has type %#o", got)
	}
	if got := stat(protocol.Stat{Path: "/fifo"}); got != unix.S_IFIFO {
		t.Errorf("fifo has type %#o", got)
	}
	if r, _, err := h.Stat(protocol.Stat{Path: "/etc/shop/config.yaml", NoFollow: true}); err != nil || r.Link != "..data/config.yaml" {
		t.Errorf("link is %q, %v", r.Link, err)
	}
}

func TestPermissions(t *testing.T) {
	nobody := target.User{UID: 65534, GID: 65534, Groups: []uint32{2000}}
	dir, h := build(t, nobody)
	set := func(name string, uid, gid int, mode os.FileMode) {
		t.Helper()
		name = filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, nil, 0o600), os.Chown(name, uid, gid), os.Chmod(name, mode)); err != nil {
			t.Skip("needs root, to give files away: ", err)
		}
	}
	set("p/other", 1, 1, 0o644)
	set("p/root", 0, 0, 0o600)
	set("p/group", 0, 2000, 0o640)
	set("p/notgroup", 0, 2000, 0o604) // the group's bits count, not the others'
	set("p/own", 65534, 0, 0o400)
	set("p/run", 0, 0, 0o755)
	set("closed/open", 0, 0, 0o644)
	if err := os.Chmod(filepath.Join(dir, "closed"), 0o700); err != nil {
		t.Fatal(err)
	}
	const r, w, x = unix.R_OK, unix.W_OK, unix.X_OK
	for _, test := range []struct {
		path string
		mode uint32
		want error
	}{
		{"/p/other", r, nil}, {"/p/other", w, unix.EACCES}, {"/p/root", r, unix.EACCES}, {"/p/root", 0, nil},
		{"/p/group", r, nil}, {"/p/group", r | w, unix.EACCES}, {"/p/notgroup", r, unix.EACCES},
		{"/p/own", r, nil}, {"/p/own", w, unix.EACCES}, {"/p/run", r | x, nil}, {"/p/other", x, unix.EACCES},
		{"/closed/open", 0, unix.EACCES}, {"/closed", 0, nil}, {"/closed", x, unix.EACCES},
		{"/p/own", 8, unix.EINVAL}, {"/p/none", r, unix.ENOENT},
	} {
		if _, _, err := h.Access(protocol.Access{Path: protocol.Path(test.path), Mode: test.mode}); !errors.Is(err, test.want) {
			t.Errorf("access %s %o: %v, want %v", test.path, test.mode, err, test.want)
		}
		if test.mode != r {
			continue
		}
		if _, _, err := h.Open(protocol.Open{Path: protocol.Path(test.path), Inline: 1}); !errors.Is(err, test.want) {
			t.Errorf("open %s: %v, want %v", test.path, err, test.want)
		}
	}
	set("search/open", 0, 0, 0o644)
	if err := os.Chmod(filepath.Join(dir, "search"), 0o711); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		path   string
		search bool
		want   error
	}{{"/search", false, unix.EACCES}, {"/search", true, nil}, {"/closed", true, unix.EACCES}, {"/p/root", true, unix.ENOTDIR}} {
		o, list, err := h.Open(protocol.Open{Path: protocol.Path(test.path), Directory: true, Search: test.search, Inline: 1})
		if !errors.Is(err, test.want) || err == nil && o.Handle == 0 || list != nil {
			t.Errorf("open %s, search %v: %+v, %v, want %v", test.path, test.search, o, err, test.want)
		}
	}
	if _, _, err := h.Stat(protocol.Stat{Path: "/closed/open"}); !errors.Is(err, unix.EACCES) {
		t.Errorf("stat in a closed directory: %v", err)
	}
	privileged := New(h.root, root).Handles()
	for path, want := range map[string]error{"/p/root": nil, "/closed/open": nil} {
		if _, _, err := privileged.Open(protocol.Open{Path: protocol.Path(path), Inline: 1}); !errors.Is(err, want) {
			t.Errorf("root opens %s: %v", path, err)
		}
	}
	if _, _, err := privileged.Access(protocol.Access{Path: "/p/root", Mode: x}); !errors.Is(err, unix.EACCES) {
		t.Errorf("root executes what nobody may: %v", err)
	}
}

func TestHandleLimit(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if n := New(nil, root).MaxHandles; n != int(min(limit.Cur/2, 1<<16)) {
		t.Errorf("%d handles, where %d files may be open", n, limit.Cur)
	}
	_, h := build(t, root)
	h.MaxHandles = 100
	for range h.MaxHandles {
		if _, _, err := h.Open(protocol.Open{Path: "/over"}); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := h.Open(protocol.Open{Path: "/over"}); !errors.Is(err, unix.EMFILE) {
		t.Errorf("one too many: %v", err)
	}
	if _, _, err := h.Open(protocol.Open{Path: "/empty", Inline: 1}); err != nil {
		t.Errorf("inline needs no handle: %v", err)
	}
	h.CloseAll()
	if _, _, err := h.Open(protocol.Open{Path: "/over"}); !errors.Is(err, unix.EBADF) {
		t.Errorf("after the client's end: %v", err)
	}
}
