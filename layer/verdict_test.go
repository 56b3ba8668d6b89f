package layer

import (
	"log/slog"
	"net"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	"mirrord/protocol/ide"
)

// A path's verdict is the same whichever call asks.
func TestVerdictsAgree(t *testing.T) {
	remote := t.TempDir()
	p, err := policy.New(ide.Policy{
		FSMode: "read", Local: []string{"^/srv/mine"}, NotFound: []string{"^/srv/none"}, ReadOnly: []string{"^/usr/share/theirs", "^" + remote},
		Mapping: map[string]string{"^/old": "/srv/new", "^/usr/moved": "/srv/moved", "^/here": "/usr/here"},
	}, policy.Client{Dir: "/home/dev/shop", Home: "/home/dev"})
	if err != nil {
		t.Fatal(err)
	}
	socket, gone := remote+"/s", remote+"/gone"
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	l := New(slog.New(slog.DiscardHandler), Config{Policy: p, Daemon: &Client{}})
	l.bound.add(socket)
	l.bound.add(gone)
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	for path, local := range map[string]bool{
		"/srv/x": false, "/srv/mine/x": true, "/srv/none/x": false, "/usr/share/theirs": false, "/usr/share/mine": true,
		"/home/dev/x": true, "/proc/self/status": true, "/etc/ssl/certs/ca.pem": false, "/srv/lib.so": true,
		"/old/x": false, "/usr/moved/x": false, "/here/x": false, "/srv/x/../../usr/lib": false, "/usr/../srv/x": false,
		"/srv/../usr/x": false, "//srv//./x": false, "/home/dev/../../srv/x": false,
		"/proc/self/root/srv/x": false, "/proc/self/root/usr/x": true, "//proc/./thread-self/root/proc/self/root/srv/x": false, "/proc/self/root": true,
		socket: true, filepath.Dir(socket) + "/./../" + filepath.Base(filepath.Dir(socket)) + "/s": true, socket + "x": false, gone: false,
	} {
		if got := p.Path(path); got.Path == "" && !isSocket(path) && !strings.Contains(path, "/root/") && (got.Kind == policy.Local) != local {
			t.Errorf("%s is %v", path, got)
		}
		text := append([]byte(path), 0)
		how := unix.OpenHow{}
		for _, h := range hooks {
			c := call{l: l, hook: &h, buf: new([seccomp.MaxPath]byte)}
			c.TID = uint32(unix.Gettid())
			switch binds := h.Call == seccomp.Bind; {
			case binds && len(path) < 100:
				addr := append([]byte{unix.AF_UNIX, 0}, text...)
				c.Args[1], c.Args[2] = uint64(uintptr(unsafe.Pointer(&addr[0]))), uint64(len(addr))
				if got := h.quick(&c); got != local || c.doubt != nil {
					t.Errorf("bind thinks of %s that it is local: %v (doubt: %v), want %v", path, got, c.doubt, local)
				}
				continue
			case h.group != files && h.group != programs || h.path == no:
				continue
			}
			atCwd := -100
			if h.dir != no {
				c.Args[h.dir] = uint64(atCwd)
			}
			c.Args[h.path] = uint64(uintptr(unsafe.Pointer(&text[0])))
			switch h.Call.String() {
			case "openat2":
				c.Args[2], c.Args[3] = uint64(uintptr(unsafe.Pointer(&how))), unix.SizeofOpenHow
			case "rename", "link", "renameat", "renameat2", "linkat":
				second := h.path + 1
				if h.dir != no {
					c.Args[h.dir+2], second = uint64(atCwd), h.path+2
				}
				c.Args[second] = c.Args[h.path]
			}
			if got := h.quick(&c); got != local || c.doubt != nil {
				t.Errorf("%v thinks of %s that it is local: %v (doubt: %v), want %v", h.Call, path, got, c.doubt, local)
			}
		}
		runtime.KeepAlive(text)
	}
}
