package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// searchPath is what shells and exec find commands by in the image.
const searchPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/"

// A spec says what an image holds.
type spec struct {
	name       string
	binary     string // lies at the root under its own name
	entrypoint []string
	added      added
}

// write makes the archive; a failure leaves no part of it.
func (s spec) write(file string) error {
	tag, err := name.NewTag(s.name)
	if err != nil {
		return fmt.Errorf("reading the name: %w", err)
	}
	img, err := s.image()
	if err != nil {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name()) // gone already if all went well
	defer tmp.Close()
	if err := tarball.Write(tag, img, tmp); err != nil {
		return fmt.Errorf("packing: %w", err)
	}
	if err := tmp.Chmod(0o644); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), file)
}

func (s spec) image() (v1.Image, error) {
	files := maps.Clone(s.added)
	if files == nil {
		files = make(added)
	}
	main := filepath.Base(s.binary)
	if _, ok := files[main]; ok {
		return nil, fmt.Errorf("/%s is the binary already", main)
	}
	files[main] = s.binary

	content, err := layer(files)
	if err != nil {
		return nil, err
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}, tarball.WithCompressionLevel(gzip.BestSpeed))
	if err != nil {
		return nil, fmt.Errorf("making the layer: %w", err)
	}
	img, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		return nil, fmt.Errorf("adding the layer: %w", err)
	}
	config, err := img.ConfigFile()
	if err != nil {
		return nil, fmt.Errorf("reading the image's configuration: %w", err)
	}
	config = config.DeepCopy()
	config.OS, config.Architecture = "linux", runtime.GOARCH
	config.Config = v1.Config{Entrypoint: s.entrypoint, Env: []string{searchPath}, WorkingDir: "/"}
	if len(s.entrypoint) == 0 {
		config.Config.Entrypoint = []string{"/" + main}
	}
	return mutate.ConfigFile(img, config)
}

// layer is a tar of the files and the directories above them, in order, with
// no time and no owner but root.
func layer(files added) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	made := map[string]bool{".": true}
	for _, in := range slices.Sorted(maps.Keys(files)) {
		if err := directories(w, path.Dir(in), made); err != nil {
			return nil, err
		}
		if err := add(w, in, files[in]); err != nil {
			return nil, fmt.Errorf("adding /%s: %w", in, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func directories(w *tar.Writer, dir string, made map[string]bool) error {
	if made[dir] {
		return nil
	}
	made[dir] = true
	if err := directories(w, path.Dir(dir), made); err != nil {
		return err
	}
	return w.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755})
}

func add(w *tar.Writer, in, file string) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return fmt.Errorf("%s is not a regular file", file)
	}
	mode := int64(0o644)
	if st.Mode().Perm()&0o111 != 0 {
		mode = 0o755 // whatever the builder's umask was
	}
	if err := w.WriteHeader(&tar.Header{Typeflag: tar.TypeReg, Name: in, Mode: mode, Size: st.Size()}); err != nil {
		return err
	}
	_, err = io.Copy(w, f)
	return err
}
