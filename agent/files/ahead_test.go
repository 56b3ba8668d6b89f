package files

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"mirrord/protocol"
)

func TestCompareNumbers(t *testing.T) {
	sorted := []string{"", "1", "2", "10", "a", "a1", "a01b", "a2", "a9.txt", "a10.txt", "b", "b18446744073709551616", "b18446744073709551617"}
	shuffled := slices.Clone(sorted)
	rand.New(rand.NewPCG(1, 2)).Shuffle(len(shuffled), func(i, j int) { shuffled[i], shuffled[j] = shuffled[j], shuffled[i] })
	slices.SortFunc(shuffled, compareNumbers)
	if !slices.Equal(shuffled, sorted) {
		t.Errorf("sorted: %q", shuffled)
	}
}

// many makes a directory of n small files, and others that are not sent ahead.
func many(t *testing.T, root string, n int) (names []string) {
	t.Helper()
	dir := filepath.Join(root, "many")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for i := range n {
		name := fmt.Sprintf("page%d.html", i)
		names = append(names, name)
		if err := os.WriteFile(filepath.Join(dir, name), []byte("the text of "+name), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, err := range []error{
		os.Mkdir(filepath.Join(dir, "page7.dir"), 0o755),
		os.Symlink("page8.html", filepath.Join(dir, "page8.link")),
		os.WriteFile(filepath.Join(dir, "page9.large"), make([]byte, maxAheadSize+1), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	return names
}

// A reader goes through files and asks for what it has not been told.
type reader struct {
	t     *testing.T
	h     *Handles
	known map[string]protocol.AheadFile
	text  map[string]string
	asked int
}

func (r *reader) read(name string) {
	r.t.Helper()
	if f, ok := r.known[name]; ok {
		if want := "the text of " + name; r.text[name] != want || f.Attr.Size != int64(len(want)) || string(f.Path) != "/many/"+name || f.Lease.ID == 0 {
			r.t.Fatalf("%s, told ahead: %+v, %q", name, f, r.text[name])
		}
		return
	}
	r.asked++
	b := r.h.Ahead("/many/"+name, true, false)
	for more := b != nil; more; {
		var a protocol.Ahead
		var contents []byte
		if a, contents, more = b.Next(); len(contents) > frameSize || len(a.Files) > paces[true].frame {
			r.t.Fatalf("a frame of %d files, %d bytes", len(a.Files), len(contents))
		}
		for _, f := range a.Files {
			name := string(f.Name)
			r.known[name], r.text[name] = f, string(contents[:f.Size])
			contents = contents[f.Size:]
		}
	}
}

func TestAhead(t *testing.T) {
	const n = 400
	dir, h, l := watching(t)
	names := many(t, dir, n)
	listed, err := h.list("/many")
	if err != nil || len(listed) != n+3 {
		t.Fatalf("%d names, %v", len(listed), err)
	}
	listed = slices.DeleteFunc(listed, func(s string) bool { return !slices.Contains(names, s) })
	for order, names := range map[string][]string{
		"numbers": names, "sorted": slices.Sorted(slices.Values(names)), "listed": listed,
	} {
		r := &reader{t, h, map[string]protocol.AheadFile{}, map[string]string{}, 0}
		for _, name := range names {
			r.read(name)
		}
		if n := len(h.guesses.walks); n != 0 {
			t.Errorf("%s: %d walks are remembered after the last file", order, n)
		}
		if r.asked > 20 {
			t.Errorf("%s: asked %d times for %d files", order, r.asked, n)
		}
		for _, name := range []string{"page7.dir", "page9.large"} {
			if _, told := r.known[name]; told {
				t.Errorf("%s: %s was told ahead", order, name)
			}
		}
		lease := r.known[names[n/2]].Lease
		if err := os.Chmod(filepath.Join(dir, "many", names[n/2]), 0o600); err != nil {
			t.Fatal(err)
		}
		if e, err := l.Next(); err != nil || !slices.Contains(e.IDs, lease.ID) {
			t.Errorf("%s: expired %+v (%v), not %+v", order, e, err, lease)
		}
	}
}

// Who asks here and there is not told of what they do not ask for.
func TestNothingAhead(t *testing.T) {
	dir, h, _ := watching(t)
	names := many(t, dir, 1000)
	rand.New(rand.NewPCG(3, 4)).Shuffle(len(names), func(i, j int) { names[i], names[j] = names[j], names[i] })
	r := &reader{t, h, map[string]protocol.AheadFile{}, map[string]string{}, 0}
	for _, name := range names {
		r.read(name)
	}
	if len(r.known) > 0 {
		t.Errorf("told of %d files ahead", len(r.known))
	}
	for i := range 2 * maxWalks {
		h.Ahead(fmt.Sprintf("/%d/file", i), true, false)
	}
	if n := len(h.guesses.walks); n > maxWalks {
		t.Errorf("%d walks are remembered", n)
	}
	_, unwatched := build(t, root)
	if b := unwatched.Ahead("/secret", true, false); b != nil {
		t.Error("a client that does not watch was told something")
	}
}

// What is claimed for an answer that is not kept is given back.
func TestClaimsEnd(t *testing.T) {
	_, h, l := watching(t)
	for range 3 {
		r, _, err := h.Open(protocol.Open{Path: "/over", Inline: 64 << 10, Lease: true})
		if err != nil || r.Handle == 0 {
			t.Fatalf("%+v, %v", r, err)
		}
		if _, _, err := h.Open(protocol.Open{Path: "/fifo", Lease: true}); err == nil {
			t.Fatal("a FIFO was opened")
		}
	}
	if len(l.given) > 0 {
		t.Errorf("%d claims are left", len(l.given))
	}
}

// What was listed and is not asked about is not kept.
func TestListsAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var g guesses
		g.listed("/etc", []byte("entries"))
		time.Sleep(listsKept / 2)
		g.listed("/var", []byte("others"))
		kept := func(after time.Duration) int {
			time.Sleep(after)
			synctest.Wait()
			g.mu.Lock()
			defer g.mu.Unlock()
			return len(g.lists)
		}
		if n := kept(listsKept - 1); n != 2 {
			t.Errorf("%d lists are kept while others come", n)
		}
		if n := kept(1); n > 0 {
			t.Errorf("%d lists are kept", n)
		}
	})
}
