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
)

// MaxChunk is the most bytes one chunk or datagram carries.
const MaxChunk = 64<<10 - 1

// ErrReset: the connection at the stream's other end was reset, or the stream broke.
var ErrReset = errors.New("connection reset at the other end of the stream")

// Chunks: after its answer a stream of KindConnect or KindIncoming carries each
// direction as chunks,
//
//	length 2 | bytes
//
// where length 0 is the direction's orderly end (TCP's FIN). A stream that
// ends without one tells that the connection was reset.

// Relay moves bytes between a connection and its stream until both directions
// have ended, keeping half-closes and resets apart, and closes both. Goroutines:
// two beside the caller's, gone before Relay returns.
func Relay(conn *net.TCPConn, stream net.Conn) error {
	var once sync.Once
	var first error
	fail := func(err error) {
		once.Do(func() {
			first = err
			// Lets the other direction end; a reset must arrive as a reset.
			conn.SetLinger(0)
			conn.Close()
			stream.Close()
			stream.SetDeadline(past) // Close alone does not wake a yamux reader
		})
	}
	sent := make(chan struct{})
	var ending atomic.Bool // our direction's end is written, or is being
	var wg sync.WaitGroup
	wg.Go(func() {
		defer close(sent)
		if err := sendChunks(stream, conn, &ending); err != nil {
			fail(err)
		}
	})
	if err := receiveChunks(conn, stream); err != nil {
		fail(err)
	} else if err := conn.CloseWrite(); err != nil && !errors.Is(err, net.ErrClosed) {
		fail(err)
	} else {
		// The other end closes the stream when it has all of both directions;
		// if it does so before, it has given up.
		wg.Go(func() {
			_, _ = stream.Read(make([]byte, 1)) // its end is what matters
			if !ending.Load() {
				fail(ErrReset)
			}
		})
	}
	<-sent
	stream.SetReadDeadline(past)
	wg.Wait()
	if first == nil {
		conn.SetLinger(-1) // what is still to be sent is sent, whatever was set before
	}
	conn.Close()
	stream.Close()
	return first
}

var past = time.Unix(1, 0)

// A relayBuffer holds a chunk and its length. Connections come and go quickly,
// and most say little.
type relayBuffer [2 + MaxChunk]byte

var relayBuffers = sync.Pool{New: func() any { return new(relayBuffer) }}

// sendChunks copies conn to the stream until conn's FIN, and sets ending before
// it passes that on.
func sendChunks(stream io.Writer, conn io.Reader, ending *atomic.Bool) error {
	buf := relayBuffers.Get().(*relayBuffer)
	defer relayBuffers.Put(buf)
	for {
		n, err := conn.Read(buf[2:])
		if n > 0 {
			binary.BigEndian.PutUint16(buf[:], uint16(n))
			if _, err := stream.Write(buf[:2+n]); err != nil {
				return fmt.Errorf("writing to stream: %w", err)
			}
		}
		if err == io.EOF {
			ending.Store(true)
			_, err = stream.Write([]byte{0, 0})
			return err
		}
		if err != nil {
			return fmt.Errorf("reading from connection: %w", err)
		}
	}
}

// receiveChunks copies the stream to conn until the direction's end.
func receiveChunks(conn io.Writer, stream io.Reader) error {
	buf := relayBuffers.Get().(*relayBuffer)
	defer relayBuffers.Put(buf)
	for {
		n, err := readChunk(stream, buf[:])
		if err != nil {
			return ErrReset
		}
		if n == 0 {
			return nil
		}
		if _, err := conn.Write(buf[:n]); err != nil {
			return fmt.Errorf("writing to connection: %w", err)
		}
	}
}

func readChunk(r io.Reader, buf []byte) (int, error) {
	if _, err := io.ReadFull(r, buf[:2]); err != nil {
		return 0, err
	}
	n := int(binary.BigEndian.Uint16(buf))
	if _, err := io.ReadFull(r, buf[:n]); err != nil {
		return 0, err
	}
	return n, nil
}

// WriteDatagram sends one datagram of at most MaxChunk bytes on a stream of
// KindDatagram, in the form of a chunk; an empty datagram is one too.
func WriteDatagram(w io.Writer, b []byte) error {
	if len(b) > MaxChunk {
		return fmt.Errorf("sending datagram of %d bytes: %w", len(b), ErrFrameSize)
	}
	buf := binary.BigEndian.AppendUint16(make([]byte, 0, 2+len(b)), uint16(len(b)))
	_, err := w.Write(append(buf, b...))
	return err
}

// ReadDatagram reads one datagram into buf, which holds MaxChunk bytes.
func ReadDatagram(r io.Reader, buf []byte) (int, error) { return readChunk(r, buf) }
