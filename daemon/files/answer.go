package files

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"

	"mirrord/protocol"
	"mirrord/protocol/socket"
)

// An answerer answers the file server's requests from a Source.
type answerer struct {
	src     Source
	conn    net.Conn
	arena   arena
	timeout time.Duration
	begun   count // writes

	writing sync.Mutex // a reply is one write
	notices notices

	mu   sync.Mutex
	uses map[uint64]*use // guarded by mu; nodes with a call of src under way
}

// A use is one node while calls of the Source for it are under way.
type use struct {
	ctx      context.Context // until the node is released
	cancel   context.CancelFunc
	calls    int
	released bool
}

func newAnswerer(conn net.Conn, shared arena, src Source, timeout time.Duration) *answerer {
	a := &answerer{src: src, conn: socket.New(conn), arena: shared, timeout: timeout, uses: make(map[uint64]*use)}
	a.notices.waiting = make(map[uint64]chan struct{})
	return a
}

// run answers requests until the socket ends, and waits for all it began.
func (a *answerer) run() error {
	defer a.begun.end()
	defer a.notices.end()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	in := bufio.NewReader(a.conn)
	for {
		r, seq, slot, err := readRequest(in)
		if err == io.EOF || errors.Is(err, net.ErrClosed) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		if err != nil {
			return err
		}
		switch r.op {
		case opRelease:
			a.release(r.node)
			continue
		case opLeft:
			a.src.Left(r.node, uint64(r.off))
			continue
		case opNoted:
			a.notices.noted(uint64(r.off))
			continue
		case opWrite: // begun in order
			written := a.src.Write(r.node, a.arena.slot(slot)[:r.n], r.off, r.flags)
			a.begun.add()
			if written == nil {
				var b [replyHead]byte
				putReplyHead(b[:], seq, 0, 0)
				a.send(b[:])
				continue
			}
			wg.Go(func() { a.reply(ctx, r, seq, slot, written) })
			continue
		}
		u := a.enter(ctx, r.node)
		wg.Go(func() {
			defer a.leave(r.node, u)
			a.reply(u.ctx, r, seq, slot, nil)
		})
	}
}

func (a *answerer) enter(ctx context.Context, node uint64) *use {
	a.mu.Lock()
	defer a.mu.Unlock()
	u := a.uses[node]
	if u == nil {
		u = new(use)
		u.ctx, u.cancel = context.WithCancel(ctx)
		a.uses[node] = u
	}
	u.calls++
	return u
}

func (a *answerer) leave(node uint64, u *use) {
	a.mu.Lock()
	u.calls--
	last := u.calls == 0
	if last {
		delete(a.uses, node)
		u.cancel()
	}
	a.mu.Unlock()
	if last && u.released {
		a.src.Released(node)
	}
}

// release tells src at once, or when the calls under way, which nobody waits
// for any more, have ended.
func (a *answerer) release(node uint64) {
	a.mu.Lock()
	u := a.uses[node]
	if u != nil {
		u.released = true
		u.cancel()
	}
	a.mu.Unlock()
	if u == nil {
		a.src.Released(node)
	}
}

// reply answers r.
func (a *answerer) reply(ctx context.Context, r request, seq uint64, slot uint32, written func(context.Context) error) {
	ctx, cancel := context.WithTimeout(ctx, a.timeout)
	defer cancel()
	b := make([]byte, replyHead, 256)
	var length int
	var err error
	switch r.op {
	case opWrite:
		err = written(ctx)
	case opRead:
		length, err = a.src.Read(ctx, r.node, a.arena.slot(slot)[:r.n], r.off)
		if err == io.EOF {
			err = nil
		}
	default:
		if b, err = a.tell(ctx, r, slot, b); err == nil {
			length = len(b) - replyHead
		}
	}
	if err != nil {
		b = make([]byte, replyHead)
		putReplyHead(b, seq, errnoOf(err), 0)
	} else {
		putReplyHead(b, seq, 0, length)
	}
	a.send(b)
}

func (a *answerer) send(reply []byte) {
	a.writing.Lock()
	defer a.writing.Unlock()
	_, _ = a.conn.Write(reply) // its failure ends the reader as well
}

// tell appends the answer to r.
func (a *answerer) tell(ctx context.Context, r request, slot uint32, b []byte) ([]byte, error) {
	switch r.op {
	case opClaim:
		c, err := a.src.Claim(ctx, r.node)
		return appendClaim(b, c), err
	case opChange:
		var q protocol.Write
		if err := json.Unmarshal(a.arena.slot(slot)[:r.n], &q); err != nil {
			return nil, fmt.Errorf("decoding change: %w", err)
		}
		reply, err := a.src.Change(ctx, r.node, q)
		return appendChanged(b, reply), err
	case opFlush:
		return b, a.src.Flush(ctx, r.node)
	case opAttr:
		attr, err := a.src.Attr(ctx, r.node)
		return appendAhead(appendAttr(b, attr), a.src, r.node), err
	case opReadDir:
		list, more, err := a.src.ReadDir(ctx, r.node, int(r.off))
		if err != nil {
			return nil, err
		}
		return appendListing(b, list, more)
	}
	return nil, syscall.ENOSYS
}

// errnoOf is what the debuggee sees of err.
func errnoOf(err error) syscall.Errno {
	errno, ok := errors.AsType[syscall.Errno](err)
	// FUSE refuses numbers from 512 on; EINTR would be no signal of the caller.
	if !ok || errno <= 0 || errno >= 512 || errno == syscall.EINTR {
		return syscall.EIO
	}
	return errno
}
