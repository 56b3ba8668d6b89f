package files

import (
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// forever is how long the kernel may keep attributes, which do not change.
const forever = 24 * time.Hour

// firstID is the FUSE id of node 0; 1 is the root's.
const firstID = fuse.FUSE_ROOT_ID + 1

// nodes is the file system: a flat table of what is open.
type nodes struct {
	fuse.RawFileSystem // ENOSYS
	pool               *pool
	fetches            fetches
	cache              *cache
	real               bool // owners are shown as they are in the target
	server             *fuse.Server

	mu      sync.Mutex
	m       map[uint64]*node // guarded by mu; by FUSE id
	handles uint64           // guarded by mu; the last one
}

// A node is one opened file or directory of a target.
type node struct {
	id uint64 // the daemon's

	// guarded by nodes.mu
	attr    protocol.Attr
	lookups uint64
	opens   int
	swept   bool // sweep saw it unopened

	content *content // of a regular file
	shared  *shared  // of what is open for writing

	mu      sync.Mutex
	listing *listing // guarded by mu; of a directory, the part read last
}

func newNodes(p *pool, real bool) *nodes {
	fs := &nodes{
		RawFileSystem: fuse.NewDefaultRawFileSystem(),
		pool:          p,
		fetches:       fetches{pool: p, m: make(map[request]*single)},
		cache:         newCache(p),
		real:          real,
		m:             make(map[uint64]*node),
	}
	fs.fetches.unasked = fs.unclaimed
	return fs
}

func (fs *nodes) node(id uint64) *node {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return fs.m[id]
}

// number is the node that a name stands for (see layer.NodeName).
func number(name string) (uint64, bool) { return numberAfter("n", name) }

// sharedNumber is the one that a shared node is opened by (see layer.SharedName).
func sharedNumber(name string) (uint64, bool) { return numberAfter("w", name) }

func numberAfter(prefix, name string) (uint64, bool) {
	digits, ok := strings.CutPrefix(name, prefix)
	n, err := strconv.ParseUint(digits, 10, 63)
	return n, ok && err == nil && strconv.FormatUint(n, 10) == digits
}

func (fs *nodes) Lookup(interrupt <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	if num, ok := sharedNumber(name); ok && h.NodeId == fuse.FUSE_ROOT_ID {
		return fs.lookupShared(interrupt, num, out)
	}
	num, ok := number(name)
	if h.NodeId != fuse.FUSE_ROOT_ID || !ok {
		return fuse.ENOENT
	}
	id := num + firstID
	fs.mu.Lock()
	n := fs.m[id]
	fs.mu.Unlock()
	if n == nil {
		b, errno := fs.fetches.do(interrupt, request{op: opAttr, node: num})
		if errno != 0 {
			return fuse.Status(errno)
		}
		attr, ahead, ok := decodeAttrAhead(b)
		if !ok {
			return fuse.EIO
		}
		n = &node{id: num, attr: attr}
		if attr.Mode&unix.S_IFMT == unix.S_IFREG && attr.Size > 0 {
			n.content = newContent(num, attr.Size)
			n.content.most = blocksAhead(ahead)
		}
	}
	fs.mu.Lock()
	if other := fs.m[id]; other != nil {
		n = other
	}
	fs.m[id] = n
	n.lookups++
	attr := n.attr
	fs.mu.Unlock()
	out.NodeId, out.Generation = id, 1
	out.SetAttrTimeout(n.attrTime())
	fs.setAttr(&out.Attr, attr)
	return fuse.OK
}

// Forget is only about nodes that were never opened: others ended before it.
func (fs *nodes) Forget(id, lookups uint64) {
	fs.mu.Lock()
	n := fs.m[id]
	if n == nil {
		fs.mu.Unlock()
		return
	}
	n.lookups -= min(lookups, n.lookups)
	last := n.lookups == 0 && n.opens == 0
	if last {
		delete(fs.m, id)
	}
	fs.mu.Unlock()
	if last {
		fs.end(n)
	}
}

// end tells the daemon of a node that is not in the table any more.
func (fs *nodes) end(n *node) {
	if n.shared != nil {
		fs.pool.to.send(request{op: opLeft, node: n.id, off: int64(n.shared.claims)}, 0, 0)
	} else {
		fs.pool.to.release(n.id)
	}
}

// sweep asks the kernel to forget what was looked up but not opened since the
// last sweep but one, as when the opener was killed in between. By itself the
// kernel keeps such names until it needs the memory. Where somebody still has
// one (O_PATH) it forgets it with the last of them.
func (fs *nodes) sweep(forget func(name string)) {
	var names []string
	var left []*node
	fs.mu.Lock()
	for id, n := range fs.m {
		switch {
		case n.opens > 0 || !n.swept:
		case n.shared != nil: // by what name it was looked up and not opened is not known
			delete(fs.m, id)
			left = append(left, n)
		default:
			names = append(names, layer.NodeName(n.id))
		}
		n.swept = n.opens == 0
	}
	fs.mu.Unlock()
	for _, n := range left {
		fs.end(n)
	}
	for _, name := range names {
		forget(name)
	}
}

func (fs *nodes) GetAttr(interrupt <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	out.SetTimeout(forever)
	if in.NodeId == fuse.FUSE_ROOT_ID {
		out.Mode, out.Nlink, out.Ino = fuse.S_IFDIR|0o711, 2, 1
		return fuse.OK
	}
	n := fs.node(in.NodeId)
	if n == nil {
		return fuse.Status(syscall.ESTALE)
	}
	if n.shared != nil {
		return fs.sharedAttr(interrupt, n, out)
	}
	if n.content != nil {
		return fs.freshAttr(interrupt, n, out)
	}
	fs.setAttr(&out.Attr, fs.attrOf(n))
	return fuse.OK
}

// attrTime is how long the kernel may keep attributes: a regular file can grow
// while it is open, which a reader at its end asks for.
func (n *node) attrTime() time.Duration {
	if n.content != nil {
		return SharedTime
	}
	return forever
}

// freshAttr asks what has become of a regular file. Of one that has changed the
// kernel must not keep a page: the last may have zeros where there is something
// now. It takes no notice of an answer that it was told so before, and asks again.
func (fs *nodes) freshAttr(interrupt <-chan struct{}, n *node, out *fuse.AttrOut) fuse.Status {
	b, errno := fs.fetches.do(interrupt, request{op: opAttr, node: n.id})
	if errno != 0 {
		return fuse.Status(errno)
	}
	attr, _, ok := decodeAttrAhead(b)
	if !ok {
		return fuse.EIO
	}
	fs.mu.Lock()
	old := n.attr
	n.attr = attr
	fs.mu.Unlock()
	if old.Size != attr.Size || old.Mtime != attr.Mtime {
		fs.cache.changed(n.content, attr.Size)
		fs.server.InodeNotify(n.id+firstID, 0, 0)
	}
	out.SetTimeout(SharedTime)
	fs.setAttr(&out.Attr, attr)
	return fuse.OK
}

// Init is called before any other.
func (fs *nodes) Init(s *fuse.Server) { fs.server = s }

func (fs *nodes) attrOf(n *node) protocol.Attr {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return n.attr
}

func (fs *nodes) setAttr(out *fuse.Attr, a protocol.Attr) {
	out.Ino, out.Mode, out.Nlink, out.Rdev = a.Ino, a.Mode, a.Nlink, uint32(a.Rdev)
	out.Size, out.Blocks = uint64(max(a.Size, 0)), uint64(max(a.Blocks, 0))
	// The kernel computes with it and takes no other for granted.
	out.Blksize = 4096
	if fs.real {
		out.Owner = fuse.Owner{Uid: a.UID, Gid: a.GID}
	}
	out.Atime, out.Atimensec = unixTime(a.Atime)
	out.Mtime, out.Mtimensec = unixTime(a.Mtime)
	out.Ctime, out.Ctimensec = unixTime(a.Ctime)
}

func unixTime(ns int64) (uint64, uint32) {
	t := time.Unix(0, ns)
	return uint64(t.Unix()), uint32(t.Nanosecond())
}

func (fs *nodes) StatFs(_ <-chan struct{}, _ *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return fuse.OK
}
