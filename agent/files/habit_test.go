package files

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"mirrord/protocol"
)

// A walker reads all files of directories that it opens before, in order, and
// knows what it was told.
type walker struct {
	t     *testing.T
	h     *Handles
	known map[string]bool
	asked int
}

func (w *walker) told(dir string, b *Batch) {
	for more := b != nil; more; {
		var a protocol.Ahead
		a, _, more = b.Next()
		for _, f := range a.Files {
			w.known[dir+string(f.Name)] = true
		}
	}
}

func (w *walker) walk(dir string, names []string) {
	w.told(dir+"/", w.h.Inside(dir))
	for _, name := range names {
		if file := dir + "/" + name; !w.known[file] {
			w.asked++
			w.told(dir+"/", w.h.Ahead(file, true, false))
		}
	}
}

// Who has gone through a directory is told of the next ones when it opens them,
// and not for ever if it asks for nothing there.
func TestInside(t *testing.T) {
	root, h, _ := watching(t)
	const directories = 30
	var names []string
	for f := range 20 {
		names = append(names, fmt.Sprint("f", f))
	}
	for d := range directories {
		for _, name := range names {
			file := filepath.Join(root, "walk", fmt.Sprint("d", d), name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(name), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
	}
	slices.Sort(names)
	w := &walker{t: t, h: h, known: map[string]bool{}}
	w.walk("/walk/d0", names)
	if n := w.asked; n > aheadAfter+1 {
		t.Errorf("asked %d times in the first directory", n)
	}
	w.asked = 0
	for d := range directories - 1 {
		w.walk(fmt.Sprint("/walk/d", d+1), names)
	}
	// 1 asked for after 1, 2, 4, 8 and 8 that were not.
	if w.asked != 5 {
		t.Errorf("asked %d times in the other %d directories, want 5", w.asked, directories-1)
	}

	idle := &walker{t: t, h: h, known: map[string]bool{}}
	for d := range directories {
		idle.walk(fmt.Sprint("/walk/d", d), nil)
	}
	if n := len(idle.known); n > mostTrusted*len(names) {
		t.Errorf("told of %d files that nobody asked for", n)
	}
	elsewhere := &walker{t: t, h: h, known: map[string]bool{}}
	if elsewhere.walk("/many", nil); len(elsewhere.known) > 0 {
		t.Errorf("told of %d files elsewhere", len(elsewhere.known))
	}
}

func TestNear(t *testing.T) {
	for tt, want := range map[[2]string]bool{
		{"/a/b/c/", "/a/b/d/"}: true, {"/a/b/c/", "/a/b/c/d/"}: true, {"/a/b/c/d/", "/a/b/e/"}: true,
		{"/a/b/c/d/", "/a/"}: false, {"/a/", "/b/"}: false, {"/a/b/", "/a/c/"}: true, {"/ab/c/", "/abc/d/"}: false, {"/", "/a/"}: true,
	} {
		if got := near(tt[0], tt[1]); got != want {
			t.Errorf("near(%q, %q) = %v", tt[0], tt[1], got)
		}
	}
}
