// Package provision makes what a cluster is run from, once for all clusters of
// a user: every Kubernetes component in one binary, the pause image, and the
// Debian packages with the container runtime. They lie in the user's cache
// under a key of what they were made from:
//
//	~/.cache/mirrord/cluster/KEY/kube        the binary
//	                             pause.tar   the image
//	                             packages/   the unpacked packages, a root of their own
//
// A directory with that name is complete: it was renamed when it was.
package provision

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// A Source is the checkout that a cluster is built from.
type Source struct {
	Root string // of the checkout
}

// module is the directory of the cluster's own Go module.
func (s Source) module() string { return filepath.Join(s.Root, "testdata", "cluster") }

// Dir is where the cache has, or will have, what the source makes.
func (s Source) Dir() (string, error) {
	key, err := s.key()
	if err != nil {
		return "", err
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("finding the user's cache: %w", err)
	}
	return filepath.Join(cache, "mirrord", "cluster", key), nil
}

// Ensure returns Dir once it is complete. Of several callers one builds and
// the others wait for it. A failed build leaves nothing.
func (s Source) Ensure(ctx context.Context, progress func(string)) (string, error) {
	dir, err := s.Dir()
	if err != nil {
		return "", err
	}
	if exists(dir) {
		return dir, nil
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return "", fmt.Errorf("making the cache: %w", err)
	}
	unlock, err := Lock(ctx, dir+".lock", func() { progress("waiting for another build of the cluster") })
	if err != nil {
		return "", err
	}
	defer unlock()
	if exists(dir) {
		return dir, nil
	}

	tmp := dir + ".tmp" // ours alone, by the lock
	if err := os.RemoveAll(tmp); err != nil {
		return "", fmt.Errorf("removing an unfinished build: %w", err)
	}
	defer os.RemoveAll(tmp)
	if err := os.Mkdir(tmp, 0o755); err != nil {
		return "", fmt.Errorf("making a directory for the build: %w", err)
	}
	b := builder{source: s, dir: tmp, progress: progress}
	if err := b.build(ctx); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, dir); err != nil {
		return "", fmt.Errorf("putting the build into its place: %w", err)
	}
	return dir, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}
