package files

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// maxHandles is the most files that one client may have open, if the agent may have
// so many: half of its own are for other clients, and for connections.
const maxHandles = 1 << 16

func mostHandles() int {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil { // package os has raised it
		return maxHandles
	}
	return int(min(limit.Cur/2, maxHandles))
}

// Handles are a client's view of the tree: the files that it has open.
type Handles struct {
	*Tree
	leases  atomic.Pointer[Leases] // nil: the client does not watch
	guesses guesses
	writers writers

	mu    sync.Mutex
	files map[uint64]*handle // guarded by mu; nil: closed for good
	last  uint64             // guarded by mu
}

// A handle is an open regular file or directory.
type handle struct {
	file   *os.File
	dir    *dir // nil: a regular file
	id     fileID
	writes bool
}

// Handles makes a client's empty set of open files.
func (t *Tree) Handles() *Handles {
	return &Handles{Tree: t, files: map[uint64]*handle{}}
}

// CloseAll closes what the client left open.
func (h *Handles) CloseAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, f := range h.files {
		f.file.Close()
	}
	h.files = nil
}

// Open opens a file of the target, or answers with its content where that is
// as small as asked for.
func (h *Handles) Open(q protocol.Open) (protocol.OpenReply, []byte, error) {
	return h.open(q, false)
}

// errNotInline: the content does not come with the answer.
var errNotInline = errors.New("not a small regular file")

// open does so; with inline only to answer with the content.
func (h *Handles) open(q protocol.Open, inline bool) (protocol.OpenReply, []byte, error) {
	if q.Change != nil {
		reply, err := h.openChange(q)
		return reply, nil, err
	}
	flags := noFollow(q.NoFollow)
	if q.Directory {
		flags |= unix.O_DIRECTORY
	}
	n, c, err := h.lookup(string(q.Path), q.Walk, flags, q.Lease)
	if err != nil {
		return protocol.OpenReply{}, nil, err
	}
	defer c.drop()
	defer n.Close()
	switch n.kind() {
	case unix.S_IFREG, unix.S_IFDIR:
	case unix.S_IFLNK: // found only where links are not to be followed
		return protocol.OpenReply{}, nil, unix.ELOOP
	default:
		return protocol.OpenReply{}, nil, fmt.Errorf("neither a regular file nor a directory: %w", unix.ENXIO)
	}
	want, limit := uint32(unix.R_OK), min(q.Inline, protocol.MaxPayload)
	if q.Search && n.kind() == unix.S_IFDIR {
		want, limit = unix.X_OK, 0
	}
	if err := h.permitted(n, want); err != nil {
		return protocol.OpenReply{}, nil, err
	}
	small := n.kind() == unix.S_IFREG && limit > 0 && n.stat.Size <= int64(limit) && !h.writers.has(idOf(&n.stat))
	if inline && !small {
		return protocol.OpenReply{}, nil, errNotInline
	}
	f, err := n.reopen()
	if err != nil {
		return protocol.OpenReply{}, nil, err
	}
	reply := protocol.OpenReply{Attr: attrOf(&n.stat), Path: protocol.Path(n.path)}
	if small {
		content, whole, err := readWhole(f, int(n.stat.Size), limit)
		if err == nil && whole {
			// What was read may be newer than what was found.
			if err = unix.Fstat(int(n.file.Fd()), &n.stat); err == nil {
				reply.Attr, reply.Beside = attrOf(&n.stat), h.beside(n, c != nil)
			}
		}
		switch {
		case err == nil && whole:
			reply.Lease = c.give(n)
		case err == nil && inline:
			err = errNotInline
		}
		if err != nil || whole {
			f.Close()
			return reply, content, err
		}
	}
	var list []byte
	if reply.Handle, err = h.add(n, f, false); err != nil {
		f.Close()
		return protocol.OpenReply{}, nil, err
	}
	if limit > 0 && n.kind() == unix.S_IFDIR {
		list = h.begin(q.Path, &reply)
	}
	return reply, list, nil
}

// begin lists the begin of a directory that was opened: who opens one mostly
// does so to read it. Why it could not, whoever reads it is told.
func (h *Handles) begin(path protocol.Path, reply *protocol.OpenReply) []byte {
	l, list, err := h.ReadDir(protocol.ReadDir{Handle: reply.Handle})
	if err != nil {
		return nil
	}
	reply.List = &l
	if !l.More {
		h.guesses.listed(string(path), list)
	}
	return list
}

// lookup finds path and, if lease asks for that, claims a lease on what will be
// answered of it: c is given when nothing is looked at any more, or dropped.
func (h *Handles) lookup(path string, walk *protocol.Walk, flags uint64, lease bool) (n *node, c *claim, err error) {
	if l := h.leases.Load(); lease && walk == nil && l != nil {
		c = l.claim(path, flags&unix.O_NOFOLLOW == 0)
	}
	n, err = h.findBy(path, walk, flags)
	if err == unix.ENOENT && c != nil {
		e := protocol.AsError("open", err)
		e.Lease = c.give(nil)
		err = e
	}
	if err != nil {
		c.drop()
	}
	return n, c, err
}

// Stat tells a file's attributes.
func (h *Handles) Stat(q protocol.Stat) (protocol.StatReply, []byte, error) {
	n, c, err := h.lookup(string(q.Path), q.Walk, noFollow(q.NoFollow), q.Lease)
	if err != nil {
		return protocol.StatReply{}, nil, err
	}
	defer c.drop()
	defer n.Close()
	c.within(n)
	r := protocol.StatReply{Attr: attrOf(&n.stat), Beside: h.beside(n, c != nil)}
	r.Lease = c.give(n)
	if q.Walk != nil {
		r.Path = protocol.Path(n.path)
	}
	return r, nil, nil
}

// readWhole reads f to its end if that comes within limit bytes; the size that
// a file claims to have is only a guess.
func readWhole(f *os.File, size, limit int) (content []byte, whole bool, err error) {
	buf := make([]byte, min(size, limit)+1)
	for n := 0; ; {
		got, err := f.ReadAt(buf[n:], int64(n))
		n += got
		switch {
		case err == io.EOF:
			return buf[:n], n <= limit, nil
		case err != nil:
			return nil, false, err
		case n > limit:
			return nil, false, nil
		}
		grown := make([]byte, min(2*len(buf)+512, limit+1))
		copy(grown, buf)
		buf = grown
	}
}

// add makes n, which f has open, a handle.
func (h *Handles) add(n *node, f *os.File, writes bool) (uint64, error) {
	id, err := h.keep(&handle{file: f, id: idOf(&n.stat), writes: writes}, n.kind() == unix.S_IFDIR)
	if err == nil && writes {
		h.writers.add(idOf(&n.stat), 1)
	}
	return id, err
}

func (h *Handles) keep(o *handle, directory bool) (uint64, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.files == nil {
		return 0, unix.EBADF
	}
	if len(h.files) >= h.MaxHandles {
		return 0, fmt.Errorf("client has %d files open: %w", len(h.files), unix.EMFILE)
	}
	h.last++
	if directory {
		o.dir = &dir{file: o.file}
	}
	h.files[h.last] = o
	return h.last, nil
}

func (h *Handles) get(id uint64) (*handle, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if o := h.files[id]; o != nil {
		return o, nil
	}
	return nil, fmt.Errorf("handle %d: %w", id, unix.EBADF)
}

// Read reads bytes of an open file into p, which has room for MaxPayload.
func (h *Handles) Read(q protocol.Read, p []byte) (int, error) {
	if q.Offset < 0 || q.Len < 0 || q.Len > protocol.MaxPayload {
		return 0, fmt.Errorf("reading %d bytes at %d: %w", q.Len, q.Offset, unix.EINVAL)
	}
	o, err := h.get(q.Handle)
	if err != nil {
		return 0, err
	}
	if o.dir != nil {
		return 0, unix.EISDIR
	}
	n, err := o.file.ReadAt(p[:q.Len], q.Offset)
	if err == io.EOF {
		err = nil
	}
	return n, closed(err)
}

// ReadDir answers with entries of an open directory.
func (h *Handles) ReadDir(q protocol.ReadDir) (protocol.ReadDirReply, []byte, error) {
	o, err := h.get(q.Handle)
	if err != nil {
		return protocol.ReadDirReply{}, nil, err
	}
	if o.dir == nil {
		return protocol.ReadDirReply{}, nil, unix.ENOTDIR
	}
	list, more, err := o.dir.entries(q.Offset)
	return protocol.ReadDirReply{More: more}, list, closed(err)
}

// Close closes an open file.
func (h *Handles) Close(q protocol.Close) (protocol.CloseReply, []byte, error) {
	o, err := h.get(q.Handle)
	if err != nil {
		return protocol.CloseReply{}, nil, err
	}
	h.mu.Lock()
	_, open := h.files[q.Handle]
	delete(h.files, q.Handle)
	h.mu.Unlock()
	if open && o.writes {
		h.writers.add(o.id, -1)
	}
	return protocol.CloseReply{}, nil, closed(o.file.Close())
}

// closed gives the error of a file that was closed meanwhile its errno.
func closed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("%w: %w", err, unix.EBADF)
	}
	return err
}
