package files

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"

	"mirrord/protocol/socket"
)

// A client asks the daemon.
type client struct {
	conn net.Conn

	writing sync.Mutex // a request is one write

	mu      sync.Mutex
	seq     uint64             // guarded by mu
	waiting map[uint64]pending // guarded by mu; nil once the daemon is gone

	changed func(node uint64) // called for a notice
}

// A pending is a request without an answer yet.
type pending struct {
	op     op
	answer chan reply // holds one
}

type reply struct {
	n     int    // opRead: bytes in the slot
	data  []byte // of the others
	errno syscall.Errno
}

func newClient(conn *net.UnixConn) *client {
	return &client{conn: socket.New(conn), waiting: make(map[uint64]pending)}
}

// ask sends r. Its answer may come late, but comes; without a daemon it is EIO.
func (c *client) ask(r request, slot uint32) <-chan reply {
	p := pending{r.op, make(chan reply, 1)}
	c.mu.Lock()
	if c.waiting == nil {
		c.mu.Unlock()
		p.answer <- reply{errno: syscall.EIO}
		return p.answer
	}
	c.seq++
	seq := c.seq
	c.waiting[seq] = p
	c.mu.Unlock()
	c.send(r, seq, slot)
	return p.answer
}

// lose answers all that wait, and who asks from now on, that the daemon is gone.
func (c *client) lose() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.waiting {
		p.answer <- reply{errno: syscall.EIO}
	}
	c.waiting = nil
}

// release tells that a node was closed.
func (c *client) release(node uint64) { c.send(request{op: opRelease, node: node}, 0, 0) }

// send has no error: a broken socket ends receive as well.
func (c *client) send(r request, seq uint64, slot uint32) {
	var b [requestSize]byte
	c.writing.Lock()
	defer c.writing.Unlock()
	_, _ = c.conn.Write(r.append(b[:0], seq, slot)) // its failure ends receive as well
}

// receive hands out replies until the daemon is gone.
func (c *client) receive() error {
	in := bufio.NewReader(c.conn)
	for {
		seq, errno, n, err := readReplyHead(in)
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if seq == 0 {
			if err := c.note(in, n); err != nil {
				return fmt.Errorf("reading notice: %w", err)
			}
			continue
		}
		c.mu.Lock()
		p, ok := c.waiting[seq]
		delete(c.waiting, seq)
		c.mu.Unlock()
		if !ok {
			return fmt.Errorf("reading reply %d: nothing was asked", seq)
		}
		a := reply{n: n, errno: errno}
		if p.op != opRead {
			a.data = make([]byte, n)
			if _, err := io.ReadFull(in, a.data); err != nil {
				return fmt.Errorf("reading reply: %w", err)
			}
		}
		p.answer <- a
	}
}
