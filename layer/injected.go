package layer

import (
	"errors"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// maxFiles bounds what is remembered of injected files, and as much of those that
// paths lead through; the oldest go first. What is forgotten still reads rightly,
// and tells its attributes as set on it; what needs its path fails.
const maxFiles = 1 << 16

var errForgotten = errors.New("a descriptor of the target's is older than what is remembered of them")

// A file is a file of the target that the debuggee was given.
type file struct {
	path string // in the target, resolved
	attr protocol.Attr
	bare bool   // what stands for it has nothing of it: O_PATH asks for no more
	id   uint64 // of what may change while it is open: OpStat asks for it by that

	whole bool                         // it came whole: a memfd stands for it
	seen  uint64                       // of injected.changes, when it was opened
	newer *atomic.Pointer[changedAttr] // of whole: what is so after a change of ours
	until time.Time                    // of what has an id: attr is taken as true till then
}

// A changedAttr is what was told of a file after so many changes.
type changedAttr struct {
	attr    protocol.Attr // while its name was its own
	changes uint64
	gone    bool // its name is nobody's any more, or another's
}

// nodeBits is how many bits of a node's number are the file server's own; above
// them is which of the daemons, one after another, it is of.
const nodeBits = 48

func nodeOf(server int, node uint64) uint64 { return uint64(server)<<nodeBits | node }

// injected knows the files that the debuggee was given: memfds by inode, nodes
// of the file servers by number.
type injected struct {
	follow func(k *kept, memfd int) // takes over what a file in memory was made of

	any     atomic.Int64  // how many were ever given
	changes atomic.Uint64 // how often the debuggee has changed files by name

	max int // maxFiles, but in tests

	mu      sync.RWMutex
	servers []server      // guarded by mu; the last is the one in use
	memfds  table[uint64] // guarded by mu
	nodes   table[uint64] // guarded by mu
	dirs    table[string] // guarded by mu; by path of what stands in for them
}

// A table has files by what tells them apart.
type table[K comparable] struct {
	files map[K]*file
	order [2][]K // oldest first; the second: of those that paths lead through
}

func (t *table[K]) add(max int, key K, f *file) {
	if t.files == nil {
		t.files = make(map[K]*file)
	}
	if _, known := t.files[key]; !known {
		order := &t.order[0]
		if f.bare || f.attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			order = &t.order[1]
		}
		if len(*order) >= max {
			delete(t.files, (*order)[0])
			*order = (*order)[1:]
		}
		*order = append(*order, key)
	}
	t.files[key] = f
}

// A server is a daemon's file server.
type server struct {
	root  *os.File // nil where there is none, or none any more
	text  string   // what /proc says of root; "" for a mount that has no place
	mount string   // root's mount id; "" where there is none
}

const rootKept = 5 * time.Second

func (t *injected) init(root *os.File) {
	t.max = maxFiles
	t.serve(root)
}

// serve takes the next file server in use. Of the nodes of earlier ones it is
// still known what they are, but they cannot be read.
func (t *injected) serve(root *os.File) {
	s := server{root: root}
	if root != nil {
		fd := strconv.Itoa(int(root.Fd()))
		s.text, _ = os.Readlink("/proc/self/fd/" + fd)
		s.text = strings.TrimSuffix(s.text, "/")
		s.mount = mountID("/proc/self/fdinfo/" + fd)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if n := len(t.servers); n > 0 && t.servers[n-1].root != nil {
		old := t.servers[n-1].root
		t.servers[n-1].root = nil
		// Whoever has just been given it may use it yet. Then it must go: the
		// file server of a daemon that is gone lives as long as somebody has it.
		time.AfterFunc(rootKept, func() { old.Close() })
	}
	t.servers = append(t.servers, s)
}

func (t *injected) addMemfd(ino uint64, f *file) {
	t.any.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.memfds.add(t.max, ino, f)
}

// update gives a memfd the attributes that it has after so many changes.
func (t *injected) update(ino uint64, attr protocol.Attr, changes uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if f := t.memfds.files[ino]; f != nil {
		g := *f // calls are using f
		g.attr, g.seen, g.newer = attr, changes, new(atomic.Pointer[changedAttr])
		t.memfds.files[ino] = &g
	}
}

// lost tells of a memfd whose file has not its name any more.
func (t *injected) lost(ino uint64) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	f := t.memfds.files[ino]
	if f == nil {
		return
	}
	known := f.newer.Load()
	now := changedAttr{attr: f.attr, changes: f.seen}
	if known != nil {
		now = *known
	}
	now.gone = true
	f.newer.CompareAndSwap(known, &now)
}

func (t *injected) addNode(node uint64, f *file) {
	t.any.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.nodes.add(t.max, node, f)
}

func (t *injected) addDir(path string, f *file) {
	t.any.Add(1)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.dirs.add(t.max, path, f)
}

// mountID reads the mount id of a descriptor from its fdinfo (proc_pid_fdinfo(5)).
func mountID(fdinfo string) string {
	b, _ := os.ReadFile(fdinfo)
	_, after, _ := strings.Cut(string(b), "mnt_id:")
	id, _, _ := strings.Cut(after, "\n")
	return strings.TrimSpace(id)
}

// byText finds the node whose /proc text this is, or what stands in for a
// directory. fdinfo, if there is one, tells
// file servers apart, and from a file of this machine that is called alike.
func (t *injected) byText(text, fdinfo string) *file {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if f := t.dirs.files[text]; f != nil {
		return f
	}
	mount := ""
	for i := len(t.servers) - 1; i >= 0; i-- {
		s := &t.servers[i]
		node, ok := s.node(text)
		f := t.nodes.files[nodeOf(i, node)]
		if !ok || f == nil {
			continue
		}
		if fdinfo != "" && mount == "" {
			mount = mountID(fdinfo)
		}
		if mount == "" || mount == s.mount {
			return f
		}
	}
	return nil
}

// node is the node whose /proc text that is, if it is s's.
func (s *server) node(text string) (uint64, bool) {
	if s.mount == "" || !strings.HasPrefix(text, s.text) {
		return 0, false
	}
	name := strings.TrimSuffix(text[len(s.text):], " (deleted)")
	if !strings.HasPrefix(name, "/n") && !strings.HasPrefix(name, "/w") { // wire.NodeName, wire.SharedName
		return 0, false
	}
	node, err := strconv.ParseUint(name[len("/n"):], 10, nodeBits)
	return node, err == nil
}

// forgotten tells whether a link in /proc that says text, and is nothing that we
// know, leads to what the debuggee was given.
func (t *injected) forgotten(link, text string) bool {
	if strings.HasPrefix(text, memfdText) {
		return strings.HasPrefix(text, memfdText+memfdName)
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	mount := ""
	for i := range t.servers {
		s := &t.servers[i]
		if _, ok := s.node(text); !ok {
			continue
		}
		if mount == "" {
			var st unix.Statx_t
			if unix.Statx(unix.AT_FDCWD, link, unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID, &st) != nil {
				return true
			}
			mount = strconv.FormatUint(st.Mnt_id, 10)
		}
		if mount == s.mount {
			return true
		}
	}
	return false
}

// memfdText is what /proc says of a memfd, before its name.
const (
	memfdText = "/memfd:"
	memfdName = "mirrord"
)

// byFD finds what the calling thread has open as fd.
func (t *injected) byFD(c *call, fd int32) *file {
	if fd < 0 {
		return nil
	}
	return t.of(c.proc(""), fd)
}

// of finds what a task, by its directory in /proc, has open as fd, or with
// AT_FDCWD as its working directory. It makes no call that can wait.
func (t *injected) of(task string, fd int32) *file {
	if t.any.Load() == 0 {
		return nil
	}
	at := link(task, fd)
	text, err := os.Readlink(at)
	if err != nil {
		return nil
	}
	if fd == unix.AT_FDCWD {
		return t.byText(text, "")
	}
	if !strings.HasPrefix(text, memfdText) {
		return t.byText(text, task+"fdinfo/"+strconv.Itoa(int(fd)))
	}
	var st unix.Stat_t
	if err := unix.Stat(at, &st); err != nil {
		return nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.memfds.files[st.Ino]
}

// open makes the descriptor for a reply to OpOpen. A node that it fails to open
// is the daemon's to drop, when the launcher's connection ends.
func (t *injected) open(r reply, path string, flags int) (int, error) {
	f := &file{path: path, attr: r.Attr}
	if resolved, _ := wire.CutXattrs(r.Data); resolved != "" {
		f.path = resolved
	}
	switch {
	case r.Flags&wire.ReplyNode != 0:
		closeFD(r.fd)
		root := t.rootOf(r.Node)
		if root == nil {
			return -1, unix.EIO
		}
		// What creates or truncates is not the file server's to do again.
		name := wire.NodeName(r.Node & (1<<nodeBits - 1))
		kept := unix.O_DIRECTORY | unix.O_NONBLOCK | unix.O_NOATIME
		if r.Flags&wire.ReplyShared != 0 {
			name = wire.SharedName(r.Node & (1<<nodeBits - 1))
			kept = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DIRECT | unix.O_NONBLOCK
			f.id = r.File
		} else if r.Flags&wire.ReplyChanges != 0 {
			f.id = r.Node
		} else if r.Attr.Mode&unix.S_IFMT == unix.S_IFREG { // others may change it
			f.id, f.until = r.Node, time.Now().Add(followEach)
		}
		flags = flags&kept | unix.O_NOFOLLOW | unix.O_CLOEXEC
		for {
			fd, err := unix.Openat(int(root.Fd()), name, flags, 0)
			switch err {
			case unix.EINTR: // by a signal to us, which the file server is told of
				continue
			case nil:
				t.addNode(r.Node, f)
			case unix.ENOTCONN, unix.ECONNABORTED: // the file server is gone
				err = unix.EIO
			}
			return fd, err
		}
	case r.fd >= 0 && r.Attr.Mode&unix.S_IFMT == unix.S_IFDIR:
		text, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(r.fd))
		if err != nil {
			closeFD(r.fd)
			return -1, err
		}
		t.addDir(text, f)
		return r.fd, nil
	case r.fd >= 0:
		defer unix.Close(r.fd)
		return t.openMemfd(r.fd, f)
	}
	return -1, unix.EIO
}

// newEmpty makes an empty file in memory that nobody can change.
func newEmpty() (fd int, err error) {
	fd, err = unix.MemfdCreate(memfdName, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return -1, err
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, unix.F_SEAL_WRITE|unix.F_SEAL_GROW|unix.F_SEAL_SHRINK|unix.F_SEAL_SEAL); err != nil {
		unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// inUse tells whether a node is of the file server in use.
func (t *injected) inUse(node uint64) bool {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return node>>nodeBits == uint64(len(t.servers)-1)
}

// rootOf is the root of the file server in use, nil if that is not node's.
func (t *injected) rootOf(node uint64) *os.File {
	t.mu.RLock()
	defer t.mu.RUnlock()
	i := len(t.servers) - 1
	if node>>nodeBits != uint64(i) {
		return nil
	}
	return t.servers[i].root
}

// leave gives up memfd, which has what k says; others may have it open.
func (t *injected) leave(k *kept, memfd int) {
	if t.follow == nil {
		unix.Close(memfd)
		return
	}
	t.follow(k, memfd)
}

// openMemfd opens the memfd anew: with an offset of its own and for reading
// only. Its mode and times are set to the target's, but for the right to write, so
// that whoever looks past the hooks sees no nonsense.
func (t *injected) openMemfd(memfd int, f *file) (int, error) {
	fd, err := unix.Open("/proc/self/fd/"+strconv.Itoa(memfd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		unix.Close(fd)
		return -1, err
	}
	if mode := f.attr.Mode & 0o7555; st.Mode&0o7777 != mode || unix.TimespecToNsec(st.Mtim) != f.attr.Mtime {
		setImmutable(fd, false)
		_ = unix.Fchmod(fd, mode)
		times := []unix.Timespec{unix.NsecToTimespec(f.attr.Atime), unix.NsecToTimespec(f.attr.Mtime)}
		_ = unix.UtimesNanoAt(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), times, 0)
		setImmutable(fd, true)
	}
	f.whole, f.seen, f.newer = true, t.changes.Load(), new(atomic.Pointer[changedAttr])
	t.addMemfd(st.Ino, f)
	return fd, nil
}

// setImmutable keeps anybody from opening a memfd for writing, but not who has done
// so before, where that can be had (ioctl_iflags(2)).
func setImmutable(fd int, on bool) {
	const immutable = 0x10 // FS_IMMUTABLE_FL
	flags := 0
	if on {
		flags = immutable
	}
	_ = unix.IoctlSetPointerInt(fd, unix.FS_IOC_SETFLAGS, flags)
}
