package session

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// A client looks at the target's files, whatever the configuration says of them.
func TestBrowsing(t *testing.T) {
	m := manager(t)
	s, err := m.Start(t.Context(), ide.SessionStartParams{
		Client:    ide.Client{Dir: t.TempDir()},
		Overrides: ide.Overrides{Agent: agentAddress(t), FSMode: "local"},
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	large := strings.Repeat("0123456789abcdef", ide.MaxFileRead/16) + "the end"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.WriteFile(filepath.Join(dir, "small"), []byte("content"), 0o640))
	must(os.WriteFile(filepath.Join(dir, "large"), []byte(large), 0o600))
	must(os.Mkdir(filepath.Join(dir, "sub"), 0o750))
	must(unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for name, text := range map[string]string{"to-file": "small", "to-dir": dir + "/sub", "to-fifo": "fifo", "to-nothing": "none", "to-itself": "to-itself"} {
		must(os.Symlink(text, filepath.Join(dir, name)))
	}

	list, err := m.ListFiles(t.Context(), ide.FileParams{ID: s.ID, Path: dir})
	must(err)
	var got []ide.FileEntry
	for _, e := range list.Entries {
		info, err := os.Lstat(filepath.Join(dir, e.Name))
		must(err)
		if e.Modified != info.ModTime().UnixMilli() || e.Kind != ide.FileDirectory && e.Size != info.Size() {
			t.Errorf("%+v, want time %d and size %d", e, info.ModTime().UnixMilli(), info.Size())
		}
		e.Modified, e.Size = 0, 0
		got = append(got, e)
	}
	want := []ide.FileEntry{
		{Name: "fifo", Kind: "other", Mode: 0o600},
		{Name: "large", Kind: "file", Mode: 0o600},
		{Name: "small", Kind: "file", Mode: 0o640},
		{Name: "sub", Kind: "directory", Mode: 0o750},
		{Name: "to-dir", Kind: "symlink", Mode: 0o777, Target: dir + "/sub", Leads: "directory"},
		{Name: "to-fifo", Kind: "symlink", Mode: 0o777, Target: "fifo", Leads: "other"},
		{Name: "to-file", Kind: "symlink", Mode: 0o777, Target: "small", Leads: "file"},
		{Name: "to-itself", Kind: "symlink", Mode: 0o777, Target: "to-itself"},
		{Name: "to-nothing", Kind: "symlink", Mode: 0o777, Target: "none"},
	}
	if diff := cmp.Diff(want, got); diff != "" || list.Truncated {
		t.Errorf("truncated %v; (-want +got):\n%s", list.Truncated, diff)
	}

	for name, want := range map[string]ide.FileEntry{
		"small":   {Name: "small", Kind: "file", Size: 7, Mode: 0o640},
		"to-file": {Name: "to-file", Kind: "file", Size: 7, Mode: 0o640, Symlink: true, Target: "small"},
		"to-dir":  {Name: "to-dir", Kind: "directory", Mode: 0o750, Symlink: true, Target: dir + "/sub"},
	} {
		e, err := m.StatFile(t.Context(), ide.FileParams{ID: s.ID, Path: filepath.Join(dir, name)})
		must(err)
		if e.Modified = 0; e.Kind == ide.FileDirectory {
			e.Size = 0
		}
		if e != want {
			t.Errorf("stat %+v, want %+v", e, want)
		}
	}

	for _, tt := range []struct {
		name           string
		offset, length int
		want           string
		eof            bool
	}{
		{"small", 0, 100, "content", true},
		{"small", 0, 7, "content", true},
		{"small", 2, 3, "nte", false},
		{"small", 9, 3, "", true},
		{"to-file", 0, 0, "content", true},
		{"large", 0, 0, large[:ide.MaxFileRead], false},
		{"large", 3, 1 << 30, large[3 : ide.MaxFileRead+3], false},
		{"large", ide.MaxFileRead, 7, "the end", true},
		{"large", ide.MaxFileRead, 100, "the end", true},
		{"large", 2 * ide.MaxFileRead, 100, "", true},
	} {
		r, err := m.ReadFile(t.Context(), ide.FileReadParams{ID: s.ID, Path: filepath.Join(dir, tt.name), Offset: int64(tt.offset), Length: tt.length})
		if err != nil || string(r.Data) != tt.want || r.EOF != tt.eof {
			t.Errorf("%s, %d from %d: %d bytes, eof %v, %v", tt.name, tt.length, tt.offset, len(r.Data), r.EOF, err)
		}
	}
	if r, err := m.ReadFile(t.Context(), ide.FileReadParams{ID: s.ID, Path: "/proc/version"}); err != nil || len(r.Data) == 0 || !r.EOF {
		t.Errorf("a file that claims to be empty: %+v, %v", r, err)
	}

	for _, tt := range []struct {
		do    func(path string) error
		path  string
		code  int
		errno string
	}{
		{listing(m, s.ID), dir + "/none", ide.CodeFile, "ENOENT"},
		{listing(m, s.ID), dir + "/small", ide.CodeFile, "ENOTDIR"},
		{listing(m, s.ID), "relative", ide.CodeParams, ""},
		{reading(m, s.ID), dir, ide.CodeFile, "EISDIR"},
		{reading(m, s.ID), dir + "/fifo", ide.CodeFile, "ENXIO"},
		{reading(m, s.ID), dir + "/to-itself", ide.CodeFile, "ELOOP"},
		{reading(m, "00000000"), dir, ide.CodeSession, ""},
	} {
		e, ok := errors.AsType[*ide.Error](tt.do(tt.path))
		if !ok || e.Code != tt.code || e.Errno != tt.errno {
			t.Errorf("%s: %#v, want code %d, %q", tt.path, e, tt.code, tt.errno)
		}
	}
}

// An entry that the target knows only by name hides no other.
func TestBrowsingOddEntries(t *testing.T) {
	m := manager(t)
	s := startSession(t, m, agentAddress(t))
	dir := t.TempDir()
	for len(dir) < unix.PathMax-100 {
		dir += "/" + strings.Repeat("d", min(90, unix.PathMax-10-len(dir)))
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	for _, name := range []string{"x", strings.Repeat("x", 100)} { // the latter's path is too long
		if err := root.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r, err := m.ListFiles(t.Context(), ide.FileParams{ID: s.ID, Path: dir})
	if err != nil || len(r.Entries) != 2 {
		t.Fatalf("%+v, %v", r, err)
	}
	if e := r.Entries[1]; e.Kind != ide.FileDirectory || e.Mode != 0 || r.Entries[0].Mode != 0o755 {
		t.Errorf("%+v", r.Entries)
	}
}

func listing(m *Manager, id string) func(string) error {
	return func(path string) error {
		_, err := m.ListFiles(context.Background(), ide.FileParams{ID: id, Path: path})
		return err
	}
}

func reading(m *Manager, id string) func(string) error {
	return func(path string) error {
		_, err := m.ReadFile(context.Background(), ide.FileReadParams{ID: id, Path: path})
		return err
	}
}

// Of requests that nobody waits for any more no file stays open at the agent.
func TestCancelledBrowsing(t *testing.T) {
	m := manager(t)
	s := startSession(t, m, agentAddress(t))
	path := filepath.Join(t.TempDir(), "large")
	if err := os.WriteFile(path, make([]byte, 2*inline), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 4500 { // more than a client may have open
		ctx, cancel := context.WithCancel(t.Context())
		cancelled := make(chan error)
		go func() {
			_, err := m.ReadFile(ctx, ide.FileReadParams{ID: s.ID, Path: path, Length: 1})
			cancelled <- err
		}()
		cancel()
		if err := <-cancelled; err != nil && !errors.Is(err, context.Canceled) {
			t.Fatalf("cancelled: %v", err)
		}
	}
	if err := reading(m, s.ID)(path); err != nil {
		t.Errorf("afterwards: %v", err)
	}
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	m.end(own, "by order")
	err = reading(m, s.ID)(path)
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeSession {
		t.Errorf("after the session's end: %v", err)
	}
}

// Names that are not UTF-8 lead to their files.
func TestBrowsingByBytes(t *testing.T) {
	m := manager(t)
	s := startSession(t, m, agentAddress(t))
	dir := t.TempDir() + "/\xff"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/caf\xe9", []byte("coffee"), 0o644), os.Symlink("caf\xe9", dir+"/link")); err != nil {
		t.Fatal(err)
	}
	parent, err := m.ListFiles(t.Context(), ide.FileParams{ID: s.ID, Path: filepath.Dir(dir)})
	if err != nil || len(parent.Entries) != 1 {
		t.Fatalf("%+v, %v", parent, err)
	}
	at := filepath.Dir(dir) + "/" + parent.Entries[0].Name
	list, err := m.ListFiles(t.Context(), ide.FileParams{ID: s.ID, Path: at})
	if err != nil || len(list.Entries) != 2 || list.Entries[1].Target != list.Entries[0].Name {
		t.Fatalf("%+v, %v", list, err)
	}
	for _, e := range list.Entries {
		r, err := m.ReadFile(t.Context(), ide.FileReadParams{ID: s.ID, Path: at + "/" + e.Name})
		if string(r.Data) != "coffee" {
			t.Errorf("%q holds %q, %v", e.Name, r.Data, err)
		}
		if st, err := m.StatFile(t.Context(), ide.FileParams{ID: s.ID, Path: at + "/" + e.Name}); err != nil || st.Size != 6 || st.Name != e.Name {
			t.Errorf("%q is %+v, %v", e.Name, st, err)
		}
	}
	if _, err := m.ListFiles(t.Context(), ide.FileParams{ID: s.ID, Path: "/\x00"}); err == nil || !strings.Contains(err.Error(), "NUL is not followed") {
		t.Errorf("a name that spells nothing: %v", err)
	}
}
