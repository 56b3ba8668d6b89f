package session

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/files/browse"
	"mirrord/layer"
	"mirrord/layer/policy"
	"mirrord/protocol/ide"
	wire "mirrord/protocol/layer"
)

// visit mounts the target's files for a person, who may change those in dir whose
// names are like names.
func visit(t *testing.T, m *Manager, id, dir, names string) (at string) {
	t.Helper()
	p, err := policy.New(ide.Policy{FSMode: "read", ReadWrite: []string{"^" + regexp.QuoteMeta(dir) + "/" + names}}, policy.Client{})
	if err != nil {
		t.Fatal(err)
	}
	tree, err := layer.DialTree(t.Context(), slog.New(slog.DiscardHandler), m.LayerSocket(), id, p)
	if err != nil {
		t.Fatal(err)
	}
	place := t.TempDir()
	mount, err := browse.Start(tree, place, true)
	if err != nil {
		tree.Close()
		t.Skip(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(mount.End(), tree.Close()); err != nil {
			t.Error(err)
		}
	})
	return place + dir
}

// A person changes files in every way there is, as on a disk.
func TestVisitorChangesFiles(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	withNodes(t, c)
	dir := t.TempDir()
	at := visit(t, m, s.ID, dir, "mount")
	old := unix.Umask(0o027)
	defer unix.Umask(old)
	for _, top := range []string{dir + "/disk", at + "/mount"} {
		out, err := exec.Command("sh", "-ec", `mkdir "$0"; cd "$0"; mkdir -m 750 d; echo one > d/f; echo two >> d/f; ln d/f hard; ln -s e/f soft
chmod 4711 d/f; touch -d @1000000000 hard; mv d e; : > e/empty; truncate -s 5 e/f; mkdir gone; rmdir gone; printf x > "$(printf 'caf\351')"
dd if=/dev/zero of=sparse bs=1 count=1 seek=100000 2>/dev/null; fallocate -l 4096 full; cp -p e/f copy; sync full; printf x | tee -a copy >/dev/null
if mkdir e 2>/dev/null || rm none 2>/dev/null || rmdir e 2>/dev/null || ln -s x soft 2>/dev/null; then echo wrong; fi
exec 3<> e/open; rm e/open; echo unseen >&3; chmod 600 /proc/self/fd/3 2>/dev/null || true; cat soft; git init -q repository; cd repository
git config user.name n; git config user.email e; echo a > a; git add a; git commit -qm a; git status --short`, top).CombinedOutput()
		if err != nil || string(out) != "one\nt" {
			t.Errorf("%s: %v, %q", top, err, out)
		}
	}
	if diff := differ(t, dir+"/disk", dir+"/mount"); diff != "" {
		t.Error(diff)
	}
	if diff := differ(t, dir+"/mount", at+"/mount"); diff != "" {
		t.Errorf("the mount shows %s", diff)
	}
}

// differ compares two trees: modes, owners, links, times where they were set, contents.
func differ(t *testing.T, one, other string) string {
	t.Helper()
	describe := func(top string) (list []string) {
		err := fs.WalkDir(os.DirFS(top), ".", func(name string, d fs.DirEntry, err error) error {
			if strings.HasPrefix(name, "repository/") || err != nil {
				return err
			}
			var st unix.Stat_t
			err = unix.Lstat(filepath.Join(top, name), &st)
			line := fmt.Sprintf("%s %d:%d links %d %o", name, st.Uid, st.Gid, st.Nlink, st.Mode)
			if st.Mtim.Sec == 1_000_000_000 {
				line += " old"
			}
			switch st.Mode & unix.S_IFMT {
			case unix.S_IFREG:
				b, readErr := os.ReadFile(filepath.Join(top, name))
				line, err = line+fmt.Sprintf(" %d %q", st.Size, bytes.Trim(b, "\x00")), errors.Join(err, readErr)
			case unix.S_IFLNK:
				to, readErr := os.Readlink(filepath.Join(top, name))
				line, err = line+" -> "+to, errors.Join(err, readErr)
			}
			list = append(list, line)
			return err
		})
		if err != nil {
			t.Error(err)
		}
		return list
	}
	a, b := describe(one), describe(other)
	if slices.Equal(a, b) {
		return ""
	}
	return fmt.Sprintf("%s:\n%s\n%s:\n%s", one, strings.Join(a, "\n"), other, strings.Join(b, "\n"))
}

// A person and a debuggee have the same file open: what one writes the other
// reads, and who is to write where nobody may is refused.
func TestVisitorSharesFiles(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	withNodes(t, c)
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	if err := os.WriteFile(filepath.Join(dir, "kept"), []byte("kept"), 0o644); err != nil {
		t.Fatal(err)
	}
	at := visit(t, m, s.ID, dir, "file$")
	debuggee := c.open(c.writable(path, readWrite|wire.OpenCreate), unix.O_RDWR)
	if _, err := debuggee.WriteString("debuggee"); err != nil {
		t.Fatal(err)
	}
	if b, err := os.ReadFile(at + "/file"); string(b) != "debuggee" {
		t.Errorf("the person reads %q, %v", b, err)
	}
	person, err := os.OpenFile(at+"/file", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer person.Close()
	buf := make([]byte, 100)
	if _, err := person.WriteAt([]byte("PERSON"), 2); err != nil {
		t.Fatal(err)
	}
	if n, err := debuggee.ReadAt(buf, 0); string(buf[:n]) != "dePERSON" {
		t.Errorf("the debuggee reads %q, %v", buf[:n], err)
	}
	if err := debuggee.Truncate(3); err != nil {
		t.Fatal(err)
	}
	if n, err := person.ReadAt(buf, 0); string(buf[:n]) != "deP" {
		t.Errorf("after a truncation the person reads %q, %v", buf[:n], err)
	}
	if err := person.Truncate(1); err != nil {
		t.Fatal(err)
	}
	more, err := os.OpenFile(at+"/file", os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*os.File{debuggee, more} {
		if _, err := f.Seek(0, 2); err != nil {
			t.Fatal(err)
		}
		if _, err := f.WriteString("+"); err != nil {
			t.Fatal(err)
		}
	}
	if err := more.Close(); err != nil {
		t.Error(err)
	}
	if b, err := os.ReadFile(path); string(b) != "d++" {
		t.Errorf("the target has %q, %v", b, err)
	}
	kept := at + "/kept"
	for what, err := range map[string]error{
		"write": os.WriteFile(kept, nil, 0o600), "make": os.WriteFile(at+"/new", nil, 0o600), "chmod": os.Chmod(kept, 0o600), "remove": os.Remove(kept),
		"rename": os.Rename(kept, at+"/file"), "rename to": os.Rename(at+"/file", at+"/other"), "link": os.Link(at+"/file", at+"/other"),
		"truncate": os.Truncate(kept, 0), "access": unix.Access(kept, unix.W_OK),
	} {
		if !errors.Is(err, unix.EROFS) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := unix.Mkfifo(at+"/file2", 0o600); !errors.Is(err, unix.EROFS) && !errors.Is(err, unix.EPERM) {
		t.Errorf("a FIFO: %v", err)
	}
	if b, err := os.ReadFile(dir + "/kept"); string(b) != "kept" {
		t.Errorf("what is for reading holds %q, %v", b, err)
	}
}

// A visitor keeps no session, and is no launcher of it.
func TestVisitorsKeepNoSession(t *testing.T) {
	m := manager(t)
	s := startSession(t, m, agentAddress(t))
	at := visit(t, m, s.ID, t.TempDir(), "")
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if n := own.info().Launchers; n != 0 {
		t.Errorf("%d launchers", n)
	}
	m.Release(s.ID, false)
	select {
	case <-own.ctx.Done():
	case <-time.After(time.Minute):
		t.Fatal("the session goes on")
	}
	for begin := time.Now(); ; { // what is known of it is so for a second
		if _, err := os.Stat(at + "/none"); errors.Is(err, unix.EIO) {
			break
		} else if time.Since(begin) > time.Minute {
			t.Fatalf("after the session's end: %v", err)
		}
	}
}
