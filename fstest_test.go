package mirrord_test

import (
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"
	"time"

	godiff "github.com/google/go-cmp/cmp"
)

// The standard library's suite of file systems finds in the target's files what
// it finds in the same ones here: in those that there are, and in those that the
// debuggee makes itself.
func TestFileSystemSuite(t *testing.T) {
	t.Parallel()
	w := newNotRoot(t)
	u := &user{notRoot: w, t: t, namespaces: true}
	u.begin(true)

	here := filepath.Join(t.TempDir(), "tree")
	out, err := exec.Command(u.debuggee(), "suite", here, "write").Output()
	if err != nil {
		t.Fatal(err)
	}
	want := decodeSuite(t, string(out))
	if want.Err != "" || want.N < 400 {
		t.Fatalf("on this machine's disk: %d entries, %s", want.N, want.Err)
	}
	const there = "/srv/tree" // this machine has none
	for _, mode := range []string{"write", "read"} {
		d := u.exec(nil, "--fs-mode", mode, "--", u.debuggee(), "suite", there, mode)
		got := decodeSuite(t, d.line("{"))
		if code := d.wait(); code != 0 {
			t.Errorf("mode %s: exit code %d", mode, code)
		}
		if diff := godiff.Diff(want, got); diff != "" {
			t.Errorf("mode %s (-here +there):\n%s", mode, diff)
		}
	}
	if _, err := os.Lstat(there); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s is on this machine: %v", there, err)
	}
	// What the debuggee was shown is what it made, and not a memory of it.
	var own suite
	w.pod.do(func() error {
		own = runSuite(there)
		return nil
	})
	if diff := godiff.Diff(want, own); diff != "" {
		t.Errorf("seen from the target itself (-here +there):\n%s", diff)
	}
	u.end()
}

// A suite is what the file system's suite says of a tree, and what is in it.
type suite struct {
	Err     string // "": it has passed
	N       int
	Entries map[string]string
}

func decodeSuite(t *testing.T, line string) (s suite) {
	t.Helper()
	if err := json.Unmarshal([]byte(line), &s); err != nil {
		t.Fatalf("%v: %.200q", err, line)
	}
	return s
}

// asSuite is main of the debuggee: it may make the tree, and looks at it.
func asSuite(dir, mode string) (s suite) {
	if mode == "write" {
		if err := makeTree(dir); err != nil {
			return suite{Err: err.Error()}
		}
	}
	return runSuite(dir)
}

func runSuite(dir string) (s suite) {
	tree := os.DirFS(dir)
	if err := fstest.TestFS(tree, "empty", "sub/edge", "links/up", "a/b/c/d/deep"); err != nil {
		s.Err = err.Error()
	}
	s.Entries = map[string]string{}
	err := fs.WalkDir(tree, ".", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		s.N++
		s.Entries[name], err = describe(filepath.Join(dir, name), e)
		return err
	})
	if err != nil {
		s.Err = cmp.Or(s.Err, err.Error())
	}
	return s
}

// describe tells what does not differ between two places of the same tree.
func describe(name string, e fs.DirEntry) (string, error) {
	info, err := e.Info()
	if err != nil {
		return "", err
	}
	st := fmt.Sprint(e.Type(), " ", info.Mode(), " ", info.ModTime().UnixNano())
	switch {
	case e.IsDir():
		return fmt.Sprint(e.Type(), " ", info.Mode()), nil // whose times and sizes are the disk's
	case e.Type() == fs.ModeSymlink:
		to, err := os.Readlink(name)
		return fmt.Sprint(e.Type(), " ", to, " ", info.Size()), err
	}
	b, err := os.ReadFile(name)
	return fmt.Sprintf("%s %d %x", st, info.Size(), sha256.Sum256(b)), err
}

// makeTree makes one of every kind, and some directories of many.
func makeTree(dir string) error {
	content := strings.Repeat("0123456789abcde\n", 20_000)
	files := map[string]string{
		"empty": "", "sub/edge": content[:64<<10], "sub/over": content[:64<<10+1], "large": content,
		"a/b/c/d/deep": "deep\n", "sub/Žluťoučký kůň 🐎": "name\n", "sub/" + strings.Repeat("n", 255): "long\n", "sub/.hidden": "hidden\n",
		"sub/a b\tc": "blanks\n", "none/.keep": "",
	}
	for i := range 300 {
		files[fmt.Sprintf("many/%d", i)] = content[:i%50*16]
	}
	for i := range 60 {
		files[fmt.Sprintf("wide/%d/%d", i%20, i)] = fmt.Sprintln(i)
	}
	when := time.Unix(1_700_000_000, 123_456_789)
	for name, text := range files {
		file := filepath.Join(dir, name)
		err := errors.Join(os.MkdirAll(path.Dir(file), 0o755), os.WriteFile(file, []byte(text), 0o640), os.Chtimes(file, when, when))
		if err != nil {
			return err
		}
	}
	sub := func(name string) string { return filepath.Join(dir, name) }
	return errors.Join(
		os.Remove(sub("none/.keep")), // and the directory stays
		os.Mkdir(sub("links"), 0o750),
		os.Symlink("../a/b/c/d/deep", sub("links/up")),
		os.Symlink("../sub", sub("links/directory")),
		os.Symlink("up", sub("links/again")),
		os.Link(sub("large"), sub("links/hard")),
		os.Chmod(sub("empty"), 0o755),
		os.Chmod(sub("sub/over"), 0o4711),
	)
}
