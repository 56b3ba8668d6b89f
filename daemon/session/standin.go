package session

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
)

// What stands in for the target's files where there is no file server is made
// when they are opened.
const (
	maxCopy   = 64 << 20 // bytes of a file
	maxCopied = 20_000   // entries of a directory
)

var (
	tooLarge = fmt.Sprintf("a file over %d MiB", maxCopy>>20)
	tooMany  = fmt.Sprintf("a directory of over %d entries", maxCopied)
)

// stand opens what stands in for a file or directory of the target.
func (l *launcher) stand(t *tunnel.Tunnel, path string, o protocol.OpenReply) (*os.File, error) {
	n := &node{tunnel: t, handle: o.Handle}
	defer l.m.nodes.close(n)
	switch {
	case o.Attr.Mode&unix.S_IFMT == unix.S_IFDIR:
		return l.directories.open(l, path, n, string(o.Path))
	case o.Attr.Size > maxCopy:
		return nil, l.s.needFiles(path, tooLarge)
	}
	return sealed(o.Attr.Mode, func(w io.Writer) error {
		buf := make([]byte, protocol.MaxPayload)
		for off := int64(0); ; {
			got, err := n.read(l.ctx, buf, off)
			if err != nil {
				return fmt.Errorf("reading %s: %w", path, err)
			}
			if off += int64(got); off > maxCopy {
				return l.s.needFiles(path, tooLarge)
			}
			if _, err := w.Write(buf[:got]); err != nil || got < len(buf) {
				return err
			}
		}
	})
}

// directories are those of this machine that stand in for the target's, for one
// launcher: what is in them has the right names and types, and nothing else.
// They live as long as the launcher, since nobody tells when one is closed.
type directories struct {
	mu   sync.Mutex
	base string               // guarded by mu; has them all, "" before the first
	last int                  // guarded by mu
	made map[string]directory // guarded by mu; the latest, by the target's path
}

type directory struct {
	at   string
	list []protocol.DirEntry
}

// standInsName is the directory, in the runtime directory, that has the
// launchers' stand-ins.
const standInsName = "directories"

func (d *directories) open(l *launcher, path string, n *node, resolved string) (*os.File, error) {
	list, err := n.list(l, path)
	if err != nil {
		return nil, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	made, ok := d.made[resolved]
	if !ok || !slices.Equal(made.list, list) {
		at, err := d.fill(l.m.standIns, list)
		if err != nil {
			return nil, fmt.Errorf("making a directory that stands in for %s: %w", path, err)
		}
		made = directory{at, list}
		d.made[resolved] = made
	}
	return os.Open(made.at)
}

// list reads all of a directory.
func (n *node) list(l *launcher, path string) ([]protocol.DirEntry, error) {
	var all []protocol.DirEntry
	for {
		list, more, err := n.readDir(l.ctx, len(all))
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", path, err)
		}
		if all = append(all, list...); len(all) > maxCopied {
			return nil, l.s.needFiles(path, tooMany)
		}
		if !more || len(list) == 0 {
			return all, nil
		}
	}
}

// fill makes a directory. d.mu is held.
func (d *directories) fill(standIns string, list []protocol.DirEntry) (at string, err error) {
	if d.base == "" {
		if err := os.Mkdir(standIns, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return "", err
		}
		if d.base, err = os.MkdirTemp(standIns, ""); err != nil {
			return "", err
		}
		d.made = make(map[string]directory)
	}
	d.last++
	at = filepath.Join(d.base, strconv.Itoa(d.last))
	if err := os.Mkdir(at, 0o700); err != nil {
		return "", err
	}
	dir, err := os.Open(at)
	if err != nil {
		return "", err
	}
	defer dir.Close()
	for _, e := range list {
		if strings.Contains(e.Name, "/") || e.Name == "." || e.Name == ".." {
			return "", fmt.Errorf("entry %q: %w", e.Name, protocol.ErrDirEntry)
		}
		if err := place(int(dir.Fd()), e); err != nil {
			return "", fmt.Errorf("entry %q: %w", e.Name, err)
		}
	}
	return at, nil
}

// place makes something of e's name and, where one may, type.
func place(dir int, e protocol.DirEntry) error {
	switch e.Type {
	case unix.DT_DIR:
		return unix.Mkdirat(dir, e.Name, 0o500)
	case unix.DT_LNK:
		return unix.Symlinkat(".", dir, e.Name)
	case unix.DT_FIFO:
		return unix.Mknodat(dir, e.Name, unix.S_IFIFO, 0)
	case unix.DT_SOCK:
		return unix.Mknodat(dir, e.Name, unix.S_IFSOCK, 0)
	}
	return unix.Mknodat(dir, e.Name, unix.S_IFREG, 0)
}

// remove ends them all.
func (d *directories) remove() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.base == "" {
		return nil
	}
	return os.RemoveAll(d.base)
}

// needFiles is the error of opening what only the file server could show. The
// user is told once.
func (s *Session) needFiles(path, what string) error {
	err := &noFilesError{fmt.Sprintf("opening %s: %s of the target needs the file server: %v", path, what, cmp.Or(s.whyNoFiles(), errNotStarted))}
	s.toldNoFiles.Do(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.tell(err.msg)
	})
	return err
}

var errNotStarted = errors.New("this session has none")

// A noFilesError tells of the lack of a file server.
type noFilesError struct{ msg string }

func (e *noFilesError) Error() string { return e.msg }
func (e *noFilesError) Unwrap() error { return unix.ENOTSUP }
