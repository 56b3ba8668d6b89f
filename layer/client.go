package layer

import (
	"context"
	"log/slog"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// outage is how long a call waits for another daemon when its own is gone.
const outage = 2 * time.Second

// A Client is the launcher's way to the daemon, over one connection after
// another. Its methods may be called from any goroutine, Close but once.
// While there is no daemon a call waits for outage at most; it then fails, and
// so does one that was under way when the daemon ended, as on a broken disk or
// a network that is down.
type Client struct {
	log   *slog.Logger
	flags uint32      // of OpAttach
	news  chan string // what daemons say to the user without being asked

	mu      sync.Mutex
	all     []*conn        // guarded by mu; the last is the one in use
	changed chan struct{}  // guarded by mu; closed when what calls wait for has come, or never will
	hope    bool           // guarded by mu; calls wait for another daemon
	closed  bool           // guarded by mu
	limit   *time.Duration // guarded by mu; how long answers are kept at most
}

// keep sets how long answers are kept at most.
func (c *Client) keep(limit time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.limit = &limit
	for _, k := range c.all {
		k.kept.keep(limit)
	}
}

// A reply's fd is -1 or a descriptor that its receiver closes.
type reply struct {
	wire.Reply
	fd int
}

// errnoReply stands for a reply that never came.
func errnoReply(errno unix.Errno) reply {
	return reply{wire.Reply{Errno: uint32(errno)}, -1}
}

// lostReply is for a call that the daemon's end took away.
func lostReply(op wire.Op) reply {
	switch op {
	case wire.OpConnect, wire.OpDatagram, wire.OpListen:
		return errnoReply(unix.ENETDOWN)
	}
	return errnoReply(unix.EIO)
}

// Dial connects to the daemon's layer socket and attaches to session.
func Dial(ctx context.Context, log *slog.Logger, path, session string) (*Client, error) {
	return dial(ctx, log, path, session, 0)
}

func dial(ctx context.Context, log *slog.Logger, path, session string, flags uint32) (*Client, error) {
	c := &Client{log: log, flags: flags, news: make(chan string, 16), changed: make(chan struct{})}
	k, err := c.dial(ctx, path, session)
	if err != nil {
		return nil, err
	}
	c.all = []*conn{k}
	return c, nil
}

// dial makes a connection to a daemon; use then puts it in the last one's place.
func (c *Client) dial(ctx context.Context, path, session string) (*conn, error) {
	c.mu.Lock()
	number := len(c.all)
	c.mu.Unlock()
	return dialConn(ctx, c.log, path, session, c.flags, number, c.news)
}

func (c *Client) use(k *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, k)
	if c.limit != nil {
		k.kept.keep(*c.limit)
	}
	c.turn()
	if c.closed {
		k.disconnect()
	}
}

// turn lets who waits look again; c.mu is held.
func (c *Client) turn() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// disconnected tells whether it was us who ended the connection.
func (c *Client) disconnected() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closed
}

// expect sets whether calls wait for another daemon when there is none.
func (c *Client) expect(hope bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hope = hope && !c.closed
	c.turn()
}

func (c *Client) current() (k *conn, changed <-chan struct{}, hope bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all[len(c.all)-1], c.changed, c.hope
}

// kept is what the daemon in use has answered. An answer belongs to the one
// that was asked: ask for this first.
func (c *Client) kept() *cache {
	k, _, _ := c.current()
	return &k.kept
}

// opened tells the daemon in use of an opening that it was not asked for.
func (c *Client) opened(by *call, flags uint32, errno unix.Errno, size int64) {
	k, _, _ := c.current()
	k.opened(by, flags, errno, size)
}

// lost is closed when the daemon in use has ended the connection.
func (c *Client) lost() <-chan struct{} {
	k, _, _ := c.current()
	return k.done
}

// over tells whether the daemon in use has ended the session.
func (c *Client) over() bool {
	k, _, _ := c.current()
	return k.over.Load()
}

// root is the file server's root directory of the first daemon, nil where there is none.
func (c *Client) root() *os.File {
	if len(c.all) == 0 {
		return nil
	}
	return c.all[0].root
}

// call asks the daemon and waits. The reply's Errno tells of every failure.
func (c *Client) call(q *wire.Request) reply {
	if len(q.Path) > wire.MaxPath {
		return errnoReply(unix.ENAMETOOLONG)
	}
	var late <-chan time.Time
	for {
		k, changed, hope := c.current()
		r, asked := k.call(q)
		if asked {
			return r
		}
		if !hope {
			return lostReply(q.Op)
		}
		if late == nil {
			timer := time.NewTimer(outage)
			defer timer.Stop()
			late = timer.C
		}
		select {
		case <-changed:
		case <-late:
			return lostReply(q.Op)
		}
	}
}

// ask asks the daemon in use, if that can be done at once; done does not wait.
func (c *Client) ask(q *wire.Request, done func(r reply)) bool {
	k, _, _ := c.current()
	return k.ask(q, done)
}

// Disconnect ends the connection, and with it all that was asked for through
// it: calls that wait fail. It may be called more than once.
func (c *Client) Disconnect() {
	c.mu.Lock()
	c.closed, c.hope = true, false
	c.turn()
	all := c.all
	c.mu.Unlock()
	for _, k := range all {
		k.disconnect()
	}
}

// Close disconnects and gives up the file servers. No call runs any more.
func (c *Client) Close() error {
	c.Disconnect()
	var err error
	for _, k := range c.all {
		if k.root != nil {
			err = k.root.Close()
		}
	}
	return err
}

// openTries is how often a node is asked for that was gone when it was opened.
const openTries = 3

// open has the target's file opened as q says, and opens what stands for it.
func (c *Client) open(q *wire.Request, given *injected, flags int) (int, error) {
	for try := 1; ; try++ {
		r := c.call(q)
		if r.Errno != 0 {
			closeFD(r.fd)
			return -1, unix.Errno(r.Errno)
		}
		fd, err := given.open(r, q.Path, flags)
		if err != unix.ENOENT && err != unix.ESTALE || try == openTries || q.Flags&wire.OpenTemporary != 0 {
			return fd, err
		}
		q.Flags &^= wire.OpenExclusive | wire.OpenTruncate // that is done
	}
}
