package files

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/layer"
)

func TestMain(m *testing.M) {
	Serve()
	debuggee()
	goleak.VerifyTestMain(m)
}

// A disk is a Source over files of this machine.
type disk struct {
	zeros    // nothing of it is shared
	released chan uint64
	read     atomic.Int64 // bytes asked for
	hold     atomic.Pointer[hold]

	mu    sync.Mutex
	files []*os.File // by node
}

// A hold delays the reads of a disk.
type hold struct {
	asked chan request  // gets each read when it begins
	let   chan struct{} // closed: reads may end
}

func newHold() *hold { return &hold{make(chan request, 100), make(chan struct{})} }

func newDisk(t testing.TB) *disk {
	d := &disk{released: make(chan uint64, 1000)}
	t.Cleanup(func() {
		for _, f := range d.files {
			f.Close()
		}
	})
	return d
}

// add makes a node of a path.
func (d *disk) add(t testing.TB, path string) uint64 {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.files = append(d.files, f)
	return uint64(len(d.files) - 1)
}

func (d *disk) file(node uint64) (*os.File, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if node >= uint64(len(d.files)) {
		return nil, syscall.ENOENT
	}
	return d.files[node], nil
}

func (d *disk) Attr(_ context.Context, node uint64) (protocol.Attr, error) {
	f, err := d.file(node)
	if err != nil {
		return protocol.Attr{}, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return protocol.Attr{}, err
	}
	return protocol.Attr{
		Dev: st.Dev, Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Rdev: st.Rdev,
		Size: st.Size, Blksize: int64(st.Blksize), Blocks: st.Blocks,
		Atime: st.Atim.Nano(), Mtime: st.Mtim.Nano(), Ctime: st.Ctim.Nano(),
	}, nil
}

func (d *disk) Read(ctx context.Context, node uint64, p []byte, off int64) (int, error) {
	f, err := d.file(node)
	if err != nil {
		return 0, err
	}
	d.read.Add(int64(len(p)))
	if h := d.hold.Load(); h != nil {
		h.asked <- request{op: opRead, n: uint32(len(p)), node: node, off: off}
		select {
		case <-h.let:
		case <-ctx.Done():
			return 0, ctx.Err()
		}
	}
	n, err := f.ReadAt(p, off)
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// ReadDir tells three entries at a time.
func (d *disk) ReadDir(_ context.Context, node uint64, off int) ([]protocol.DirEntry, bool, error) {
	f, err := d.file(node)
	if err != nil {
		return nil, false, err
	}
	entries, err := os.ReadDir(f.Name())
	if err != nil {
		return nil, false, err
	}
	var list []protocol.DirEntry
	for _, e := range entries[min(off, len(entries)):] {
		if len(list) == 3 {
			return list, true, nil
		}
		info, err := e.Info()
		if err != nil {
			return nil, false, err
		}
		st := info.Sys().(*syscall.Stat_t)
		list = append(list, protocol.DirEntry{Ino: st.Ino, Type: uint8(st.Mode >> 12), Name: e.Name()})
	}
	return list, false, nil
}

func (d *disk) Released(node uint64) { d.released <- node }

// serveDisk starts a file server, or skips where there can be none.
func serveDisk(t testing.TB, d Source) *Server {
	t.Helper()
	if err := Available(); err != nil {
		t.Skip(err)
	}
	s, err := Start(t.Context(), slog.New(slog.DiscardHandler), d)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return s
}

// open opens a node as a launcher does.
func open(s *Server, node uint64, flags int) (*os.File, error) {
	for {
		fd, err := unix.Openat(int(s.Root().Fd()), layer.NodeName(node), flags|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), layer.NodeName(node)), nil
	}
}

func mustOpen(t testing.TB, s *Server, node uint64) *os.File {
	t.Helper()
	f, err := open(s, node, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

// bigFile writes size bytes that differ everywhere.
func bigFile(t testing.TB, size int) (path string, content []byte) {
	t.Helper()
	content = make([]byte, size)
	x := uint64(88172645463325252)
	for i := range content {
		if i%8 == 0 {
			x ^= x << 13
			x ^= x >> 7
			x ^= x << 17
		}
		content[i] = byte(x >> (i % 8 * 8))
	}
	path = filepath.Join(t.TempDir(), "big")
	if err := os.WriteFile(path, content, 0o640); err != nil {
		t.Fatal(err)
	}
	return path, content
}
