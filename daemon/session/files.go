package session

import (
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/layer"
)

// inline is the most content that comes with an open; such a file needs no
// file server.
const inline = 64 << 10

func (l *launcher) open(r *layer.Request, reply *layer.Reply) (fd *os.File, err error) {
	t := l.s.tunnel()
	if r.Flags&layer.OpenChange != 0 {
		return nil, l.openChange(r, reply)
	}
	request := protocol.Open{
		Directory: r.Flags&layer.OpenDirectory != 0, NoFollow: r.Flags&layer.OpenNoFollow != 0, Search: r.Flags&layer.OpenSearch != 0, Inline: inline, Lease: true, Ahead: true,
	}
	request.Path, request.Walk = walk(r)
	if l.visitor && !request.Directory { // who follows what grows by its node
		request.Inline, request.Lease, request.Ahead = 0, false, false
	}
	var opened *protocol.OpenReply
	var content []byte
	pending := l.pending()
	for again := true; again; {
		opened = new(protocol.OpenReply) // what follows the one before may still come
		content, err = t.CallAhead(l.ctx, protocol.KindOpen, request, opened, func() (more, soon bool) { return opened.Ahead, opened.Soon }, l.tellOpening(r, opened))
		if err != nil {
			return nil, err
		}
		again, err = l.settled(pending, &opened.Attr)
		if (again || err != nil) && opened.Handle != 0 {
			l.m.nodes.close(&node{tunnel: t, handle: opened.Handle})
		}
		if err != nil {
			return nil, err
		}
	}
	reply.Attr, reply.Data, reply.Lease = opened.Attr, besides(reply, opened.Path, opened.Beside), opened.Lease
	if opened.Handle == 0 {
		return sealed(opened.Attr.Mode, func(w io.Writer) error {
			_, err := w.Write(content)
			return err
		})
	}
	if !l.nodes {
		return l.stand(t, r.Path, *opened)
	}
	changes := r.Flags&layer.OpenMayChange != 0
	if l.share(t, reply, *opened, nil, changes) {
		return nil, nil
	}
	var list *beginning
	if opened.List != nil {
		entries, err := protocol.DirEntries(content)
		if err != nil {
			l.m.nodes.close(&node{tunnel: t, handle: opened.Handle})
			return nil, err
		}
		list = &beginning{entries, opened.List.More}
	}
	reply.Node = l.m.nodes.add(l, t, *opened, list, changes)
	reply.Flags |= layer.ReplyNode
	if changes {
		reply.Flags |= layer.ReplyChanges
	}
	return nil, nil
}

// openChange opens what is not only for reading.
func (l *launcher) openChange(r *layer.Request, reply *layer.Reply) error {
	if !l.nodes {
		return l.s.needFiles(r.Path, "a file that is to be written")
	}
	change := &protocol.OpenChange{
		Read: r.Flags&layer.OpenRead != 0, Write: r.Flags&layer.OpenWrite != 0, Create: r.Flags&layer.OpenCreate != 0,
		Exclusive: r.Flags&layer.OpenExclusive != 0, Truncate: r.Flags&layer.OpenTruncate != 0, Temporary: r.Flags&layer.OpenTemporary != 0,
		Mode: uint32(r.Node), Umask: uint32(r.Node >> 32),
	}
	request := protocol.Open{Directory: r.Flags&layer.OpenDirectory != 0, NoFollow: r.Flags&layer.OpenNoFollow != 0, Change: change}
	request.Path, request.Walk = walk(r)
	if change.Truncate {
		if err := l.settlePath(request.Path, request.Walk, !request.NoFollow); err != nil {
			return err
		}
	}
	a := l.s.agent()
	t := a.tunnel
	var opened protocol.OpenReply
	if _, err := t.Call(l.ctx, protocol.KindOpen, request, &opened); err != nil {
		return err
	}
	reply.Attr, reply.Data = opened.Attr, cut(string(opened.Path))
	l.share(t, reply, opened, change, true)
	l.settle(a, opened.Seq)
	return nil
}

// share answers with a shared node if that is what was opened.
func (l *launcher) share(t *tunnel.Tunnel, reply *layer.Reply, o protocol.OpenReply, change *protocol.OpenChange, may bool) bool {
	num, s, ok := l.m.nodes.share(l, t, o, change, may)
	if ok {
		reply.Node, reply.File = num, s.id
		reply.Flags |= layer.ReplyNode | layer.ReplyShared
	}
	return ok
}

func (l *launcher) stat(r *layer.Request, reply *layer.Reply) (err error) {
	if r.Path == "" {
		reply.Attr, err = l.m.nodes.attr(l.ctx, r.Node)
		return err
	}
	var stat protocol.StatReply
	request := protocol.Stat{NoFollow: r.Flags&layer.OpenNoFollow != 0, Lease: true, Ahead: true}
	request.Path, request.Walk = walk(r)
	pending := l.pending()
	for again := true; again && err == nil; {
		stat = protocol.StatReply{}
		_, err = l.s.tunnel().CallAhead(l.ctx, protocol.KindStat, request, &stat, func() (more, soon bool) { return stat.Ahead, stat.Soon }, l.tellAhead(r, layer.OpenNoFollow))
		if err == nil {
			again, err = l.settled(pending, &stat.Attr)
		}
	}
	if err != nil {
		return err
	}
	text := stat.Link
	if request.Walk != nil {
		text = stat.Path
	}
	reply.Node = uint64(stat.NoLink)
	reply.Attr, reply.Lease, reply.Data = stat.Attr, stat.Lease, besides(reply, text, stat.Beside)
	return nil
}

// besides sets r's flags, and is what Data has.
func besides(r *layer.Reply, text protocol.Path, b protocol.Beside) []byte {
	if b.May&unix.R_OK != 0 {
		r.Flags |= layer.ReplyReads
	}
	if b.May&unix.X_OK != 0 {
		r.Flags |= layer.ReplyRuns
	}
	return layer.AppendXattrs(cut(string(text)), b.Xattrs)
}

// walk is the path that r asks for, and how it is walked on from there.
func walk(r *layer.Request) (protocol.Path, *protocol.Walk) {
	dir, rest, ok := strings.Cut(r.Path, "\x00")
	if !ok {
		return protocol.Path(r.Path), nil
	}
	return protocol.Path(dir), &protocol.Walk{Path: protocol.Path(rest), Resolve: uint64(r.Flags & layer.WalkFlags >> layer.WalkShift)}
}

// tellOpening passes on what is likely to be asked after r, to open a file, or, if
// it was a directory, in that.
func (l *launcher) tellOpening(r *layer.Request, o *protocol.OpenReply) func(protocol.Ahead, []byte) {
	return func(a protocol.Ahead, contents []byte) {
		if o.Inside == nil {
			l.tellAhead(r, layer.AheadContent)(a, contents)
			return
		}
		var flags uint32
		if o.Inside.Content {
			flags |= layer.AheadContent
		}
		if o.Inside.NoFollow {
			flags |= layer.OpenNoFollow
		}
		l.tellFiles(strings.TrimSuffix(r.Path, "/")+"/", flags)(a, contents)
	}
}

// tellAhead passes on what is likely to be asked after r, of files beside its.
func (l *launcher) tellAhead(r *layer.Request, flags uint32) func(protocol.Ahead, []byte) {
	dir, _ := path.Split(r.Path)
	return l.tellFiles(dir, flags|r.Flags&layer.OpenNoFollow)
}

func (l *launcher) tellFiles(dir string, flags uint32) func(protocol.Ahead, []byte) {
	t := l.s.tunnel()
	return func(a protocol.Ahead, contents []byte) {
		for _, f := range a.Files {
			if f.Size < 0 || f.Size > len(contents) {
				return
			}
			asked := flags
			if f.Follow {
				asked &^= layer.OpenNoFollow
			}
			notice := layer.Reply{Flags: layer.ReplyAhead, Node: uint64(asked), Lease: f.Lease, Attr: f.Attr}
			text := besides(&notice, f.Path+f.Link, f.Beside) // it has one of the two
			known := layer.Ahead{Path: dir + string(f.Name), Resolved: string(text), Content: contents[:f.Size]}
			contents = contents[f.Size:]
			if notice.Data = known.Append(nil); len(notice.Data) > layer.MaxAhead {
				continue
			}
			if l.replyBy(t, &notice, nil) != nil {
				return
			}
		}
	}
}

func (l *launcher) access(r *layer.Request) error {
	_, err := l.s.tunnel().Call(l.ctx, protocol.KindAccess, protocol.Access{Path: protocol.Path(r.Path), Mode: r.Mode}, new(protocol.AccessReply))
	return err
}

func (l *launcher) xattr(r *layer.Request, reply *layer.Reply) (err error) {
	at, name, _ := strings.Cut(r.Path, "\x00")
	request := protocol.Xattr{Path: protocol.Path(at), NoFollow: r.Flags&layer.OpenNoFollow != 0, Name: protocol.Path(name)}
	reply.Data, err = l.s.tunnel().Call(l.ctx, protocol.KindXattr, request, new(protocol.XattrReply))
	if err == nil && len(reply.Data) > layer.MaxAhead {
		return unix.E2BIG
	}
	return err
}

// sealed makes a read-only file in memory that nobody can change.
func sealed(mode uint32, fill func(io.Writer) error) (*os.File, error) {
	fd, err := unix.MemfdCreate("mirrord", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("making memfd: %w", err)
	}
	memfd := os.NewFile(uintptr(fd), "memfd")
	defer memfd.Close()
	if err := fill(memfd); err != nil {
		return nil, fmt.Errorf("filling memfd: %w", err)
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
