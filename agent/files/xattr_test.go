package files

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

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
