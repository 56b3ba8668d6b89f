package session

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// inline is the most content that comes with an open; such a file needs no
// file server.
const inline = 64 << 10

func (l *launcher) open(r *layer.Request, reply *layer.Reply) (*os.File, error) {
	t := l.s.agent.tunnel
	request := protocol.Open{
		Path: r.Path, Directory: r.Flags&layer.OpenDirectory != 0, NoFollow: r.Flags&layer.OpenNoFollow != 0, Inline: inline, Lease: true,
	}
	var opened protocol.OpenReply
	content, err := t.Call(l.ctx, protocol.KindOpen, request, &opened)
	if err != nil {
		return nil, err
	}
	reply.Attr, reply.Data, reply.Lease = opened.Attr, cut(opened.Path), opened.Lease
	if opened.Handle == 0 {
		return sealed(content, opened.Attr.Mode)
	}
	reply.Node = l.m.nodes.add(l, t, opened)
	reply.Flags |= layer.ReplyNode
	return nil, nil
}

func (l *launcher) stat(r *layer.Request, reply *layer.Reply) error {
	var stat protocol.StatReply
	request := protocol.Stat{Path: r.Path, NoFollow: r.Flags&layer.OpenNoFollow != 0, Lease: true}
	_, err := l.s.agent.tunnel.Call(l.ctx, protocol.KindStat, request, &stat)
	reply.Attr, reply.Lease = stat.Attr, stat.Lease
	return err
}

func (l *launcher) readlink(r *layer.Request, reply *layer.Reply) error {
	text, err := l.s.agent.tunnel.Call(l.ctx, protocol.KindReadlink, protocol.Readlink{Path: r.Path}, new(protocol.ReadlinkReply))
	reply.Data = cut(string(text))
	return err
}

func (l *launcher) access(r *layer.Request) error {
	_, err := l.s.agent.tunnel.Call(l.ctx, protocol.KindAccess, protocol.Access{Path: r.Path, Mode: r.Mode}, new(protocol.AccessReply))
	return err
}

// sealed makes a read-only file in memory that nobody can change.
func sealed(content []byte, mode uint32) (*os.File, error) {
	fd, err := unix.MemfdCreate("mirrord", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making memfd: %w", err)
	}
	defer unix.Close(fd)
	for rest := content; len(rest) > 0; {
		n, err := unix.Write(fd, rest)
		if err != nil {
			return nil, fmt.Errorf("filling memfd: %w", err)
		}
		rest = rest[n:]
	}
	if err := unix.Fchmod(fd, mode&0o777); err != nil {
		return nil, fmt.Errorf("making memfd: %w", err)
	}
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_GROW | unix.F_SEAL_SHRINK | unix.F_SEAL_SEAL
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		return nil, fmt.Errorf("sealing memfd: %w", err)
	}
	// The debuggee asked for reading: F_GETFL must say O_RDONLY.
	reader, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", fd), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("reopening memfd: %w", err)
	}
	return os.NewFile(uintptr(reader), "memfd"), nil
}

// nodes are the files of all sessions that the file server shows.
type nodes struct {
	log *slog.Logger

	mu   sync.Mutex
	last uint64
	open map[uint64]*node // guarded by mu
}

type node struct {
	tunnel *tunnel.Tunnel
	handle uint64
	attr   protocol.Attr
	owner  *launcher
	seen   bool // guarded by nodes.mu; the file server has asked for it
}

func newNodes(log *slog.Logger) *nodes { return &nodes{log: log, open: map[uint64]*node{}} }

func (n *nodes) add(owner *launcher, t *tunnel.Tunnel, o protocol.OpenReply) uint64 {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.last++
	n.open[n.last] = &node{tunnel: t, handle: o.Handle, attr: o.Attr, owner: owner}
	return n.last
}

func (n *nodes) get(id uint64) (*node, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if f := n.open[id]; f != nil {
		return f, nil
	}
	return nil, unix.ESTALE
}

// Attr tells the file server of a node.
func (n *nodes) Attr(_ context.Context, id uint64) (protocol.Attr, error) {
	f, err := n.get(id)
	if err != nil {
		return protocol.Attr{}, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	f.seen = true
	return f.attr, nil
}

// Read fills p from off on, unless the file ends before.
func (n *nodes) Read(ctx context.Context, id uint64, p []byte, off int64) (int, error) {
	f, err := n.get(id)
	if err != nil {
		return 0, err
	}
	total := 0
	for total < len(p) {
		want := min(len(p)-total, protocol.MaxPayload)
		request := protocol.Read{Handle: f.handle, Offset: off + int64(total), Len: want}
		b, err := f.tunnel.Call(ctx, protocol.KindRead, request, new(protocol.ReadReply))
		if err != nil {
			return total, err
		}
		total += copy(p[total:], b)
		if len(b) < want {
			break
		}
	}
	return total, nil
}

// ReadDir returns entries from off on.
func (n *nodes) ReadDir(ctx context.Context, id uint64, off int) ([]protocol.DirEntry, bool, error) {
	f, err := n.get(id)
	if err != nil {
		return nil, false, err
	}
	var reply protocol.ReadDirReply
	b, err := f.tunnel.Call(ctx, protocol.KindReadDir, protocol.ReadDir{Handle: f.handle, Offset: off}, &reply)
	if err != nil {
		return nil, false, err
	}
	list, err := protocol.DirEntries(b)
	return list, reply.More, err
}

// Released says that no descriptor of the node is left.
func (n *nodes) Released(id uint64) {
	n.mu.Lock()
	f := n.open[id]
	delete(n.open, id)
	n.mu.Unlock()
	if f != nil {
		n.close(f)
	}
}

// dropUnused closes what a launcher opened and never got to inject.
func (n *nodes) dropUnused(owner *launcher) {
	n.mu.Lock()
	var unused []*node
	for id, f := range n.open {
		if f.owner == owner && !f.seen {
			unused = append(unused, f)
			delete(n.open, id)
		}
	}
	n.mu.Unlock()
	for _, f := range unused {
		n.close(f)
	}
}

const closeTimeout = 10 * time.Second

func (n *nodes) close(f *node) {
	ctx, cancel := context.WithTimeout(context.Background(), closeTimeout)
	defer cancel()
	if _, err := f.tunnel.Call(ctx, protocol.KindClose, protocol.Close{Handle: f.handle}, new(protocol.CloseReply)); err != nil {
		n.log.Debug("remote file not closed", "err", err)
	}
}
