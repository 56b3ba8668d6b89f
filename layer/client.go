package layer

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// A Client is the launcher's connection to the daemon. Its methods may be
// called from any goroutine, Close but once. When the daemon is gone every call fails with EIO.
//
// Goroutines: Dial starts one, which reads the replies; Disconnect waits for it.
type Client struct {
	log  *slog.Logger
	conn *net.UnixConn
	root *os.File      // of the file server, nil where there is none
	done chan struct{} // closed when read has ended
	lost chan struct{} // closed when the daemon ended the connection
	news chan notice   // what the daemon says without being asked
	kept cache         // what it answered

	mu      sync.Mutex
	closing bool                  // guarded by mu
	seq     uint32                // guarded by mu
	waiting map[uint32]chan reply // guarded by mu, nil once the connection has ended
}

// A notice is told to the user; over: the session has ended.
type notice struct {
	words string
	over  bool
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

// Dial connects to the daemon's layer socket and attaches to session.
func Dial(ctx context.Context, log *slog.Logger, path, session string) (*Client, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to the daemon: %w", err)
	}
	c := &Client{log: log, conn: conn.(*net.UnixConn), done: make(chan struct{}), lost: make(chan struct{}), news: make(chan notice, 16), waiting: make(map[uint32]chan reply)}
	go c.read()
	r := c.call(&wire.Request{Op: wire.OpAttach, Path: session})
	if r.Errno != 0 {
		c.Close()
		return nil, fmt.Errorf("attaching to session %s: %w", session, unix.Errno(r.Errno))
	}
	if r.fd >= 0 {
		c.root = os.NewFile(uintptr(r.fd), "file server")
	}
	return c, nil
}

// Lost is closed when the daemon is gone, and not by Close.
func (c *Client) Lost() <-chan struct{} { return c.lost }

// Disconnect ends the connection, and with it all that was asked for through
// it: calls that wait fail. It may be called more than once.
func (c *Client) Disconnect() {
	c.mu.Lock()
	c.closing = true
	c.mu.Unlock()
	_ = c.conn.Close()
	<-c.done
}

// Close disconnects and gives up the file server. No call runs any more.
func (c *Client) Close() error {
	c.Disconnect()
	if c.root == nil {
		return nil
	}
	return c.root.Close()
}

// call asks the daemon and waits. The reply's Errno tells of every failure.
func (c *Client) call(q *wire.Request) reply {
	if len(q.Path) > wire.MaxPath {
		return errnoReply(unix.ENAMETOOLONG)
	}
	answer := make(chan reply, 1)
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		return errnoReply(unix.EIO)
	}
	c.seq++
	seq := c.seq
	c.waiting[seq] = answer
	c.mu.Unlock()

	q.Seq = seq
	if _, err := c.conn.Write(q.Append(make([]byte, 0, wire.RequestHead+len(q.Path)))); err != nil {
		c.mu.Lock()
		delete(c.waiting, seq)
		c.mu.Unlock()
		return errnoReply(unix.EIO)
	}
	return <-answer
}

// read hands out replies until the connection ends, then fails who still waits.
func (c *Client) read() {
	defer close(c.done)
	buf := make([]byte, wire.MaxMessage+1)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob)
		if err != nil || n == 0 {
			break
		}
		r := reply{fd: receivedFD(oob[:oobn])}
		if err := r.Decode(buf[:n]); err != nil {
			closeFD(r.fd)
			c.log.Error("reading the daemon's reply", "err", err)
			break
		}
		r.Data = append([]byte(nil), r.Data...)
		if r.Seq == 0 {
			closeFD(r.fd)
			if r.Flags&wire.ReplyExpired != 0 {
				c.kept.expired(&r.Reply)
				continue
			}
			select {
			case c.news <- notice{string(r.Data), r.Errno == uint32(unix.ECANCELED)}:
			default: // so many at once say nothing new
			}
			continue
		}
		c.mu.Lock()
		answer := c.waiting[r.Seq]
		delete(c.waiting, r.Seq)
		c.mu.Unlock()
		if answer == nil {
			closeFD(r.fd)
			continue
		}
		answer <- r
	}
	c.mu.Lock()
	waiting := c.waiting
	c.waiting = nil
	if !c.closing {
		close(c.lost)
	}
	c.mu.Unlock()
	for _, answer := range waiting {
		answer <- errnoReply(unix.EIO)
	}
}

// receivedFD returns the descriptor of a control message, or -1.
func receivedFD(oob []byte) int {
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil || len(messages) == 0 {
		return -1
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return -1
	}
	for _, fd := range fds[1:] {
		closeFD(fd)
	}
	return fds[0]
}

func closeFD(fd int) {
	if fd >= 0 {
		_ = unix.Close(fd)
	}
}
