package tunnel

import (
	"errors"
	"fmt"
	"net"
	"sync"

	"mirrord/protocol"
)

// A Writer does things to opened files one after the other, and does not wait
// for the answer to one before it asks the next: as many are on their way as
// the link takes.
//
// Goroutines: while something is to be answered, one sends and one receives.
type Writer struct {
	t *Tunnel

	mu        sync.Mutex // lock order: mu, then Tunnel.mu
	wake      sync.Cond
	queue     []*Writing // guarded by mu; not sent
	sent      []*Writing // guarded by mu; not answered, but the one that is being read
	sending   bool       // guarded by mu; a goroutine sends the queue
	receiving bool       // guarded by mu
	stream    net.Conn   // guarded by mu; nil until it is needed
	err       error      // guarded by mu; what ended the stream
}

// A Writing is one thing that is done to a file.
type Writing struct {
	frame *[]byte // until it is sent
	then  func(protocol.WriteReply, error)
	done  chan struct{} // closed when the fields below are set

	Reply protocol.WriteReply
	Err   error
}

// Done is closed when Reply and Err are set.
func (x *Writing) Done() <-chan struct{} { return x.done }

// Writer makes a writer, to be closed.
func (t *Tunnel) Writer() *Writer {
	w := &Writer{t: t}
	w.wake.L = &w.mu
	return w
}

// Blocks are what programs write that write much. The frame of one is used again: to
// make one, and clear it, takes longer than to fill it. Others are as big as they need
// be, as many of them may wait.
const (
	smallBlock = 16 << 10
	bigBlock   = 64 << 10
)

var blocks = sync.Pool{New: func() any { b := make([]byte, 0, bigBlock+1<<10); return &b }}

// frameOf puts what is asked into a frame.
func frameOf(q protocol.Write, data []byte) (*[]byte, error) {
	var frame *[]byte
	if smallBlock <= len(data) && len(data) <= bigBlock {
		frame = blocks.Get().(*[]byte)
	} else {
		frame = new([]byte)
	}
	var err error
	*frame, err = protocol.AppendMessage((*frame)[:0], protocol.KindWrite, q, data)
	return frame, err
}

// sentFrame takes a frame that nobody uses any more.
func sentFrame(frame *[]byte) {
	if cap(*frame) > bigBlock && cap(*frame) < 2*bigBlock {
		blocks.Put(frame)
	}
}

// Begin has q done after all that was begun before. then is called, in the order of
// the questions and before Done, by another goroutine. Where the tunnel was closed, or
// data is more than a frame takes, nothing is begun: then is not called, and it is done.
func (w *Writer) Begin(q protocol.Write, data []byte, then func(protocol.WriteReply, error)) (x *Writing, begun bool) {
	x = &Writing{then: then, done: make(chan struct{})}
	if x.frame, x.Err = frameOf(q, data); x.Err != nil {
		close(x.done)
		return x, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var needed []func()
	if !w.sending {
		needed = append(needed, w.send)
	}
	if !w.receiving {
		needed = append(needed, w.receive)
	}
	if !w.t.begin(needed...) {
		x.Err = net.ErrClosed
		close(x.done)
		return x, false
	}
	w.queue = append(w.queue, x)
	w.sending, w.receiving = true, true
	return x, true
}

func (x *Writing) end() {
	x.then(x.Reply, x.Err)
	close(x.done)
}

// Close ends the stream; what is not answered fails.
func (w *Writer) Close() {
	w.fail(net.ErrClosed)
}

// open returns the stream, which the first call makes.
func (w *Writer) open() (net.Conn, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.stream == nil && w.err == nil {
		s, err := w.t.bulk.mux.OpenStream()
		if err != nil {
			return nil, fmt.Errorf("opening stream: %w", err)
		}
		w.stream = s
	}
	return w.stream, w.err
}

func (w *Writer) send() {
	for x := w.next(); x != nil; x = w.next() {
		s, err := w.open()
		if err == nil {
			_, err = s.Write(*x.frame)
		}
		if err != nil {
			w.fail(fmt.Errorf("sending %v: %w", protocol.KindWrite, err))
		} else {
			sentFrame(x.frame)
		}
		x.frame = nil
	}
}

// next takes what is to be sent; nil: all is.
func (w *Writer) next() *Writing {
	w.mu.Lock()
	defer w.mu.Unlock()
	defer w.wake.Signal()
	if len(w.queue) == 0 {
		w.sending = false
		return nil
	}
	x := w.queue[0]
	w.queue = w.queue[1:]
	w.sent = append(w.sent, x)
	return x
}

func (w *Writer) receive() {
	for x := w.oldest(); x != nil; x = w.oldest() {
		s, err := w.open()
		if err == nil {
			_, err = protocol.ReadAnswer(s, protocol.KindWrite, &x.Reply)
		}
		if _, answered := errors.AsType[*protocol.Error](err); err != nil && !answered {
			w.fail(err)
		}
		x.Err = err
		x.end()
	}
}

// oldest waits for something that was sent and is not answered; nil: all is.
func (w *Writer) oldest() *Writing {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.sent) == 0 {
		if !w.sending {
			w.receiving = false
			return nil
		}
		w.wake.Wait()
	}
	x := w.sent[0]
	w.sent = w.sent[1:]
	return x
}

// fail ends the stream: what is on its way, and what will be asked, gets err.
func (w *Writer) fail(err error) {
	w.mu.Lock()
	s := w.stream
	if w.err == nil {
		w.err = err
	}
	w.mu.Unlock()
	if s != nil {
		s.Close()
	}
}
