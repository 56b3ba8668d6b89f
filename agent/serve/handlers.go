package serve

import (
	"bufio"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/files"
	"mirrord/agent/incoming"
	"mirrord/agent/outgoing"
	"mirrord/protocol"
)

// A handler answers a stream's request; the stream is closed when it returns.
type handler func(ctx context.Context, c *client, stream net.Conn, f protocol.Frame) error

// handlers is the table of what a client may ask, once it has been greeted.
var handlers = map[protocol.Kind]handler{
	protocol.KindHello:    answer((*client).again),
	protocol.KindEnviron:  answer((*client).environ),
	protocol.KindOpen:     open,
	protocol.KindRead:     read,
	protocol.KindReadDir:  answerFile((*files.Handles).ReadDir),
	protocol.KindClose:    answerFile((*files.Handles).Close),
	protocol.KindStat:     stat,
	protocol.KindAccess:   answerPath((*files.Handles).Access),
	protocol.KindXattr:    answerPath((*files.Handles).Xattr),
	protocol.KindConnect:  carry(outgoing.Connect),
	protocol.KindDatagram: carry(outgoing.Datagram),
	protocol.KindSteal:    steal,
	protocol.KindWatch:    watch,
	protocol.KindChange:   answerPath((*files.Handles).Change),
	protocol.KindStatfs:   answerPath((*files.Handles).Statfs),
	protocol.KindWrite:    write,
	protocol.KindHolders:  answer((*client).holders),
	protocol.KindCertify:  answer((*client).certify),
	protocol.KindPause:    still,
}

// answer makes a handler of what takes one request and gives one answer.
func answer[Q, A any](do func(*client, Q) (A, []byte, error)) handler {
	return answerAhead(do, func(*client, Q, *A) *files.Batch { return nil })
}

// answerAhead makes one whose answer may be followed by a batch of others.
func answerAhead[Q, A any](do func(*client, Q) (A, []byte, error), guess func(*client, Q, *A) *files.Batch) handler {
	return func(ctx context.Context, c *client, stream net.Conn, f protocol.Frame) error {
		q, err := decode[Q](f)
		if err != nil {
			return protocol.WriteError(stream, f.Kind.String(), err)
		}
		if err := c.begin(ctx); err != nil {
			return err
		}
		reply, payload, err := do(c, q)
		c.done()
		if err != nil {
			return protocol.WriteError(stream, f.Kind.String(), err)
		}
		batch := guess(c, q, &reply)
		err = protocol.WriteMessage(stream, f.Kind, reply, payload)
		if batch != nil {
			defer closeWith(stream)()
		}
		for batch != nil && err == nil {
			if err := c.begin(ctx); err != nil {
				return err
			}
			ahead, contents, ok := batch.Next()
			c.done()
			if !ok {
				return nil
			}
			err = protocol.WriteMessage(stream, f.Kind, ahead, contents)
		}
		return err
	}
}

// closeWith closes the stream when the client has, which a write to it does not
// notice. stop ends that.
func closeWith(stream net.Conn) (stop func()) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		_, _ = io.Copy(io.Discard, stream)
		stream.Close()
	}()
	return func() {
		_ = stream.SetReadDeadline(time.Unix(1, 0))
		<-gone
	}
}

// begin waits until one more request may be worked on, until done.
func (c *client) begin(ctx context.Context) error {
	select {
	case c.busy <- struct{}{}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *client) done() { <-c.busy }

var (
	open = answerAhead(onPath((*files.Handles).Open), func(c *client, q protocol.Open, r *protocol.OpenReply) (b *files.Batch) {
		if q.Ahead && r.Attr.Mode&unix.S_IFMT == unix.S_IFDIR {
			if b = c.files.Inside(string(q.Path)); b != nil {
				r.Inside = new(protocol.Inside)
				r.Inside.Content, r.Inside.NoFollow = b.About()
			}
		} else {
			b = c.ahead(q.Ahead, r.Lease, string(q.Path), true, q.NoFollow)
		}
		r.Ahead, r.Soon = b != nil, b.Soon()
		return b
	})
	stat = answerAhead(onPath((*files.Handles).Stat), func(c *client, q protocol.Stat, r *protocol.StatReply) (b *files.Batch) {
		b = c.ahead(q.Ahead, r.Lease, string(q.Path), false, q.NoFollow)
		r.Ahead, r.Soon = b != nil, b.Soon()
		return b
	})
)

// ahead guesses what follows an answer, if that was asked for and it can be kept.
func (c *client) ahead(asked bool, l protocol.Lease, path string, content, noFollow bool) *files.Batch {
	if !asked || l.ID == 0 {
		return nil
	}
	return c.files.Ahead(path, content, noFollow)
}

// answerFile makes a handler of what is done with the client's files.
func answerFile[Q, A any](do func(*files.Handles, Q) (A, []byte, error)) handler {
	return answer(func(c *client, q Q) (A, []byte, error) { return do(c.files, q) })
}

// answerPath makes a handler of what looks a path up, which a container must be there for.
func answerPath[Q, A any](do func(*files.Handles, Q) (A, []byte, error)) handler {
	return answer(onPath(do))
}

func onPath[Q, A any](do func(*files.Handles, Q) (A, []byte, error)) func(*client, Q) (A, []byte, error) {
	return func(c *client, q Q) (A, []byte, error) {
		reply, payload, err := do(c.files, q)
		if err != nil { // the container's end may be why
			err = cmp.Or(c.server.target.Gone(), err)
		}
		return reply, payload, err
	}
}

// carry makes a handler of what answers by itself and goes on with the stream.
func carry[Q any](do func(context.Context, net.Conn, Q) error) handler {
	return func(ctx context.Context, _ *client, stream net.Conn, f protocol.Frame) error {
		q, err := decode[Q](f)
		if err != nil {
			return protocol.WriteError(stream, f.Kind.String(), err)
		}
		return do(ctx, stream, q)
	}
}

func decode[Q any](f protocol.Frame) (q Q, err error) {
	if err := json.Unmarshal(f.Header, &q); err != nil {
		return q, fmt.Errorf("decoding request: %w: %w", err, unix.EINVAL)
	}
	return q, nil
}

// again refuses a second hello.
func (c *client) again(protocol.Hello) (protocol.HelloReply, []byte, error) {
	return protocol.HelloReply{}, nil, fmt.Errorf("client was greeted before: %w", unix.EALREADY)
}

// environ answers with the target's environment.
func (c *client) environ(struct{}) (protocol.EnvironReply, []byte, error) {
	env, err := c.server.target.Environ()
	return protocol.EnvironReply{}, env, err
}

// maxReads is how many reads of one stream are worked on at one time; others wait.
const maxReads = 64

// The payload of a read begins with a page: whoever copies from a page's begin to
// a few bytes behind another's needs four times as long. What comes before it is
// at the end of the page before.
const page = 4 << 10

var readBuffers = sync.Pool{New: func() any {
	b := make([]byte, page+protocol.MaxPayload) // so big a slice begins with a page
	return &b
}}

// read answers with bytes of files what is asked in a stream, until it is closed
// or something else is asked. Reads do not wait for each other; of their answers
// one is sent at a time.
func read(ctx context.Context, c *client, stream net.Conn, f protocol.Frame) error {
	under, turn := make(chan struct{}, maxReads), make(chan struct{}, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		q, err := decode[protocol.Read](f)
		if f.Kind != protocol.KindRead {
			err = fmt.Errorf("stream is for reads: %w", unix.EPROTO)
		}
		if err != nil {
			turn <- struct{}{}
			defer func() { <-turn }()
			return protocol.WriteError(stream, f.Kind.String(), err)
		}
		under <- struct{}{}
		wg.Go(func() {
			defer func() { <-under }()
			_ = readOnce(ctx, c, stream, turn, q) // a broken stream ends the loop as well
		})
		if f, err = protocol.ReadFrame(stream); err != nil {
			stream.Close() // who reads no more may have left no room for what is being sent
			if err == io.EOF {
				err = nil
			}
			return err
		}
	}
}

// readOnce sends from where it reads to, in pieces that the processor's cache holds.
func readOnce(ctx context.Context, c *client, stream net.Conn, turn chan struct{}, q protocol.Read) error {
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	n, err := 0, c.begin(ctx)
	if err == nil {
		n, err = c.files.Read(q, (*buf)[page:])
		c.done()
	}
	turn <- struct{}{}
	defer func() { <-turn }()
	if err != nil {
		e := *protocol.AsError(protocol.KindRead.String(), err)
		e.ID = q.ID
		return protocol.WriteMessage(stream, protocol.KindError, e, nil)
	}
	header, err := json.Marshal(protocol.ReadReply{ID: q.ID})
	if err != nil {
		return fmt.Errorf("encoding answer: %w", err)
	}
	head := protocol.AppendHead(nil, protocol.KindRead, header, n)
	b := (*buf)[page-len(head) : page+n]
	copy(b, head)
	for len(b) > 0 && err == nil {
		n, err = stream.Write(b[:min(len(b), protocol.MaxChunk)])
		b = b[n:]
	}
	return err
}

// write does what is asked of open files, and answers, in order, until the stream is
// closed. While more has come answers wait and go together, but for nothing that may
// take long.
func write(ctx context.Context, c *client, stream net.Conn, f protocol.Frame) error {
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	in := bufio.NewReaderSize(stream, writeHead)
	var answers []byte
	send := func() error {
		if len(answers) == 0 {
			return nil
		}
		_, err := stream.Write(answers)
		answers = answers[:0]
		return err
	}
	for {
		q, err := decode[protocol.Write](f)
		if q.Do != protocol.WriteData || q.Flags&(protocol.WriteSynced|protocol.WriteDataOnly) != 0 {
			if err := send(); err != nil {
				return err
			}
		}
		var reply protocol.WriteReply
		if err == nil {
			if err := c.begin(ctx); err != nil {
				return err
			}
			reply, err = c.files.Write(q, f.Payload)
			c.done()
		}
		if err == nil {
			answers, err = protocol.AppendMessage(answers, f.Kind, reply, nil)
		} else {
			answers, err = appendError(answers, f.Kind, err)
		}
		if err == nil && (len(answers) > maxAnswers || !waits(in, stream)) {
			err = send()
		}
		if err != nil {
			return err
		}
		if f, err = protocol.ReadFrameTo((*buf)[:protocol.MaxPayload], in, protocol.KindWrite); err != nil {
			if err == io.EOF {
				err = nil
			}
			return err
		}
		if f.Kind != protocol.KindWrite {
			answers, _ = appendError(answers, f.Kind, fmt.Errorf("stream is for writing: %w", unix.EPROTO))
			return send()
		}
	}
}

const (
	writeHead  = 256     // about what of a frame comes before its payload
	maxAnswers = 4 << 10 // bytes of answers that wait
)

// waits tells whether something to read has come.
func waits(in *bufio.Reader, stream net.Conn) bool {
	if in.Buffered() > 0 {
		return true
	}
	_ = stream.SetReadDeadline(time.Unix(1, 0))
	_, err := in.Peek(1)
	_ = stream.SetReadDeadline(time.Time{})
	return err == nil // an end comes again
}

func appendError(b []byte, k protocol.Kind, err error) ([]byte, error) {
	return protocol.AppendMessage(b, protocol.KindError, protocol.AsError(k.String(), err), nil)
}

// steal holds a port for as long as the stream is open. The stream ends when
// the port is given back.
func steal(ctx context.Context, c *client, stream net.Conn, f protocol.Frame) error {
	q, err := decode[protocol.Steal](f)
	if err != nil {
		return protocol.WriteError(stream, "steal", err)
	}
	in := c.server.incoming
	if in == nil {
		return protocol.WriteError(stream, "steal", fmt.Errorf("stealing port %d: %w", q.Port, c.server.disabled))
	}
	if err := c.steals.begin(); err != nil {
		return protocol.WriteError(stream, "steal", err)
	}
	defer c.steals.done()
	s, err := in.Steal(ctx, q, c)
	if err != nil {
		return protocol.WriteError(stream, "steal", err)
	}
	defer s.Release()
	var lost atomic.Pointer[error]
	end := func(err error) {
		lost.CompareAndSwap(nil, &err) // the first is why
		_ = stream.SetReadDeadline(time.Unix(1, 0))
	}
	c.steals.add(s, end)
	defer c.steals.remove(s)
	reply := protocol.StealReply{Redirect: s.Redirect()}
	if err := protocol.WriteMessage(stream, protocol.KindSteal, reply, nil); err != nil {
		return err
	}
	s.OnLost(end) // what follows the answer
	s.OnCut(func(why error) {
		// A frame is one write, whoever else writes.
		_ = protocol.WriteMessage(stream, protocol.KindSteal, protocol.StealReply{Redirect: reply.Redirect, Cut: why.Error()}, nil)
	})
	for {
		f, err := protocol.ReadFrame(stream)
		if err != nil {
			if why := lost.Load(); why != nil {
				return protocol.WriteError(stream, "steal", *why)
			}
			return nil // it is over
		}
		state, err := decode[protocol.StealState](f)
		if err == nil {
			err = set(s, state)
		}
		if why := s.Lost(); why != nil { // that the port was released is no more than what follows
			err = why
		}
		if err != nil {
			return protocol.WriteError(stream, "steal", err)
		}
		if err := protocol.WriteMessage(stream, protocol.KindSteal, reply, nil); err != nil {
			return err
		}
	}
}

// holders tells how many clients there are, and which ports they have.
func (s *Server) holders() (clients int, all []protocol.Holder) {
	s.mu.Lock()
	list := slices.Collect(maps.Values(s.clients))
	s.mu.Unlock()
	all = []protocol.Holder{} // an array on the wire
	for _, c := range list {
		all = append(all, c.steals.holders()...)
	}
	slices.SortFunc(all, func(a, b protocol.Holder) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Since, b.Since), cmp.Compare(a.Session, b.Session))
	})
	return len(list), all
}

// set does what a client says of a port that it holds.
func set(s *incoming.Steal, state protocol.StealState) error {
	if state.Paused {
		s.Suspend(incoming.Paused)
	} else if err := s.Resume(incoming.Paused); err != nil {
		return err
	}
	return s.Arm(state.Arm)
}

// holders tells who has which ports.
func (c *client) holders(struct{}) (protocol.HoldersReply, []byte, error) {
	_, all := c.server.holders()
	for {
		list, err := json.Marshal(all)
		if err != nil || len(list) <= protocol.MaxPayload {
			return protocol.HoldersReply{}, list, err
		}
		all = all[:len(all)/2]
	}
}

// maxCertificate is the most bytes that a certificate's file, or its key's, may have.
const maxCertificate = 64 << 10

// ReadFile reads a small file of the target.
func (c *client) ReadFile(path string) ([]byte, error) {
	r, content, err := c.files.Open(protocol.Open{Path: protocol.Path(path), Inline: maxCertificate})
	if err == nil && r.Handle != 0 {
		_, _, err = c.files.Close(protocol.Close{Handle: r.Handle})
		err = cmp.Or(err, fmt.Errorf("it is no file of at most %d bytes: %w", maxCertificate, unix.EINVAL))
	}
	return content, err
}

// certify tells whether the pod's TLS can be opened with what is given.
func (c *client) certify(q protocol.TLS) (r protocol.CertifyReply, _ []byte, err error) {
	pair, err := incoming.Certificate(q, c.ReadFile)
	if err != nil {
		return r, nil, err
	}
	r.Names = pair.Leaf.DNSNames
	for _, ip := range pair.Leaf.IPAddresses {
		r.Names = append(r.Names, ip.String())
	}
	r.Until = pair.Leaf.NotAfter.UTC().Format(time.RFC3339)
	return r, nil, nil
}

// watch tells the client which of its leases expire, for as long as the stream is open.
func watch(ctx context.Context, c *client, stream net.Conn, _ protocol.Frame) error {
	l, err := c.files.Watch()
	if err != nil {
		return protocol.WriteError(stream, "watch", err)
	}
	unwatch := sync.OnceFunc(func() { c.files.Unwatch(l) })
	defer unwatch()
	defer c.server.target.OnChange(l.Expire)()
	if err := protocol.WriteMessage(stream, protocol.KindWatch, protocol.WatchReply{}, nil); err != nil {
		return err
	}
	defer context.AfterFunc(ctx, unwatch)()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer stream.SetReadDeadline(time.Unix(1, 0))
	wg.Go(func() { // the end of the stream, which Next does not see
		_, _ = io.Copy(io.Discard, stream)
		unwatch()
		stream.Close()
	})
	for {
		e, err := l.Next()
		if err == nil {
			err = protocol.WriteMessage(stream, protocol.KindWatch, e, nil)
		}
		if err != nil {
			return err
		}
	}
}
