package main

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func TestWrite(t *testing.T) {
	dir := t.TempDir()
	binary := put(t, dir, "mirrord-agent", "binary", 0o700)
	extra := put(t, dir, "settings", "a: 1", 0o600)
	out := filepath.Join(dir, "image.tar")
	s := spec{name: "mirrord-agent:1", binary: binary, added: make(added)}
	if err := s.added.Set("/etc/agent/settings=" + extra); err != nil {
		t.Fatal(err)
	}
	if err := s.write(out); err != nil {
		t.Fatal(err)
	}

	img, err := tarball.ImageFromPath(out, nil)
	if err != nil {
		t.Fatal(err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if got := config.Config.Entrypoint; !slices.Equal(got, []string{"/mirrord-agent"}) || config.OS != "linux" {
		t.Errorf("entrypoint %q on %q", got, config.OS)
	}
	manifest, err := tarball.LoadManifest(func() (io.ReadCloser, error) { return os.Open(out) })
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest) != 1 || !slices.Equal(manifest[0].RepoTags, []string{"mirrord-agent:1"}) {
		t.Errorf("manifest is %+v", manifest)
	}
	layers, err := img.Layers()
	if err != nil || len(layers) != 1 {
		t.Fatalf("%d layers, %v; want one", len(layers), err)
	}
	r, err := layers[0].Uncompressed()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	want := []entry{
		{"etc/", 0o755, ""},
		{"etc/agent/", 0o755, ""},
		{"etc/agent/settings", 0o644, "a: 1"},
		{"mirrord-agent", 0o755, "binary"},
	}
	if diff := cmp.Diff(want, entries(t, r), cmp.AllowUnexported(entry{})); diff != "" {
		t.Errorf("layer (-want +got):\n%s", diff)
	}
}

func TestSameBytes(t *testing.T) {
	dir := t.TempDir()
	binary := put(t, dir, "b", "binary", 0o755)
	s := spec{name: "b:1", binary: binary, entrypoint: []string{"/b", "serve"}}
	var archives [2][]byte
	for i, mtime := range []time.Time{time.Unix(1, 0), time.Unix(2e9, 0)} {
		if err := os.Chtimes(binary, mtime, mtime); err != nil {
			t.Fatal(err)
		}
		out := filepath.Join(dir, "image.tar")
		if err := s.write(out); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		archives[i] = b
	}
	if !bytes.Equal(archives[0], archives[1]) {
		t.Error("the archive depends on the file's time")
	}
}

func TestWriteErrors(t *testing.T) {
	dir := t.TempDir()
	binary := put(t, dir, "b", "binary", 0o755)
	for _, tt := range []struct {
		name string
		spec spec
		want string
	}{
		{"no such binary", spec{name: "b:1", binary: filepath.Join(dir, "none")}, "no such file"},
		{"a directory", spec{name: "b:1", binary: dir}, "not a regular file"},
		{"bad name", spec{name: "UPPER:1", binary: binary}, "reading the name"},
		{"the binary twice", spec{name: "b:1", binary: binary, added: added{"b": binary}}, "/b is the binary"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out := filepath.Join(t.TempDir(), "image.tar")
			if err := tt.spec.write(out); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(out); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("an archive is left (%v)", err)
			}
		})
	}
}

func TestAddedSet(t *testing.T) {
	a := make(added)
	for _, bad := range []string{"", "x", "=f", "x="} {
		if err := a.Set(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if err := a.Set("/../etc/x=f"); err != nil || a["etc/x"] != "f" {
		t.Errorf("got %v, %v", a, err)
	}
	if err := a.Set("etc/x=g"); err == nil {
		t.Error("one path was added twice")
	}
}

type entry struct {
	name    string
	mode    int64
	content string
}

func entries(t *testing.T, r io.Reader) (all []entry) {
	t.Helper()
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return all
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, entry{h.Name, h.Mode, string(content)})
	}
}

func put(t *testing.T, dir, name, content string, mode os.FileMode) string {
	t.Helper()
	file := filepath.Join(dir, name)
	if err := os.WriteFile(file, []byte(content), mode); err != nil {
		t.Fatal(err)
	}
	return file
}
