// Package browse shows the files of a session's target as a directory of this
// machine, for people: each look at it is a request to the daemon, and nothing is
// kept for longer than a second. What is open is a file of package files' mount,
// the same as the debuggee's: what one writes the other reads. What is changed is
// changed in the target, as its user.
//
// The mount has a place, so unlike that of package files it stays, dead, when its
// server is killed: a process beside it takes it away then, and where that was
// killed, too, Sweep does.
package browse

import (
	"fmt"
	"os"
	"os/exec"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A Target has the files that are shown, by absolute paths. Its errors wrap the
// errno of a call on a disk.
type Target interface {
	// Stat tells of a path, of a link itself.
	Stat(path string) (protocol.Attr, error)
	Readlink(path string) (string, error)
	// Statfs tells of the file system that a path is in.
	Statfs(path string) (protocol.StatfsReply, error)
	// Xattr gives an extended attribute of a path, of a link itself; without a name
	// the names of all, each ended by NUL.
	Xattr(path, name string) ([]byte, error)
	// Access is access(2) for the target's user, and within what may be changed.
	Access(path string, mode uint32) error
	// Open opens a file as open(2) does with these flags, or makes it.
	Open(path string, flags int, mode uint32) (*os.File, error)
	Change(q protocol.Change) error
}

var fusermounts = []string{"fusermount3", "fusermount"}

// A Mount is a target's files at a directory.
type Mount struct {
	dir    string
	made   []string
	server *fuse.Server
	beside *sweeper
}

const (
	name    = "mirrord" // of the mount's source, and of its type
	keep    = time.Second
	maxRead = 1 << 20
)

// Start mounts a target's files at dir, an empty directory or one that it makes.
// writable: some of them may be changed, which the target says.
func Start(t Target, dir string, writable bool) (*Mount, error) {
	if err := available(); err != nil {
		return nil, err
	}
	made, err := place(dir)
	if err != nil {
		return nil, fmt.Errorf("showing files at %s: %w", dir, err)
	}
	beside, err := startSweeper(dir, made)
	if err != nil {
		remove(made)
		return nil, err
	}
	m := &Mount{dir: dir, made: made, beside: beside}
	if err := m.mount(t, writable); err != nil {
		m.away()
		return nil, err
	}
	return m, nil
}

func (m *Mount) mount(t Target, writable bool) error {
	timeout := keep
	options := []string{"ro"}
	if writable {
		options = nil
	}
	server, err := fs.Mount(m.dir, &node{target: t}, &fs.Options{
		EntryTimeout: &timeout, AttrTimeout: &timeout, NullPermissions: true,
		MountOptions: fuse.MountOptions{
			FsName: name, Name: name, Options: options, DirectMount: true,
			MaxWrite: maxRead, MaxReadAhead: maxRead,
		},
	})
	if err != nil {
		return &ide.Error{
			Code: ide.CodeUnsupported, Msg: fmt.Sprintf("mounting the target's files at %s: %v", m.dir, err), Err: err,
			Hint: "mounting takes root's rights or fusermount3 (package fuse3)",
		}
	}
	m.server = server
	return nil
}

// available tells what is missing here.
func available() error {
	_, err := os.Stat("/dev/fuse")
	if err != nil {
		return &ide.Error{
			Code: ide.CodeUnsupported, Msg: fmt.Sprintf("showing files: %v", err), Err: err,
			Hint: "load the kernel's fuse module (modprobe fuse), or give the container the device /dev/fuse",
		}
	}
	if os.Geteuid() == 0 {
		return nil
	}
	for _, name := range fusermounts {
		if _, err = exec.LookPath(name); err == nil {
			return nil
		}
	}
	return &ide.Error{
		Code: ide.CodeUnsupported, Msg: "showing files: who is not root mounts by fusermount3, which is not installed", Err: err,
		Hint: "install it, as with `apt install fuse3`",
	}
}

// End takes the mount away and the directories that Start made, and waits for its
// server. Who is inside has calls fail from then on. Where the kernel does not let us
// cut him off, which takes root's rights, his calls are answered until this process
// ends: nobody waits for that.
func (m *Mount) End() error {
	if err := m.unmount(); err != nil {
		return err // the process beside it tries again when this one has ended
	}
	m.away()
	return nil
}

func (m *Mount) away() {
	remove(m.made)
	m.beside.stop()
}

func (m *Mount) unmount() error {
	err := unix.Unmount(m.dir, unix.MNT_FORCE|unix.MNT_DETACH)
	if err == nil {
		m.server.Wait()
		return nil
	}
	if m.server.Unmount() == nil { // by fusermount, where nobody is inside
		return nil
	}
	if lazily(m.dir) != nil {
		return fmt.Errorf("unmounting %s: %w", m.dir, err)
	}
	return nil
}

// lazily unmounts what may be in use, as fusermount does for its owner.
func lazily(dir string) (err error) {
	for _, name := range fusermounts {
		if err = exec.Command(name, "-uz", dir).Run(); err == nil {
			return nil
		}
	}
	return err
}
