package layer

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
	"mirrord/protocol/socket"
)

// A conn is a connection to one daemon, until that ends.
//
// Goroutines: dialConn starts one, which reads the replies; disconnect waits for it.
type conn struct {
	log      *slog.Logger
	socket   *net.UnixConn
	fast     *socket.Conn  // socket, for packets
	number   int           // which of the Client's it is
	root     *os.File      // of the file server, nil where there is none
	news     chan<- string // the Client's
	kept     cache         // what it answered
	openings openings      // what it did not hear of
	over     atomic.Bool   // the session has ended
	done     chan struct{} // closed when read has ended

	mu      sync.Mutex
	seq     uint32             // guarded by mu
	waiting map[uint32]waiting // guarded by mu, nil once the connection has ended
}

// A waiting one has done called with the reply, lostReply's if the connection ends before
// that, by the goroutine that reads: it does not wait.
type waiting struct {
	op   wire.Op
	done func(r reply)
}

func dialConn(ctx context.Context, log *slog.Logger, path, session string, flags uint32, number int, news chan<- string) (*conn, error) {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unixpacket", path)
	if err != nil {
		return nil, fmt.Errorf("connecting to the daemon: %w", err)
	}
	k := &conn{
		log: log, socket: c.(*net.UnixConn), fast: socket.New(c).(*socket.Conn), number: number, news: news,
		done: make(chan struct{}), waiting: make(map[uint32]waiting),
	}
	go k.read()
	stop := context.AfterFunc(ctx, func() { k.socket.Close() })
	r, asked := k.call(&wire.Request{Op: wire.OpAttach, Flags: flags, Path: session})
	stop()
	switch {
	case !asked || ctx.Err() != nil:
		err = cmp.Or(context.Cause(ctx), error(unix.ECONNRESET))
	case r.Errno != 0:
		err = unix.Errno(r.Errno)
	}
	if r.fd >= 0 {
		k.root = os.NewFile(uintptr(r.fd), "file server")
	}
	if err != nil {
		k.disconnect()
		if k.root != nil {
			k.root.Close()
		}
		return nil, fmt.Errorf("attaching to session %s: %w", session, err)
	}
	return k, nil
}

func (k *conn) disconnect() {
	_ = k.socket.SetWriteDeadline(time.Now().Add(lastWords))
	k.tellOpened()
	_ = k.socket.Close()
	<-k.done
}

// call asks and waits. asked is false if the daemon has not seen the question.
func (k *conn) call(q *wire.Request) (r reply, asked bool) {
	answer := make(chan reply, 1)
	if !k.expect(q, func(r reply) { answer <- r }) {
		return lostReply(q.Op), false
	}
	if _, err := k.fast.Write(q.Append(make([]byte, 0, wire.RequestHead+len(q.Path)))); err != nil {
		k.forget(q)
		k.disconnect() // else it could be taken for one that works
		return lostReply(q.Op), false
	}
	return <-answer, true
}

// ask asks, if that can be done at once, and has done called.
func (k *conn) ask(q *wire.Request, done func(r reply)) bool {
	if !k.expect(q, done) {
		return false
	}
	n, err := k.fast.WriteNow(q.Append(make([]byte, 0, wire.RequestHead+len(q.Path))))
	return n > 0 && err == nil || !k.forget(q)
}

// expect has done called for the reply to q. False: the connection has ended.
func (k *conn) expect(q *wire.Request, done func(r reply)) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.waiting == nil {
		return false
	}
	k.seq++
	q.Seq = k.seq
	k.waiting[q.Seq] = waiting{q.Op, done}
	return true
}

// forget has nobody called for q; false: somebody was, or is.
func (k *conn) forget(q *wire.Request) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, waits := k.waiting[q.Seq]
	delete(k.waiting, q.Seq)
	return waits
}

// read hands out replies until the connection ends, then fails who still waits.
func (k *conn) read() {
	defer close(k.done)
	defer k.socket.Close()
	buf := make([]byte, wire.MaxMessage+1)
	oob := make([]byte, unix.CmsgSpace(4))
	for {
		n, oobn, err := k.fast.ReadMsg(buf, oob)
		if err != nil || n == 0 {
			break
		}
		r := reply{fd: receivedFD(oob[:oobn])}
		if err := r.Decode(buf[:n]); err != nil {
			closeFD(r.fd)
			k.log.Error("reading the daemon's reply", "err", err)
			break
		}
		r.Data = append([]byte(nil), r.Data...)
		if r.Seq == 0 {
			closeFD(r.fd)
			switch {
			case r.Flags&wire.ReplyExpired != 0:
				k.kept.expired(&r.Reply)
				continue
			case r.Flags&wire.ReplyAhead != 0:
				k.kept.ahead(&r.Reply)
				continue
			case r.Flags&wire.ReplyWatched != 0:
				k.openings.wanted.Store(r.Node != 0)
				continue
			}
			select {
			case k.news <- string(r.Data):
			default: // so many at once say nothing new
			}
			if r.Errno == uint32(unix.ECANCELED) {
				k.over.Store(true)
				_ = k.socket.CloseRead() // nothing comes any more
			}
			continue
		}
		if r.Flags&wire.ReplyNode != 0 {
			r.Node, r.File = nodeOf(k.number, r.Node), nodeOf(k.number, r.File)
		}
		k.mu.Lock()
		w, waits := k.waiting[r.Seq]
		delete(k.waiting, r.Seq)
		k.mu.Unlock()
		if !waits {
			closeFD(r.fd)
			continue
		}
		w.done(r)
	}
	k.kept.end()
	k.mu.Lock()
	all := k.waiting
	k.waiting = nil
	k.mu.Unlock()
	for _, w := range all {
		w.done(lostReply(w.op))
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
