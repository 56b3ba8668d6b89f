package files

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A shared is what a node has that all share who have its file open.
type shared struct {
	// guarded by nodes.mu
	claims  uint64 // how many the daemon had answered, of those that we know of
	pending int    // looked up and not opened yet

	openings map[uint64]int // by handle: the process that opened it for the debuggee, and has not closed it yet

	// what is fetched ahead of readers, until the file changes
	content atomic.Pointer[content]
	seen    atomic.Pointer[protocol.Attr] // as the daemon told last
	changes atomic.Uint64

	mu     sync.Mutex
	posted []*fetch      // guarded by mu; writes that nobody waited for, of those not answered the oldest first
	late   syscall.Errno // guarded by mu; what came of one of them
}

// mostPosted is how many writes to a file may wait for the daemon's answer while
// its writers go on: they hold slots that others need.
const mostPosted = 8

// age changes with what is written: what was read before is not for who asks
// after it. nil: of a node that does not change.
func (s *shared) age() uint64 {
	if s == nil {
		return 0
	}
	return s.changes.Load()
}

// written says that what was read before is not for who asks from now on.
func (fs *nodes) written(n *node) {
	if n.shared != nil {
		n.shared.changes.Add(1)
		fs.dropContent(n)
	}
}

func (fs *nodes) dropContent(n *node) {
	if c := n.shared.content.Swap(nil); c != nil {
		fs.cache.close(c)
	}
}

// told takes what the daemon tells of a shared node: others may have changed it.
func (fs *nodes) told(n *node, a protocol.Attr) {
	if old := n.shared.seen.Swap(&a); old != nil && (old.Size != a.Size || old.Mtime != a.Mtime) {
		fs.dropContent(n)
	}
}

// post notes a write that is on its way and not waited for. Where there are too
// many, the oldest is one to wait for.
func (s *shared) post(f *fetch) (oldest *fetch) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.posted = append(s.posted, f)
	s.prune()
	if len(s.posted) > mostPosted {
		return s.posted[0]
	}
	return nil
}

// prune takes what came of posted writes. s.mu is held.
func (s *shared) prune() {
	s.posted = slices.DeleteFunc(s.posted, func(f *fetch) bool {
		if !f.over() {
			return false
		}
		s.late = cmp.Or(s.late, f.errno)
		return true
	})
}

// failed gives the error that nobody was told of, once.
func (s *shared) failed() (errno syscall.Errno) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.prune()
	errno, s.late = s.late, 0
	return errno
}

// settle waits for what was posted. It tells whether all was answered.
func (s *shared) settle(interrupt <-chan struct{}, patience time.Duration) bool {
	s.mu.Lock()
	posted := slices.Clone(s.posted)
	s.mu.Unlock()
	for _, f := range posted {
		if !f.waitFor(interrupt, patience) {
			return false
		}
	}
	return true
}

// changePatience is how long a change is waited for after an interrupt: longer
// than a read, as programs expect EINTR of it even less.
const changePatience = time.Second

func (fs *nodes) lookupShared(interrupt <-chan struct{}, number uint64, out *fuse.EntryOut) fuse.Status {
	b, errno := fs.fetches.do(interrupt, request{op: opClaim, node: number})
	if errno != 0 {
		return fuse.Status(errno)
	}
	c, ok := decodeClaim(b)
	if !ok {
		return fuse.EIO
	}
	fs.mu.Lock()
	n := fs.claimed(c)
	n.lookups++
	n.shared.pending++
	fs.mu.Unlock()
	fs.told(n, c.Attr)
	out.NodeId, out.Generation = n.id+firstID, 1
	out.SetAttrTimeout(SharedTime)
	fs.setAttr(&out.Attr, c.Attr)
	return fuse.OK
}

// claimed notes a claim; fs.mu is held.
func (fs *nodes) claimed(c Claim) *node {
	n := fs.m[c.Node+firstID]
	if n == nil {
		n = &node{id: c.Node, shared: new(shared)}
		if c.Attr.Size > 0 {
			n.shared.content.Store(newContent(c.Node, c.Attr.Size))
		}
		fs.m[c.Node+firstID] = n
	}
	n.shared.claims = max(n.shared.claims, c.Count)
	return n
}

// unclaimed takes the answer to a claim whose asker was killed.
func (fs *nodes) unclaimed(r request, b []byte) {
	c, ok := decodeClaim(b)
	if r.op != opClaim || !ok {
		return
	}
	fs.mu.Lock()
	n := fs.claimed(c)
	last := n.opens == 0 && n.shared.pending == 0
	if last {
		delete(fs.m, c.Node+firstID)
	}
	fs.mu.Unlock()
	if last {
		fs.end(n)
	}
}

func (fs *nodes) sharedAttr(interrupt <-chan struct{}, n *node, out *fuse.AttrOut) fuse.Status {
	b, errno := fs.fetches.do(interrupt, request{op: opAttr, node: n.id, age: n.shared.age()})
	if errno != 0 {
		return fuse.Status(errno)
	}
	attr, _, ok := decodeAttrAhead(b)
	if !ok {
		return fuse.EIO
	}
	fs.told(n, attr)
	out.SetTimeout(SharedTime)
	fs.setAttr(&out.Attr, attr)
	return fuse.OK
}

// writable finds a shared node; others are for reading only.
func (fs *nodes) writable(id uint64) (*node, syscall.Errno) {
	switch n := fs.node(id); {
	case id == fuse.FUSE_ROOT_ID || n != nil && n.shared == nil:
		return nil, syscall.EROFS
	case n == nil:
		return nil, syscall.ESTALE
	default:
		return n, 0
	}
}

// Write is done when the data are on their way to the daemon, which does all that
// it is asked afterwards with them in view (see Server.CaughtUp). What comes of it
// the next call hears, at the latest close(2).
func (fs *nodes) Write(interrupt <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	return fs.Writev(interrupt, in, [][]byte{data})
}

func (fs *nodes) Writev(interrupt <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	n, errno := fs.writable(in.NodeId)
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	if errno := n.shared.failed(); errno != 0 {
		return 0, fuse.Status(errno)
	}
	r := request{op: opWrite, node: n.id, off: int64(in.Offset), flags: writeFlags(in)}
	f, errno := fs.send(interrupt, r, data...)
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	fs.written(n)
	switch synced := r.flags&(protocol.WriteSynced|protocol.WriteDataOnly) != 0; {
	case !synced:
		if oldest := n.shared.post(f); oldest != nil {
			oldest.wait(interrupt) // and if it does not: the data are on their way
		}
	case !f.wait(interrupt):
		n.shared.post(f)
	case f.errno != 0:
		return 0, fuse.Status(f.errno)
	}
	return in.Size, fuse.OK
}

func writeFlags(in *fuse.WriteIn) (flags uint32) {
	if in.WriteFlags&fuse.WRITE_CACHE != 0 {
		return 0 // pages of a mapping are where they are
	}
	if in.Flags&unix.O_APPEND != 0 {
		flags |= protocol.WriteAppend
	}
	switch {
	case in.Flags&unix.O_SYNC == unix.O_SYNC:
		flags |= protocol.WriteSynced
	case in.Flags&unix.O_DSYNC != 0:
		flags |= protocol.WriteDataOnly
	}
	return flags
}

// send sends a request with data, in a slot that is free again after the answer.
func (fs *nodes) send(interrupt <-chan struct{}, r request, data ...[]byte) (*fetch, syscall.Errno) {
	timer := time.NewTimer(fs.pool.timeout)
	slot, errno := fs.pool.take(timer.C, interrupt)
	if errno != 0 {
		timer.Stop()
		return nil, errno
	}
	for _, d := range data {
		r.n += uint32(copy(fs.pool.arena.slot(slot)[r.n:], d)) // no more than maxRead in all
	}
	if r.op == opWrite {
		fs.pool.arena.writes().Add(1)
	}
	answer := fs.pool.to.ask(r, slot)
	f := &fetch{done: make(chan struct{})}
	go func() {
		defer fs.pool.put(slot)
		defer timer.Stop()
		select {
		case a := <-answer:
			f.data, f.errno = a.data, a.errno
			close(f.done)
		case <-timer.C:
			f.errno = syscall.EIO
			close(f.done)
			<-answer
		}
	}()
	return f, 0
}

// change has the daemon change a file, and tells of it then.
func (fs *nodes) change(interrupt <-chan struct{}, n *node, q protocol.Write) (r protocol.WriteReply, errno syscall.Errno) {
	b, err := json.Marshal(q)
	if err != nil {
		return r, syscall.EIO
	}
	f, errno := fs.send(interrupt, request{op: opChange, node: n.id}, b)
	if errno != 0 {
		return r, errno
	}
	came := f.waitFor(interrupt, changePatience)
	fs.written(n)
	switch {
	case !came:
		return r, syscall.EINTR
	case f.errno != 0:
		return r, f.errno
	}
	r, ok := decodeChanged(f.data)
	if !ok {
		return r, syscall.EIO
	}
	return r, 0
}

// SetAttr sets attributes of what is for reading, too, if the daemon says so.
func (fs *nodes) SetAttr(interrupt <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n := fs.node(in.NodeId)
	switch {
	case in.NodeId == fuse.FUSE_ROOT_ID:
		return readOnly
	case n == nil:
		return fuse.Status(syscall.ESTALE)
	}
	r, errno := fs.change(interrupt, n, protocol.Write{Do: protocol.WriteAttr, Set: setOf(in)})
	if errno != 0 {
		return fuse.Status(errno)
	}
	if n.shared != nil {
		out.SetTimeout(SharedTime)
		fs.setAttr(&out.Attr, r.Attr)
		return fuse.OK
	}
	fs.mu.Lock()
	r.Attr.Size, r.Attr.Mtime = n.attr.Size, n.attr.Mtime // whose change freshAttr must see
	n.attr = r.Attr
	fs.mu.Unlock()
	out.SetTimeout(n.attrTime())
	fs.setAttr(&out.Attr, r.Attr)
	return fuse.OK
}

func setOf(in *fuse.SetAttrIn) *protocol.SetAttr {
	s := new(protocol.SetAttr)
	if in.Valid&fuse.FATTR_SIZE != 0 {
		s.Size = new(int64(in.Size))
	}
	if in.Valid&fuse.FATTR_MODE != 0 {
		s.Mode = new(in.Mode & 0o7777)
	}
	if in.Valid&fuse.FATTR_UID != 0 {
		s.UID = new(in.Uid)
	}
	if in.Valid&fuse.FATTR_GID != 0 {
		s.GID = new(in.Gid)
	}
	if in.Valid&fuse.FATTR_ATIME != 0 {
		s.Atime = &protocol.Time{NS: nanoseconds(in.Atime, in.Atimensec), Now: in.Valid&fuse.FATTR_ATIME_NOW != 0}
	}
	if in.Valid&fuse.FATTR_MTIME != 0 {
		s.Mtime = &protocol.Time{NS: nanoseconds(in.Mtime, in.Mtimensec), Now: in.Valid&fuse.FATTR_MTIME_NOW != 0}
	}
	return s
}

func nanoseconds(s uint64, ns uint32) int64 { return int64(s)*1e9 + int64(ns) }

func (fs *nodes) Fsync(interrupt <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, errno := fs.writable(in.NodeId)
	if errno != 0 {
		return fuse.OK // what cannot be written is on the disk
	}
	if !n.shared.settle(interrupt, changePatience) {
		return fuse.EINTR
	}
	if errno := n.shared.failed(); errno != 0 {
		return fuse.Status(errno)
	}
	return fs.sync(interrupt, n, in)
}

// FsyncDir is for who has made files in a directory.
func (fs *nodes) FsyncDir(interrupt <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	return fs.sync(interrupt, n, in)
}

func (fs *nodes) sync(interrupt <-chan struct{}, n *node, in *fuse.FsyncIn) fuse.Status {
	q := protocol.Write{Do: protocol.WriteSync}
	if in.FsyncFlags&1 != 0 {
		q.Flags = protocol.WriteDataOnly
	}
	_, errno := fs.change(interrupt, n, q)
	return fuse.Status(errno)
}

// opened notes who opens a node, and gives it a handle. fs.mu is held.
func (fs *nodes) opened(n *node, in *fuse.OpenIn) (handle uint64) {
	fs.handles++
	if n.shared.pending == 0 {
		return fs.handles // by way of /proc
	}
	n.shared.pending--
	if launcher := processOf(in.Pid); launcher != 0 {
		if n.shared.openings == nil {
			n.shared.openings = make(map[uint64]int)
		}
		n.shared.openings[fs.handles] = launcher
	}
	return fs.handles
}

// handedOver tells whether a close is that of the launcher, which has given the
// descriptor to the debuggee: it must not be told what is the debuggee's to hear.
func (fs *nodes) handedOver(n *node, in *fuse.FlushIn) bool {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	launcher := n.shared.openings[in.Fh]
	if launcher == 0 {
		return false
	}
	if _, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", launcher, in.Pid)); err != nil {
		return false
	}
	delete(n.shared.openings, in.Fh)
	return true
}

// processOf is the process of a thread, 0 if that is not known.
func processOf(thread uint32) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", thread))
	if err != nil {
		return 0
	}
	_, after, _ := bytes.Cut(status, []byte("\nTgid:"))
	line, _, _ := bytes.Cut(after, []byte("\n"))
	process, _ := strconv.Atoi(string(bytes.TrimSpace(line)))
	return process
}

// Flush is a close(2). One that is interrupted does not wait.
func (fs *nodes) Flush(interrupt <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	n, errno := fs.writable(in.NodeId)
	if errno != 0 || fs.handedOver(n, in) {
		return fuse.OK
	}
	if !n.shared.settle(interrupt, patience) {
		return fuse.OK
	}
	if errno := n.shared.failed(); errno != 0 {
		return fuse.Status(errno)
	}
	f, errno := fs.send(interrupt, request{op: opFlush, node: n.id})
	switch {
	case errno == syscall.EINTR || errno == 0 && !f.wait(interrupt):
		return fuse.OK
	case errno != 0:
		return fuse.Status(errno)
	}
	return fuse.Status(f.errno)
}

func (fs *nodes) Fallocate(interrupt <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n, errno := fs.writable(in.NodeId)
	if errno != 0 {
		return fuse.Status(errno)
	}
	_, errno = fs.change(interrupt, n, protocol.Write{Do: protocol.WriteAllocate, Flags: in.Mode, Offset: int64(in.Offset), Length: int64(in.Length)})
	return fuse.Status(errno)
}

// Lseek finds data and holes; of a file for reading it says that all is data.
func (fs *nodes) Lseek(interrupt <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.shared != nil {
		r, errno := fs.change(interrupt, n, protocol.Write{Do: protocol.WriteSeek, Offset: int64(in.Offset), Whence: int(in.Whence)})
		out.Offset = uint64(r.Offset)
		return fuse.Status(errno)
	}
	size := uint64(max(fs.attrOf(n).Size, 0))
	switch {
	case in.Offset >= size:
		return fuse.Status(syscall.ENXIO)
	case in.Whence == unix.SEEK_HOLE:
		out.Offset = size
	default:
		out.Offset = in.Offset
	}
	return fuse.OK
}
