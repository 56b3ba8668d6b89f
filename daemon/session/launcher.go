package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/forward"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
	"mirrord/protocol/socket"
)

// maxCalls bounds a launcher's calls in flight; further ones wait in its socket.
const maxCalls = 1024

// A launcher is the daemon's end of one launcher's socket.
type launcher struct {
	m    *Manager
	s    *Session
	conn *net.UnixConn
	fast net.Conn        // conn, for packets without a descriptor
	ctx  context.Context // until the socket ends

	visitor     bool        // it has no debuggee
	nodes       bool        // it can open the file server's
	directories directories // where it cannot

	notices notices
	request []byte // what read reads into

	mu  sync.Mutex // one packet at a time
	buf []byte     // guarded by mu
}

// serveLauncher answers a launcher's calls until its socket or ctx ends. The
// first must attach it to a session.
func serveLauncher(ctx context.Context, m *Manager, conn *net.UnixConn) error {
	defer conn.Close()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	l := &launcher{
		m: m, conn: conn, fast: socket.New(conn), ctx: ctx, notices: notices{wake: make(chan struct{}, 1)},
		request: make([]byte, layer.MaxRequest+1),
	}
	first, err := l.read()
	if err != nil {
		return err
	}
	if err := l.attach(first); err != nil {
		return err
	}
	defer func() {
		m.nodes.dropUnused(l, time.Now())
		if err := l.directories.remove(); err != nil {
			m.log.Warn("removing what stood in for directories", "err", err)
		}
		l.s.detach(l)
		m.endUnused(l.s, "its launchers are gone")
	}()
	team := crew.New()
	defer team.Wait()
	defer cancel()
	team.Go(l.tellNotices)
	team.Go(l.sweepNodes)
	calls := make(chan struct{}, maxCalls)
	for {
		request, err := l.read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if request.Op == layer.OpOpened {
			l.opened(request)
			continue
		}
		calls <- struct{}{}
		team.Go(func() {
			defer func() { <-calls }()
			l.answer(request)
		})
	}
}

// read is called by one goroutine.
func (l *launcher) read() (*layer.Request, error) {
	n, err := l.fast.Read(l.request)
	if err == io.EOF {
		return nil, err
	}
	if err != nil {
		return nil, fmt.Errorf("reading layer request: %w", err)
	}
	r := new(layer.Request)
	if err := r.Decode(l.request[:n]); err != nil {
		return nil, err
	}
	return r, nil
}

func (l *launcher) attach(r *layer.Request) error {
	if r.Op != layer.OpAttach {
		return l.refuse(r, unix.EPROTO, errors.New("first request must attach to a session"))
	}
	if l.visitor = r.Flags&layer.AttachVisitor != 0; l.visitor {
		if err := l.m.startFiles(); err != nil { // which its session may do without
			return l.refuse(r, unix.ENOTSUP, err)
		}
	}
	s, err := l.m.attach(r.Path, l)
	if err != nil {
		return l.refuse(r, unix.ESRCH, err)
	}
	l.s = s
	root := l.m.root()
	l.nodes = root != nil
	if err := l.reply(&layer.Reply{Seq: r.Seq}, root); err != nil {
		s.detach(l)
		l.m.endUnused(s, "its launcher is gone")
		return err
	}
	return nil
}

func (l *launcher) refuse(r *layer.Request, errno unix.Errno, err error) error {
	return errors.Join(err, l.reply(&layer.Reply{Seq: r.Seq, Errno: uint32(errno), Data: cut(err.Error())}, nil))
}

// reply sends one packet, with a descriptor if there is one.
func (l *launcher) reply(r *layer.Reply, fd *os.File) error { return l.replyBy(nil, r, fd) }

// replyBy sends what has come by t. Where the session has moved meanwhile it is not to
// be kept: that it expires would be told by the former agent.
func (l *launcher) replyBy(t *tunnel.Tunnel, r *layer.Reply, fd *os.File) error {
	if fd != nil {
		r.Flags |= layer.ReplyFD
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if t != nil && l.s.tunnel() != t { // what a move tells is sent later
		r.Lease = protocol.Lease{}
	}
	l.buf = r.Append(l.buf[:0])
	var err error
	if fd != nil {
		_, _, err = l.conn.WriteMsgUnix(l.buf, unix.UnixRights(int(fd.Fd())), nil)
	} else {
		_, err = l.fast.Write(l.buf)
	}
	if err != nil {
		return fmt.Errorf("answering launcher: %w", err)
	}
	return nil
}

// answer does one call. Whatever fails becomes an errno and its words.
func (l *launcher) answer(r *layer.Request) {
	reply, t := &layer.Reply{Seq: r.Seq}, l.s.tunnel()
	fd, err := l.do(r, reply)
	if err != nil {
		*reply = layer.Reply{Seq: r.Seq, Errno: errno(r.Op, err), Data: cut(err.Error())}
		if e, ok := errors.AsType[*protocol.Error](err); ok {
			reply.Lease = e.Lease
		}
		l.s.log.Debug("hooked call failed", "op", r.Op, "path", r.Path, "addr", r.Addr, "err", err)
	}
	_ = l.replyBy(t, reply, fd) // its failure ends read as well
	if fd != nil {
		fd.Close()
	}
}

func (l *launcher) do(r *layer.Request, reply *layer.Reply) (fd *os.File, err error) {
	if err := l.s.works(r.Op); err != nil {
		return nil, err
	}
	l.m.caughtUp(l.ctx)
	if r.Op == layer.OpChange || r.Op == layer.OpOpen && r.Flags&layer.OpenChange != 0 { // it may make, change or remove a file
		defer l.m.nodes.changed()
	}
	switch r.Op {
	case layer.OpOpen:
		fd, err := l.open(r, reply)
		l.tellOpened(r, reply.Attr, err)
		return fd, err
	case layer.OpStat:
		return nil, l.stat(r, reply)
	case layer.OpAccess:
		return nil, l.access(r)
	case layer.OpXattr:
		return nil, l.xattr(r, reply)
	case layer.OpChange:
		return nil, l.change(r, reply)
	case layer.OpStatfs:
		return nil, l.statfs(r, reply)
	case layer.OpConnect:
		return nil, l.connect(r, reply)
	case layer.OpDatagram:
		reply.Addr, err = l.s.datagrams.Endpoint(r.Addr, r.Addr2, r.Node, func() forward.Watch { return l.outgoing("udp", r) })
		return nil, err
	case layer.OpListen:
		return nil, l.s.listen(l.ctx, r, l)
	case layer.OpDebuggee:
		return nil, l.s.debug(int(r.Node), l)
	case layer.OpPeer:
		p, ok := l.s.incoming.Peer(r.Addr)
		if !ok {
			return nil, unix.ENOENT
		}
		reply.Addr, reply.Addr2 = p.Client, p.Local
		return nil, nil
	}
	return nil, &ide.Error{Msg: fmt.Sprintf("unknown layer request %d", r.Op), Err: unix.EPROTO}
}

// sweepNodes runs until the launcher's socket ends.
func (l *launcher) sweepNodes() {
	tick := time.NewTicker(unusedTime)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			l.m.nodes.dropUnused(l, time.Now().Add(-unusedTime))
		case <-l.ctx.Done():
			return
		}
	}
}

// connect finds where the debuggee's socket has to connect to.
func (l *launcher) connect(r *layer.Request, reply *layer.Reply) error {
	var e forward.Endpoint
	var err error
	w := l.outgoing("tcp", r)
	if r.Flags&layer.ConnectAsync == 0 {
		e, err = l.s.outgoing.Connect(l.ctx, r.Addr, r.Addr2, w)
	} else {
		e, err = l.s.outgoing.ConnectAsync(l.ctx, r.Addr, r.Addr2, r.Flags&layer.ConnectMultipath != 0, w)
	}
	reply.Addr, reply.Addr2 = e.Addr, e.Local
	if e.Pending {
		reply.Flags |= layer.ReplyPending
	}
	return err
}

// errno is what the hooked call fails with. A tunnel that is gone looks like a
// broken disk or a network that is down.
func errno(op layer.Op, err error) uint32 {
	if e, ok := errors.AsType[syscall.Errno](err); ok {
		return uint32(e)
	}
	switch op {
	case layer.OpConnect, layer.OpDatagram, layer.OpListen:
		return uint32(unix.ENETDOWN)
	}
	return uint32(unix.EIO)
}

func cut(s string) []byte { return []byte(s[:min(len(s), layer.MaxPath)]) }
