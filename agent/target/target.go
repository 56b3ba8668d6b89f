// Package target finds the process of the target's container and moves the
// agent into its network and UTS namespaces.
//
// A process is held by its directory below /proc, opened once: it never comes
// to mean another process that was given the same number.
package target

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A Target is the process whose context the agent serves: the first of its
// container. A Follower replaces it when the container is restarted.
type Target struct {
	Root *os.File // its root directory, O_PATH; the same descriptor after a restart
	User User     // a restart does not change it

	contained bool // it is a container's, not a process of its own

	mu       sync.Mutex
	pid      int            // guarded by mu
	proc     *os.File       // /proc/PID; guarded by mu
	gone     bool           // guarded by mu
	onChange map[int]func() // guarded by mu
	last     int            // key in onChange; guarded by mu
}

// open takes hold of what is served of the process whose directory is proc.
func open(proc *os.File) (*Target, error) {
	// Asked of the directory: "self" has a number too.
	name, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", proc.Fd()))
	if err != nil {
		return nil, fmt.Errorf("naming process: %w", err)
	}
	pid, err := strconv.Atoi(filepath.Base(name))
	if err != nil {
		return nil, fmt.Errorf("%s is not a process's directory: %w", name, err)
	}
	t := &Target{pid: pid, proc: proc, onChange: map[int]func(){}}
	status, err := t.read("status", 64<<10)
	if err != nil {
		return nil, err
	}
	if t.User, err = parseUser(status); err != nil {
		return nil, fmt.Errorf("reading user of process %d: %w", pid, err)
	}
	if t.User.Foreign, err = foreign(proc); err != nil {
		return nil, fmt.Errorf("looking at user namespace of process %d: %w", pid, err)
	}
	root, err := unix.Openat(int(proc.Fd()), "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening root of process %d: %w", pid, wanting(err))
	}
	t.Root = os.NewFile(uintptr(root), "target's root")
	return t, nil
}

// PID is the process's number.
func (t *Target) PID() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.pid
}

// Environ is the environment that the process was started with.
func (t *Target) Environ() ([]byte, error) {
	if err := t.Gone(); err != nil {
		return nil, err
	}
	b, err := t.read("environ", protocol.MaxPayload)
	if err != nil && (errors.Is(err, unix.ESRCH) || errors.Is(err, unix.ENOENT)) {
		return nil, errRestarting
	}
	return b, err
}

// Close gives the process up.
func (t *Target) Close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.Root.Close()
	t.proc.Close()
}

// read reads a file of the process's directory that is no longer than limit.
func (t *Target) read(name string, limit int64) ([]byte, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return readAt(t.proc, name, limit)
}

func readAt(dir *os.File, name string, limit int64) ([]byte, error) {
	fd, err := unix.Openat(int(dir.Fd()), name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("opening %s/%s: %w", dir.Name(), name, wanting(err))
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	var b bytes.Buffer
	n, err := b.ReadFrom(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s/%s: %w", dir.Name(), name, err)
	}
	if n > limit {
		return nil, fmt.Errorf("reading %s/%s: more than %d bytes: %w", dir.Name(), name, limit, unix.E2BIG)
	}
	return b.Bytes(), nil
}

// wanting says which capability would have let an operation on the target through.
func wanting(err error) error {
	switch err {
	case unix.EACCES:
		return fmt.Errorf("%w (it needs CAP_SYS_PTRACE, and CAP_DAC_READ_SEARCH where the user differs)", err)
	case unix.EPERM:
		return fmt.Errorf("%w (it needs CAP_SYS_ADMIN)", err)
	}
	return err
}
