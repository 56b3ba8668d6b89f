package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/agent/target"
	"mirrord/protocol"
)

// Attributes are told as the kernel tells them to the target's user.
func TestXattr(t *testing.T) {
	dir, h := build(t, target.User{UID: 65534, GID: 65534})
	file := filepath.Join(dir, "secret")
	for name, value := range map[string]string{"user.origin": "shop", "trusted.origin": "root's", "user.empty": ""} {
		if err := unix.Setxattr(file, name, []byte(value), 0); err != nil {
			t.Skipf("needs root, and a file system that has extended attributes: %v", err)
		}
	}
	for _, test := range []struct {
		path, name, want string
		err              error
	}{
		{"/secret", "user.origin", "shop", nil},
		{"/etc/up", "user.origin", "shop", nil}, // by a link
		{"/secret", "user.empty", "", nil},
		{"/secret", "user.none", "", unix.ENODATA},
		{"/secret", "trusted.origin", "", unix.ENODATA},
		{"/secret", "nonsense", "", unix.EOPNOTSUPP},
		{"/fifo", "user.origin", "", unix.ENODATA},
		{"/none", "user.origin", "", unix.ENOENT},
	} {
		_, value, err := h.Xattr(protocol.Xattr{Path: protocol.Path(test.path), Name: protocol.Path(test.name)})
		if string(value) != test.want || !errors.Is(err, test.err) {
			t.Errorf("%s of %s: %q, %v, want %q, %v", test.name, test.path, value, err, test.want, test.err)
		}
	}
	names := func(h *Handles, path string, noFollow bool) string {
		_, names, err := h.Xattr(protocol.Xattr{Path: protocol.Path(path), NoFollow: noFollow})
		if err != nil {
			t.Error(err)
		}
		return string(names)
	}
	if got := len(names(h, "/secret", false)); got != len("user.origin\x00user.empty\x00") {
		t.Errorf("names of %d bytes", got)
	}
	if got := names(h, "/etc/up", true); got != "" {
		t.Errorf("of the link itself: %q", got)
	}
	all := New(h.root, target.User{Caps: 1<<unix.CAP_SYS_ADMIN | root.Caps}).Handles()
	if got := len(names(all, "/secret", false)); got != len("user.origin\x00user.empty\x00trusted.origin\x00") {
		t.Errorf("names of %d bytes for who may know all", got)
	}
	if err := os.Chmod(file, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := h.Xattr(protocol.Xattr{Path: "/secret", Name: "user.origin"}); !errors.Is(err, unix.EACCES) {
		t.Errorf("of a file that cannot be read: %v", err)
	}
}

// What is told beside attributes is what would be answered to who asks.
func TestBeside(t *testing.T) {
	dir, h := build(t, target.User{UID: 65534, GID: 65534})
	file := filepath.Join(dir, "secret")
	if err := errors.Join(os.Chmod(file, 0o644), unix.Setxattr(file, "user.origin", []byte("shop"), 0), unix.Setxattr(file, "trusted.origin", []byte("root's"), 0)); err != nil {
		t.Skipf("needs root, and a file system that has extended attributes: %v", err)
	}
	if err := errors.Join(os.Chmod(dir+"/empty", 0o711), unix.Setxattr(dir+"/empty", "user.origin", []byte("shop"), 0), os.Chmod(dir+"/over", 0o600)); err != nil {
		t.Fatal(err)
	}
	l, err := h.Watch()
	if err != nil {
		t.Fatal(err)
	}
	defer h.Unwatch(l)
	for path, want := range map[string]protocol.Beside{
		"/secret":  {May: unix.R_OK, Xattrs: protocol.AppendXattr(nil, "user.origin", []byte("shop"))},
		"/empty":   {May: unix.X_OK}, // whose attribute cannot be read
		"/over":    {Xattrs: []byte{}},
		"/etc":     {May: unix.R_OK | unix.X_OK, Xattrs: []byte{}},
		"/etc/up":  {Link: "../../../../secret", May: unix.R_OK | unix.X_OK, Xattrs: []byte{}},
		"/fifo":    {May: unix.R_OK, Xattrs: []byte{}},
		"/missing": {},
	} {
		r, _, err := h.Stat(protocol.Stat{Path: protocol.Path(path), NoFollow: true, Lease: true})
		if diff := cmp.Diff(want, r.Beside); diff != "" || (err != nil) != (path == "/missing") {
			t.Errorf("%s: %v (-want +got):\n%s", path, err, diff)
		}
		for _, mode := range []uint32{unix.R_OK, unix.X_OK} {
			if want.Link != "" || err != nil {
				continue
			}
			_, _, err := h.Access(protocol.Access{Path: protocol.Path(path), Mode: mode})
			if got := err == nil; got != (r.May&mode != 0) {
				t.Errorf("access to %s by %d: %v", path, mode, err)
			}
		}
	}
	r, _, err := h.Open(protocol.Open{Path: "/secret", Inline: 100, Lease: true})
	if err != nil || r.May != unix.R_OK || len(r.Xattrs) == 0 {
		t.Errorf("opened: %+v, %v", r.Beside, err)
	}
	if err := unix.Setxattr(file, "user.large", make([]byte, maxXattrs), 0); err != nil {
		t.Fatal(err)
	}
	if r, _, err := h.Stat(protocol.Stat{Path: "/secret", Lease: true}); err != nil || r.Xattrs != nil {
		t.Errorf("large attributes: %d bytes, %v", len(r.Xattrs), err)
	}
}
