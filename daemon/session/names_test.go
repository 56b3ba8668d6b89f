package session

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/protocol/layer"
)

// A name is bytes, not text: what is asked by one that is not UTF-8 is asked of
// the file of just that name.
func TestNamesAreBytes(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	dir := filepath.Join(t.TempDir(), "caf\xe9")
	file, link := filepath.Join(dir, "a\xe9"), filepath.Join(dir, "\xff")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte("bytes"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("a\xe9", link); err != nil {
		t.Fatal(err)
	}
	ask := func(r layer.Request) layer.Reply {
		t.Helper()
		reply, _ := c.call(r)
		if reply.Errno != 0 {
			t.Errorf("op %d: %v: %s", r.Op, unix.Errno(reply.Errno), reply.Data)
		}
		return reply
	}
	if r := ask(layer.Request{Op: layer.OpOpen, Path: link}); r.Attr.Size != 5 || text(r) != file {
		t.Errorf("opened: %d bytes of %q", r.Attr.Size, r.Data)
	}
	if r := ask(layer.Request{Op: layer.OpStat, Path: link}); r.Attr.Size != 5 {
		t.Errorf("stat: %+v", r.Attr)
	}
	if r := ask(layer.Request{Op: layer.OpStat, Flags: layer.OpenNoFollow, Path: link}); text(r) != "a\xe9" {
		t.Errorf("the link: %q", r.Data)
	}
	ask(layer.Request{Op: layer.OpAccess, Path: file, Mode: unix.R_OK})
	if r, _ := c.call(layer.Request{Op: layer.OpXattr, Path: file + "\x00user.\xff"}); unix.Errno(r.Errno) != unix.ENODATA && unix.Errno(r.Errno) != unix.EOPNOTSUPP {
		t.Errorf("xattr: %v: %s", unix.Errno(r.Errno), r.Data)
	}
	withNodes(t, c)
	made := c.writable(filepath.Join(dir, "new\xe9"), layer.OpenWrite|layer.OpenCreate)
	c.open(made, unix.O_WRONLY)
	if r := ask(layer.Request{Op: layer.OpStat, Path: filepath.Join(dir, "new\xe9")}); r.Attr.Ino != made.Attr.Ino {
		t.Errorf("made file %d is file %d", made.Attr.Ino, r.Attr.Ino)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 3 || entries[1].Name() != "new\xe9" {
		t.Errorf("the directory has %q, %v", entries, err)
	}
}

func text(r layer.Reply) string {
	text, _ := layer.CutXattrs(r.Data)
	return text
}
