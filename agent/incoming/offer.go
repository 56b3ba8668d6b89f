package incoming

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/socket"
)

// maxAhead is the most of a connection's first bytes that its holder gets before it
// has taken it.
const maxAhead = 16 << 10

// An offer is a connection on its way to a holder. What its client says first goes
// along, or follows as soon as it comes: it does not wait for the answer. Until that
// it stays where it is, to be the pod's if the holder does not take it.
type offer struct {
	ctx    context.Context // good while it may be answered
	steal  *Steal
	conn   protocol.Incoming
	said   said
	opened chan error // of capacity 1; whether stream is good
	stream net.Conn
	done   chan struct{} // closed when nothing is written any more
	ahead  int           // bytes that went along; good when the offer is over
	waits  bool          // the holder's debuggee does not get them before that was granted

	mu     sync.Mutex
	looked chan struct{} // guarded by mu; closed when what the client says is not looked at, nil: it was not yet
	over   bool          // guarded by mu
}

// A said is where the first bytes of a connection are: in its client's socket, or
// read from there. Its zero value: nothing goes along.
type said struct {
	conn *net.TCPConn
	read []byte
}

// offer asks the holder to take a connection. It returns the stream that the
// connection's bytes are to go through, and how many of them have done so. It is
// httpfilter.ErrUnsure where the debuggee may have had some, or may yet get them, when
// a link that was cut or silent is there again. What is offered over one that seems to
// be so waits, and is granted before it is delivered.
//
// Goroutines: one, and one that closes the stream of what was not taken. Both may
// outlive the offer where the client's link is stuck; Incoming waits for them, and
// the end of the client's session ends them.
func (s *Steal) offer(conn protocol.Incoming, first said) (stream net.Conn, ahead int, err error) {
	conn.ID, conn.Waits = s.id, !s.client.Hears()
	limit := s.patience
	if limit > patience {
		select {
		case s.in.waiting <- struct{}{}:
			defer func() { <-s.in.waiting }()
		default: // too many wait for debuggees already
			limit = patience
		}
	}
	ctx, cancel := context.WithTimeoutCause(s.hold(), limit, fmt.Errorf("no answer within %v", limit))
	defer cancel()
	if ctx.Err() != nil { // it came from before
		return nil, 0, context.Cause(ctx)
	}
	o := &offer{ctx: ctx, steal: s, conn: conn, said: first, opened: make(chan error, 1), done: make(chan struct{}), waits: conn.Waits}
	s.in.team.Go(o.ask)
	select {
	case err = <-o.opened:
		if err == nil {
			err = o.answer()
		}
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	o.end()
	if err != nil {
		s.in.team.Go(o.close)
		_, refused := errors.AsType[*protocol.Error](err)
		if !refused && !o.waits && o.ahead > 0 {
			err = fmt.Errorf("%w: %w", httpfilter.ErrUnsure, err)
		}
		return nil, 0, err
	}
	<-o.done // the debuggee has it, also where writing failed: then its relay fails
	return o.stream, o.ahead, nil
}

// answer waits for the holder's. One that has come counts, whatever o.ctx: the debuggee
// may have acted on the first words already.
func (o *offer) answer() error {
	cut := make(chan struct{})
	stop := context.AfterFunc(o.ctx, func() {
		defer close(cut)
		_ = o.stream.SetReadDeadline(time.Unix(1, 0))
	})
	err := o.hear()
	if stop() {
		return err
	}
	<-cut
	if err != nil {
		_ = o.stream.SetWriteDeadline(time.Unix(1, 0))
		return context.Cause(o.ctx)
	}
	return o.stream.SetReadDeadline(time.Time{})
}

// hear reads what the holder says until it has taken the connection.
func (o *offer) hear() error {
	for {
		var r protocol.IncomingReply
		if _, err := protocol.ReadAnswer(o.stream, protocol.KindIncoming, &r); err != nil {
			return err
		}
		switch {
		case r.Waits:
			o.waits = true
		case r.Asks:
			if err := o.grant(); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}

// grant leaves the connection to the holder, when all that goes along has done so.
func (o *offer) grant() error {
	o.end()
	select {
	case <-o.done:
	case <-o.ctx.Done():
	}
	if o.ctx.Err() != nil {
		return o.ctx.Err()
	}
	o.waits, o.done = false, make(chan struct{})
	granted := make(chan error, 1)
	o.steal.in.team.Go(func() {
		defer close(o.done)
		_, err := o.stream.Write(protocol.Granted())
		granted <- err
	})
	select {
	case err := <-granted:
		return err
	case <-o.ctx.Done():
		return o.ctx.Err()
	}
}

// close closes the stream of what was not taken, if one was opened.
func (o *offer) close() {
	<-o.done
	if o.stream != nil {
		o.stream.Close()
	}
}

// A words is a buffer for an offer and the first bytes of its connection.
type words [1<<10 + maxAhead]byte

var buffers = sync.Pool{New: func() any { return new(words) }}

// ask opens the stream and writes the offer, and what the client says meanwhile.
func (o *offer) ask() {
	defer close(o.done)
	stream, err := o.steal.client.Open()
	if err != nil {
		o.opened <- fmt.Errorf("opening stream: %w", err)
		return
	}
	o.stream = stream
	o.opened <- nil // the answer is waited for meanwhile
	if err := o.write(); err != nil {
		_ = stream.SetDeadline(time.Unix(1, 0)) // there will be none
	}
}

func (o *offer) write() error {
	head, err := json.Marshal(o.conn)
	if err != nil {
		return fmt.Errorf("encoding %v: %w", protocol.KindIncoming, err)
	}
	buf := buffers.Get().(*words)
	b := o.look(protocol.AppendHead(buf[:0], protocol.KindIncoming, head, 0))
	_, err = o.stream.Write(b)
	buffers.Put(buf)
	if err != nil || o.ahead > 0 || !o.comes() {
		return err
	}
	buf = buffers.Get().(*words)
	defer buffers.Put(buf)
	if b = o.look(buf[:0]); len(b) > 0 {
		_, err = o.stream.Write(b)
	}
	return err
}

// look appends a chunk of what there is of the connection, if the offer is not over.
func (o *offer) look(b []byte) []byte {
	if !o.begin() {
		return b
	}
	defer close(o.looked)
	at := len(b) + protocol.ChunkHead
	var n int
	if room := b[at : at+maxAhead]; o.said.conn == nil {
		n = copy(room, o.said.read)
	} else if n, _ = socket.Peek(o.said.conn, room, false); n == 0 { // who relays it sees its end, and errors
		return b
	}
	o.ahead = n
	return binary.BigEndian.AppendUint32(b, uint32(n))[:at+n]
}

// comes waits until there is something of the connection, or the offer is over.
func (o *offer) comes() bool {
	if !o.begin() {
		return false
	}
	defer close(o.looked)
	n, _ := socket.Peek(o.said.conn, make([]byte, 1), true)
	return n > 0
}

// begin begins to look at what the client says, unless there is no need.
func (o *offer) begin() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.over || o.ctx.Err() != nil || o.said.conn == nil && len(o.said.read) == 0 {
		return false
	}
	o.looked = make(chan struct{})
	return true
}

// end leaves what the client says to others.
func (o *offer) end() {
	o.mu.Lock()
	o.over = true
	looked := o.looked
	o.mu.Unlock()
	if looked == nil {
		return
	}
	if o.said.conn == nil { // it is copied, which takes no time
		<-looked
		return
	}
	select {
	case <-looked:
	default:
		_ = o.said.conn.SetReadDeadline(time.Unix(1, 0))
		<-looked
		_ = o.said.conn.SetReadDeadline(time.Time{})
	}
}
