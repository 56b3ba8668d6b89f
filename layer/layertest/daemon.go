// Package layertest is the other end of the layer's wire for tests: a daemon
// whose target is a directory and whose network is this machine's.
package layertest

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	wire "mirrord/protocol/layer"
)

// A Daemon answers launchers. Its fields are set before the first call comes.
type Daemon struct {
	Socket string // path of the layer socket
	Root   string // directory that is the target's root
	Inline int64  // files up to this size go as memfds
	// Dial connects to a TCP address of the target.
	Dial func(addr netip.AddrPort) (net.Conn, error)
	// Datagram gives the real address of a UDP address of the target.
	Datagram func(addr netip.AddrPort) netip.AddrPort
	// Hold, if set, is called with each request before it is answered.
	Hold func(q *wire.Request)
	// Leases: answers about files may be kept until Expire.
	Leases bool
	// Refuse, if set, gives an errno instead of an answer to OpListen.
	Refuse unix.Errno

	dir     string
	stopped chan struct{}
	nodes   *os.File
	lis     *net.UnixListener
	wg      sync.WaitGroup
	conns   sync.WaitGroup // of launchers

	mu      sync.Mutex
	closers []interface{ Close() error }
	calls   map[wire.Op]int
	asked   map[question]int
	node    uint64
	expired uint64
	opened  []wire.Request
	changes []protocol.Change
	stolen  map[uint16]wire.Request
	peers   map[netip.AddrPort]peer
	news    chan struct{} // closed and made anew when something changed
}

// A question is a request without its numbers.
type question struct {
	op   wire.Op
	path string
}

// A peer is who is behind a connection that was delivered, and what he asked for.
type peer struct{ client, local netip.AddrPort }

// The target's own addresses in these tests.
var (
	Local  = netip.MustParseAddr("10.244.0.99")
	Local6 = netip.MustParseAddr("fd00:244::99")
)

func localLike(a netip.Addr) netip.Addr {
	if a.Unmap().Is4() {
		return Local
	}
	return Local6
}

// New starts a daemon that ends with the test.
func New(t testing.TB) *Daemon {
	t.Helper()
	d, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(d.Close)
	return d
}

// Start starts a daemon in a directory of its own.
func Start() (*Daemon, error) {
	dir, err := os.MkdirTemp("", "layertest")
	if err != nil {
		return nil, err
	}
	d := &Daemon{
		Socket: filepath.Join(dir, "layer"), Root: filepath.Join(dir, "root"), Inline: 64 << 10, dir: dir, stopped: make(chan struct{}),
		calls: map[wire.Op]int{}, asked: map[question]int{}, stolen: map[uint16]wire.Request{}, peers: map[netip.AddrPort]peer{}, news: make(chan struct{}),
	}
	err = errors.Join(os.Mkdir(d.Root, 0o755), os.Mkdir(filepath.Join(dir, "nodes"), 0o755))
	if err == nil {
		d.nodes, err = os.Open(filepath.Join(dir, "nodes"))
	}
	if err == nil {
		d.lis, err = net.ListenUnix("unixpacket", &net.UnixAddr{Name: d.Socket, Net: "unixpacket"})
	}
	if err != nil {
		os.RemoveAll(dir)
		return nil, err
	}
	d.wg.Go(d.accept)
	return d, nil
}

// Close ends the daemon and removes its directory.
func (d *Daemon) Close() {
	d.Stop()
	d.nodes.Close()
	os.RemoveAll(d.dir)
}

// Stop ends the daemon as kill -9 would: all its sockets close.
func (d *Daemon) Stop() {
	d.lis.Close()
	d.mu.Lock()
	for _, c := range d.closers {
		c.Close()
	}
	d.closers = nil
	select {
	case <-d.stopped:
	default:
		close(d.stopped)
	}
	d.mu.Unlock()
	d.wg.Wait()
}

// End tells all launchers that the session is over.
func (d *Daemon) End(words string) {
	r := wire.Reply{Errno: uint32(unix.ECANCELED), Data: []byte(words)}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, c := range d.closers {
		if c, ok := c.(*net.UnixConn); ok {
			_, _ = c.Write(r.Append(nil))
		}
	}
}

// Stopped is closed when nobody hears from the daemon any more.
func (d *Daemon) Stopped() <-chan struct{} { return d.stopped }

// Calls tells how often op was asked.
func (d *Daemon) Calls(op wire.Op) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.calls[op]
}

// Asked tells how often op was asked about path.
func (d *Daemon) Asked(op wire.Op, path string) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.asked[question{op, path}]
}

// Wait waits until op has been asked n times.
func (d *Daemon) Wait(op wire.Op, n int) {
	for {
		d.mu.Lock()
		news, have := d.news, d.calls[op]
		d.mu.Unlock()
		if have >= n {
			return
		}
		<-news
	}
}

// Expire tells all launchers that nothing is to be kept of earlier answers. It
// precedes every answer that is given after it returned.
func (d *Daemon) Expire() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.expired++
	d.notify(wire.Reply{Flags: wire.ReplyExpired, Lease: protocol.Lease{Seq: d.expired}})
}

// Ahead answers all launchers' next opening of path, under lease.
func (d *Daemon) Ahead(path string, lease uint64) error {
	b, err := os.ReadFile(d.Root + path)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Stat(d.Root+path, &st); err != nil {
		return err
	}
	a := wire.Ahead{Path: path, Resolved: path, Content: b}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(wire.Reply{
		Flags: wire.ReplyAhead, Node: wire.AheadContent, Lease: protocol.Lease{ID: lease, Seq: d.expired}, Attr: attr(&st), Data: a.Append(nil),
	})
	return nil
}

// Watch tells all launchers whether to tell of files that they open by themselves.
func (d *Daemon) Watch(on bool) {
	r := wire.Reply{Flags: wire.ReplyWatched}
	if on {
		r.Node = 1
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.notify(r)
}

// Opened is what launchers told, of which none may be there any more: what they said
// last is waited for.
func (d *Daemon) Opened() []wire.Request {
	d.conns.Wait()
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.opened
}

// notify is called with mu held.
func (d *Daemon) notify(r wire.Reply) {
	for _, c := range d.closers {
		if c, ok := c.(*net.UnixConn); ok {
			_, _ = c.Write(r.Append(nil))
		}
	}
}

// Listener waits until port is stolen and returns where its listener is.
func (d *Daemon) Listener(port uint16) netip.AddrPort { return d.Listen(port).Addr2 }

// Listen waits until port is stolen and returns how it was asked for.
func (d *Daemon) Listen(port uint16) wire.Request {
	for {
		d.mu.Lock()
		q, ok := d.stolen[port]
		news := d.news
		d.mu.Unlock()
		if ok {
			return q
		}
		<-news
	}
}

// Deliver connects to the debuggee's listener for port on behalf of client.
func (d *Daemon) Deliver(port uint16, client netip.AddrPort) (net.Conn, error) {
	at := d.Listener(port)
	dialer := net.Dialer{
		Control: func(_, _ string, c syscallConn) error {
			var err error
			e := c.Control(func(fd uintptr) {
				if err = unix.Bind(int(fd), sockaddr(netip.AddrPortFrom(at.Addr(), 0))); err != nil {
					return
				}
				var sa unix.Sockaddr
				if sa, err = unix.Getsockname(int(fd)); err == nil {
					d.mu.Lock()
					d.peers[addrOf(sa)] = peer{client, netip.AddrPortFrom(localLike(client.Addr()), port)}
					d.mu.Unlock()
				}
			})
			return errors.Join(e, err)
		},
	}
	return dialer.Dial("tcp", at.String())
}

// Settle makes the fields set so far known to the goroutines that answer
// launchers of other processes.
func (d *Daemon) Settle() {
	d.mu.Lock()
	defer d.mu.Unlock()
}

func (d *Daemon) track(c interface{ Close() error }) {
	d.mu.Lock()
	d.closers = append(d.closers, c)
	d.mu.Unlock()
}

func (d *Daemon) accept() {
	for {
		c, err := d.lis.AcceptUnix()
		if err != nil {
			return
		}
		d.track(c)
		d.conns.Add(1)
		d.wg.Go(func() {
			defer d.conns.Done()
			d.serve(c)
		})
	}
}

func (d *Daemon) serve(c *net.UnixConn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	b := make([]byte, wire.MaxMessage)
	for {
		n, err := c.Read(b)
		if err != nil || n == 0 {
			return
		}
		var q wire.Request
		if q.Decode(b[:n]) != nil {
			c.Close()
			return
		}
		if q.Op == wire.OpOpened {
			d.mu.Lock()
			d.opened = append(d.opened, q)
			d.mu.Unlock()
			continue
		}
		wg.Go(func() {
			d.mu.Lock()
			d.calls[q.Op]++
			d.asked[question{q.Op, q.Path}]++
			close(d.news)
			d.news = make(chan struct{})
			d.mu.Unlock()
			if d.Hold != nil {
				d.Hold(&q)
			}
			r, fd, err := d.answer(&q)
			r.Seq = q.Seq
			if d.Leases && (q.Op == wire.OpOpen || q.Op == wire.OpStat) {
				d.mu.Lock()
				r.Lease = protocol.Lease{ID: uint64(q.Seq), Seq: d.expired}
				d.mu.Unlock()
			}
			var errno unix.Errno
			if errors.As(err, &errno) {
				r.Errno = uint32(errno)
			} else if err != nil {
				r.Errno = uint32(unix.EIO)
			}
			var oob []byte
			if fd >= 0 {
				r.Flags |= wire.ReplyFD
				oob = unix.UnixRights(fd)
			}
			_, _, _ = c.WriteMsgUnix(r.Append(nil), oob, nil)
			if fd >= 0 && q.Op != wire.OpAttach {
				unix.Close(fd)
			}
		})
	}
}

func (d *Daemon) answer(q *wire.Request) (wire.Reply, int, error) {
	switch q.Op {
	case wire.OpAttach:
		return wire.Reply{}, int(d.nodes.Fd()), nil
	case wire.OpOpen:
		return d.open(q)
	case wire.OpStat:
		r, err := d.stat(q)
		return r, -1, err
	case wire.OpAccess:
		_, err := d.stat(q)
		return wire.Reply{}, -1, err
	case wire.OpXattr:
		r, err := d.xattr(q)
		return r, -1, err
	case wire.OpChange:
		r, err := d.change(q)
		return r, -1, err
	case wire.OpStatfs:
		r, err := d.statfs(q)
		return r, -1, err
	case wire.OpConnect:
		r, err := d.connect(q)
		return r, -1, err
	case wire.OpDatagram:
		r, err := d.datagram(q)
		return r, -1, err
	case wire.OpListen:
		if d.Refuse != 0 {
			return wire.Reply{}, -1, d.Refuse
		}
		d.mu.Lock()
		d.stolen[q.Addr.Port()] = *q
		close(d.news)
		d.news = make(chan struct{})
		d.mu.Unlock()
		return wire.Reply{}, -1, nil
	case wire.OpDebuggee:
		return wire.Reply{}, -1, nil
	case wire.OpPeer:
		d.mu.Lock()
		p, ok := d.peers[q.Addr]
		delete(d.peers, q.Addr)
		d.mu.Unlock()
		if !ok {
			return wire.Reply{}, -1, unix.ENOENT
		}
		return wire.Reply{Addr: p.client, Addr2: p.local}, -1, nil
	}
	return wire.Reply{}, -1, unix.ENOSYS
}
