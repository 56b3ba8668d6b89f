package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"mirrord/protocol/crew"
	"mirrord/protocol/socket"
)

// ErrReset: the connection at the stream's other end was reset, or the stream broke.
var ErrReset = errors.New("connection reset at the other end of the stream")

// Chunks: after its answer a stream of KindConnect or KindIncoming carries each
// direction as chunks,
//
//	length 4 | bytes
//
// where length 0 is the direction's orderly end (TCP's FIN), and so is LastEnd where
// the other direction has ended: nobody waits for it, and the link need not hurry. A
// stream that ends without one tells that the connection was reset.
const (
	ChunkHead = 4
	LastEnd   = 1<<32 - 2
	// MaxChunk is the most bytes that we send as one chunk: with the heads of
	// chunk and stream it is one frame of the link. Whoever receives passes on
	// what is there and has no such limit.
	MaxChunk = 240<<10 - ChunkHead - 12
)

// A Watch is shown what a relay is about to move, each direction by one
// goroutine; nil is the direction's orderly end. It does not wait, and keeps
// nothing of b.
type Watch interface {
	Sends(b []byte)    // from the connection to the stream
	Receives(b []byte) // from the stream to the connection
}

// Relay moves bytes between a connection and its stream until both directions
// have ended, keeping half-closes and resets apart, and closes both. Goroutines:
// two beside the caller's, gone before Relay returns.
func Relay(conn Ending, stream net.Conn) error { return RelayBy(nil, conn, stream, nil) }

// An Ending is a connection as TCP's: each side ends its own direction, and either
// may reset it.
type Ending interface {
	net.Conn
	CloseWrite() error
	SetLinger(sec int) error
}

// RelayBy is Relay whose goroutines are of team, and that shows w, unless it is nil, what
// it moves.
func RelayBy(team *crew.Crew, conn Ending, stream net.Conn, w Watch) error {
	fast := socket.New(conn)
	var once sync.Once
	var first error
	fail := func(err error) {
		once.Do(func() {
			first = err
			// Lets the other direction end; a reset must arrive as a reset.
			_ = conn.SetLinger(0)
			conn.Close()
			stream.Close()
			stream.SetDeadline(past) // Close alone does not wake a yamux reader
		})
	}
	sent := make(chan struct{})
	var ending atomic.Bool // our direction's end is written, or is being
	var heard atomic.Bool  // the other's has come
	var wg sync.WaitGroup
	begin := func(f func()) {
		wg.Add(1)
		team.Go(func() { defer wg.Done(); f() })
	}
	begin(func() {
		defer close(sent)
		if err := sendChunks(stream, fast, &ending, &heard, w); err != nil {
			fail(err)
		}
	})
	if err := receiveChunks(fast, stream, &heard, w); err != nil {
		fail(err)
	} else if done(sent) {
		// Closing says all that is left to say.
	} else if err := conn.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		fail(err)
	} else {
		// The other end closes the stream when it has all of both directions;
		// if it does so before, it has given up.
		begin(func() {
			_, _ = stream.Read(make([]byte, 1)) // its end is what matters
			if !ending.Load() {
				fail(ErrReset)
			}
		})
		<-sent
		stream.SetReadDeadline(past)
	}
	wg.Wait()
	if first == nil {
		_ = conn.SetLinger(-1) // what is still to be sent is sent, whatever was set before
	}
	conn.Close()
	stream.Close()
	return first
}

var past = time.Unix(1, 0)

func done(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// A direction begins with a small buffer, as connections come and go quickly
// and most say little; one that fills it gets a bigger one.
const firstBuffer = 16 << 10

var firstBuffers = sync.Pool{New: func() any { return new([firstBuffer]byte) }}

// bigger is a buffer for more than what filled buf.
func bigger(buf []byte) []byte {
	if n := min(4*len(buf), ChunkHead+MaxChunk); n > len(buf) {
		return make([]byte, n)
	}
	return buf
}

// sendChunks copies conn to the stream until conn's FIN, and sets ending before
// it passes that on: with the last bytes, where it comes with them. heard: the other
// direction has ended.
func sendChunks(stream io.Writer, conn io.Reader, ending, heard *atomic.Bool, w Watch) error {
	first := firstBuffers.Get().(*[firstBuffer]byte)
	defer firstBuffers.Put(first)
	buf := first[:]
	now, _ := conn.(interface{ ReadNow([]byte) (int, error) })
	for {
		body := buf[ChunkHead : len(buf)-ChunkHead] // and the end
		n, err := conn.Read(body)
		if now != nil && err == nil && n < len(body) {
			var more int
			more, err = now.ReadNow(body[n:])
			n += more
		}
		out := buf[:0]
		if n > 0 {
			if w != nil {
				w.Sends(body[:n])
			}
			binary.BigEndian.PutUint32(buf, uint32(n))
			out = buf[:ChunkHead+n]
		}
		if err == io.EOF {
			if w != nil {
				w.Sends(nil)
			}
			ending.Store(true)
			end := uint32(0)
			if heard.Load() {
				end = LastEnd
			}
			out = binary.BigEndian.AppendUint32(out, end)
		}
		if len(out) > 0 {
			if _, err := stream.Write(out); err != nil {
				return fmt.Errorf("writing to stream: %w", err)
			}
		}
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("reading from connection: %w", err)
		case n == len(body):
			buf = bigger(buf)
		}
	}
}

// receiveChunks copies the stream to conn until the direction's end, and sets heard
// then. What came is passed on at once, in one write, whether it is a part of a chunk
// or several; but what comes with the end leaves with that, which the caller sees to.
func receiveChunks(conn io.Writer, stream io.Reader, heard *atomic.Bool, w Watch) error {
	first := firstBuffers.Get().(*[firstBuffer]byte)
	defer firstBuffers.Put(first)
	buf := first[:]
	var left, have int // of the current chunk; of a head that came in part
	var parts [][]byte
	for {
		n, err := stream.Read(buf[have:])
		if n == 0 && err != nil {
			return ErrReset
		}
		full := have+n == len(buf)
		in, ended := buf[:have+n], false
		parts = parts[:0]
		for len(in) > 0 && !ended {
			if left == 0 {
				if len(in) < ChunkHead {
					break
				}
				left = chunkLength(in)
				in, ended = in[ChunkHead:], left == 0
				continue
			}
			part := in[:min(left, len(in))]
			parts = append(parts, part)
			if w != nil {
				w.Receives(part)
			}
			left -= len(part)
			in = in[len(part):]
		}
		if ended {
			heard.Store(true)
		}
		if err := writeParts(conn, parts, ended); err != nil {
			return fmt.Errorf("writing to connection: %w", err)
		}
		if ended {
			if w != nil {
				w.Receives(nil)
			}
			return nil
		}
		rest := in
		if full {
			buf = bigger(buf)
		}
		have = copy(buf, rest)
	}
}

// chunkLength reads a chunk's head; 0: the direction has ended.
func chunkLength(head []byte) int {
	n := binary.BigEndian.Uint32(head)
	if n == LastEnd {
		return 0
	}
	return int(n)
}

func writeParts(w io.Writer, parts [][]byte, last bool) error {
	s, ok := w.(*socket.Conn)
	switch {
	case ok && last && len(parts) > 0:
		return s.WriteLast(parts)
	case ok && len(parts) > 1:
		return s.WriteBuffers(parts)
	}
	for _, part := range parts {
		if _, err := w.Write(part); err != nil {
			return err
		}
	}
	return nil
}

// MaxDatagram is the most bytes one datagram carries.
const MaxDatagram = 64<<10 - 1

// WriteDatagram sends one datagram of at most MaxDatagram bytes on a stream of
// KindDatagram, in the form of a chunk; an empty datagram is one too.
func WriteDatagram(w io.Writer, b []byte) error {
	if len(b) > MaxDatagram {
		return fmt.Errorf("sending datagram of %d bytes: %w", len(b), ErrFrameSize)
	}
	buf := binary.BigEndian.AppendUint32(make([]byte, 0, ChunkHead+len(b)), uint32(len(b)))
	_, err := w.Write(append(buf, b...))
	return err
}

// ReadDatagram reads one datagram into buf, which holds MaxDatagram bytes.
func ReadDatagram(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:ChunkHead]); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint32(buf)
	if n > uint32(len(buf)) {
		return 0, fmt.Errorf("receiving datagram of %d bytes: %w", n, ErrFrameSize)
	}
	_, err := io.ReadFull(r, buf[:n])
	return int(n), err
}
