package layer

import (
	"context"
	"log/slog"
	"os"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// A Tree is all the target's files, for a person and not a debuggee: the policy
// says only which of them may be changed. Its errors are a call's errno.
type Tree struct {
	c      *Client
	policy *policy.Policy
	given  injected
}

// DialTree visits a session, by the daemon's layer socket.
func DialTree(ctx context.Context, log *slog.Logger, path, session string, p *policy.Policy) (*Tree, error) {
	c, err := dial(ctx, log, path, session, wire.AttachVisitor)
	if err != nil {
		return nil, err
	}
	t := &Tree{c: c, policy: p}
	t.given.init(c.root())
	return t, nil
}

// Close ends the visit.
func (t *Tree) Close() error { return t.c.Close() }

func (t *Tree) writable(path string) bool {
	v := t.policy.Path(path)
	return v.Kind == policy.Remote && v.Writable
}

// ask has the daemon do what needs no descriptor.
func (t *Tree) ask(q *wire.Request) (*wire.Reply, error) {
	r := t.c.call(q)
	closeFD(r.fd)
	return &r.Reply, errnoOf(&r)
}

func errnoOf(r *reply) error { return errOf(unix.Errno(r.Errno)) }

func errOf(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// Stat tells of a path, of a link itself.
func (t *Tree) Stat(path string) (protocol.Attr, error) {
	r := t.c.stat(path, true)
	return r.Attr, errnoOf(&r)
}

// Readlink gives a link's text.
func (t *Tree) Readlink(path string) (string, error) {
	text, errno := t.c.readlink(path)
	return text, errOf(errno)
}

// Statfs tells of the file system that a path is in.
func (t *Tree) Statfs(path string) (protocol.StatfsReply, error) {
	r, err := t.ask(&wire.Request{Op: wire.OpStatfs, Path: path})
	if err != nil {
		return protocol.StatfsReply{}, err
	}
	return wire.DecodeStatfs(r.Data)
}

// Xattr gives an extended attribute of a path, of a link itself; without a name the
// names of all, each ended by NUL.
func (t *Tree) Xattr(path, name string) ([]byte, error) {
	b, errno := t.c.xattr(path, name, true)
	return b, errOf(errno)
}

// Access is access(2) for the target's user.
func (t *Tree) Access(path string, mode uint32) error {
	writes := mode&unix.W_OK != 0 && !t.writable(path)
	if writes {
		mode &^= unix.W_OK
	}
	if errno := t.c.access(path, mode); errno != 0 {
		return errno
	}
	if writes {
		return unix.EROFS
	}
	return nil
}

// Open opens a file as open(2) does with these flags, or makes it. What it gives
// is the file that debuggees have open, too.
func (t *Tree) Open(path string, flags int, mode uint32) (*os.File, error) {
	q := wire.Request{Op: wire.OpOpen, Flags: openFlags(flags) | changeFlags(flags), Path: path, Node: uint64(mode & 0o7777)}
	switch writable := t.writable(path); {
	case writable && q.Flags&wire.OpenChange == 0:
		q.Flags |= wire.OpenMayChange
	case !writable && q.Flags&wire.OpenChange != 0:
		return nil, unix.EROFS
	}
	fd, err := t.c.open(&q, &t.given, flags)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// Change changes files by name.
func (t *Tree) Change(q protocol.Change) error {
	if !t.writable(string(q.Path)) || (q.Op == protocol.ChangeLink || q.Op == protocol.ChangeRename) && !t.writable(string(q.Other)) {
		return unix.EROFS
	}
	if len(q.Path) > wire.MaxPath || len(q.Other) > wire.MaxPath {
		return unix.ENAMETOOLONG
	}
	_, err := t.ask(&wire.Request{Op: wire.OpChange, Path: string(wire.AppendChange(nil, &q))})
	return err
}
