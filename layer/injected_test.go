package layer

import (
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// What was forgotten is not taken for a file of this machine; and files do not
// make directories be forgotten.
func TestForgottenFiles(t *testing.T) {
	root := filepath.Join(t.TempDir(), "nodes")
	for node := range uint64(4) {
		if err := os.MkdirAll(filepath.Join(root, wire.NodeName(node)), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	server, err := os.Open(root)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	l := new(Layer)
	l.files.init(server)
	l.files.max = 2
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here := call{l: l, hook: &hook{dir: 0, path: no, flags: no}}
	here.TID = uint32(unix.Gettid())

	dir, err := os.Open(filepath.Join(root, wire.NodeName(0)))
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	here.Args[0] = uint64(dir.Fd())
	t.Chdir(dir.Name())
	memfd := func() int {
		fd, err := newFollowable([]byte("text"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		given, err := l.files.openMemfd(fd, &file{path: "/file", attr: protocol.Attr{Mode: unix.S_IFREG | 0o644}})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(given) })
		return given
	}
	first := memfd()
	l.files.addNode(0, &file{path: "/dir", attr: protocol.Attr{Mode: unix.S_IFDIR}})
	memfd()
	for node := range uint64(3) { // more files than are remembered
		l.files.addNode(10+node, &file{path: "/big", attr: protocol.Attr{Mode: unix.S_IFREG}})
	}
	for name, at := range map[string]int8{"descriptor": 0, "working directory": no} {
		c := here
		if path, ok := c.directory(at); !ok || path != "/dir" || c.doubt != nil {
			t.Errorf("%s: %q, %v, %v", name, path, ok, c.doubt)
		}
	}
	one := here
	one.Args[0] = uint64(first)
	if c := one; l.files.byFD(&c, int32(first)) == nil {
		t.Error("the first file is forgotten early")
	}
	memfd()
	if c := one; !quickFile(&c) || c.doubt == nil {
		t.Error("a forgotten file is left to the kernel")
	}
	one.path = "/proc/self/fd/" + strconv.Itoa(first)
	one.hook = &hook{dir: no, path: 0, flags: no}
	if c := one; !c.throughFD() || c.doubt == nil {
		t.Error("a forgotten file is left to the kernel, by its path in /proc")
	}
	for node := range uint64(2) {
		l.files.addNode(1+node, &file{path: "/other", attr: protocol.Attr{Mode: unix.S_IFDIR}})
	}
	for name, at := range map[string]int8{"descriptor": 0, "working directory": no} {
		c := here
		if path, ok := c.directory(at); ok || c.doubt == nil {
			t.Errorf("a forgotten %s is %q", name, path)
		}
	}
	// What is called alike and is of this machine is not in doubt.
	t.Chdir(t.TempDir())
	c := here
	if path, ok := c.directory(no); !ok || path == "" || c.doubt != nil {
		t.Errorf("%q, %v, %v", path, ok, c.doubt)
	}
}
