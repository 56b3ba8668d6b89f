package cluster

import (
	"archive/tar"
	"bytes"
	"io"

	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

// tarOf is an archive of one executable.
func tarOf(name string, content []byte) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o755, Size: int64(len(content))}); err != nil {
		panic(err)
	}
	must(w.Write(content))
	if err := w.Close(); err != nil {
		panic(err)
	}
	return b.Bytes()
}

func opener(content []byte) tarball.Opener {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(content)), nil }
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
