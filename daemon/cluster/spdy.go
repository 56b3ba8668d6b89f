package cluster

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/moby/spdystream/spdy"
	corev1 "k8s.io/api/core/v1"
)

const (
	errorStream = 1
	dataStream  = 3

	frameHeader = 8
	maxFrame    = 64 << 10 // of what we write; larger ones only add latency
	maxReason   = 4 << 10  // of the error stream's text that is kept
	headRead    = 512      // is read where a frame begins: little, as the rest is not copied twice

	// The reason for an end may come after the end itself.
	reasonWait = 250 * time.Millisecond
)

// A spdyConn is one port-forward as a net.Conn: one data and one error stream
// in an upgraded connection of their own, because a stream nobody reads blocks
// its siblings.
//
// It frames by itself instead of using spdystream: no goroutine, one write and
// one copy per frame, and deadlines that are the connection's own. SPDY is used
// here without flow control and without pings from the server, so that nothing
// but data, an end and a reset has to be understood.
//
// There is no half-close: the container runtime answers it by closing the
// pod's side, and what the pod still says is lost. A write that ran into its
// deadline has broken the connection.
type spdyConn struct {
	io   net.Conn
	hard io.Closer // the connection below TLS, whose Close never waits
	addr forwardAddr

	readMu sync.Mutex
	r      *bufio.Reader
	left   int // of the current data frame
	stream uint32
	fin    bool   // the current frame ends its stream
	ended  bool   // the data stream has
	told   bool   // the error stream has
	reason []byte // what the error stream said
	end    error  // sticky

	writeMu sync.Mutex
	buf     []byte
}

// newSPDYConn opens both streams towards port. It does not wait for the
// server's replies: a refusal shows at the first Read.
func newSPDYConn(conn net.Conn, hard io.Closer, port int, addr forwardAddr) (*spdyConn, error) {
	var hello bytes.Buffer
	framer, err := spdy.NewFramer(&hello, nil)
	if err != nil {
		return nil, fmt.Errorf("making a spdy framer: %w", err)
	}
	headers := http.Header{}
	headers.Set(corev1.PortHeader, strconv.Itoa(port))
	headers.Set(corev1.PortForwardRequestIDHeader, "0")
	for _, s := range []struct {
		id   spdy.StreamId
		kind string
	}{{errorStream, corev1.StreamTypeError}, {dataStream, corev1.StreamTypeData}} {
		headers.Set(corev1.StreamType, s.kind)
		if err := framer.WriteFrame(&spdy.SynStreamFrame{StreamId: s.id, Headers: headers}); err != nil {
			return nil, fmt.Errorf("opening the %s stream: %w", s.kind, err)
		}
	}
	// We never write on the error stream.
	if err := framer.WriteFrame(&spdy.DataFrame{StreamId: errorStream, Flags: spdy.DataFlagFin}); err != nil {
		return nil, fmt.Errorf("ending the error stream: %w", err)
	}
	if _, err := conn.Write(hello.Bytes()); err != nil {
		return nil, fmt.Errorf("opening the streams: %w", err)
	}
	return &spdyConn{io: conn, hard: hard, addr: addr, r: bufio.NewReaderSize(conn, headRead)}, nil
}

func (c *spdyConn) Read(p []byte) (int, error) {
	c.readMu.Lock()
	defer c.readMu.Unlock()
	for c.end == nil {
		if c.left == 0 {
			if err := c.next(); err != nil {
				return 0, c.broke(err)
			}
			continue
		}
		if c.stream != dataStream {
			if err := c.skip(); err != nil {
				return 0, c.broke(err)
			}
			continue
		}
		if len(p) == 0 {
			return 0, nil
		}
		n, err := c.r.Read(p[:min(len(p), c.left)])
		c.left -= n
		if n > 0 {
			return n, nil // the error, if any, comes again
		}
		if err != nil {
			return 0, c.broke(err)
		}
	}
	return 0, c.end
}

// next ends the current frame and reads the header of the next. Nothing is
// consumed before the whole header is there, so that a deadline loses nothing.
func (c *spdyConn) next() error {
	switch {
	case c.fin && c.stream == dataStream:
		c.ended, c.fin = true, false
		if err := c.io.SetReadDeadline(time.Now().Add(reasonWait)); err != nil {
			return err
		}
	case c.fin && c.stream == errorStream:
		c.told = true
	}
	if c.ended && c.told {
		return io.EOF
	}
	h, err := c.r.Peek(frameHeader)
	if err != nil {
		return err
	}
	first, second := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:])
	length := int(second & 0xffffff)
	if first&0x80000000 == 0 { // data
		c.stream, c.fin, c.left = first, second>>24&uint32(spdy.DataFlagFin) != 0, length
		_, err := c.r.Discard(frameHeader)
		return err
	}
	if kind := spdy.ControlFrameType(first & 0xffff); kind == spdy.TypeRstStream && length >= 8 {
		frame, err := c.r.Peek(frameHeader + 8)
		if err != nil {
			return err
		}
		if binary.BigEndian.Uint32(frame[frameHeader:])&0x7fffffff == dataStream {
			c.end = fmt.Errorf("the cluster reset the port-forward (status %d)", binary.BigEndian.Uint32(frame[frameHeader+4:]))
			return nil
		}
	}
	// Replies, settings and goodbyes tell nothing that matters here.
	c.stream, c.fin, c.left = 0, false, length
	_, err = c.r.Discard(frameHeader)
	return err
}

// skip consumes a frame that is not data for the reader, keeping the beginning
// of the error stream's text.
func (c *spdyConn) skip() error {
	for c.left > 0 {
		if _, err := c.r.Peek(1); err != nil {
			return err
		}
		part, _ := c.r.Peek(min(c.left, c.r.Buffered()))
		if c.stream == errorStream {
			c.reason = append(c.reason, part[:min(len(part), maxReason-len(c.reason))]...)
		}
		c.left -= len(part)
		c.r.Discard(len(part)) //nolint:errcheck // buffered
	}
	return nil
}

// broke makes every error but a deadline sticky. The connection's end without
// the data stream's is a cut.
func (c *spdyConn) broke(err error) error {
	switch {
	case len(c.reason) > 0 && (c.ended || errors.Is(err, io.EOF)):
		c.end = errors.New(string(c.reason)) // "…: connection refused"
	case c.ended:
		c.end = io.EOF
	case errors.Is(err, os.ErrDeadlineExceeded):
		return err
	case errors.Is(err, io.EOF):
		c.end = io.ErrUnexpectedEOF
	default:
		c.end = err
	}
	return c.end
}

// Write sends one frame per 64 KiB: callers should coalesce.
func (c *spdyConn) Write(p []byte) (int, error) {
	c.writeMu.Lock()
	defer c.writeMu.Unlock()
	written := 0
	for written < len(p) {
		chunk := p[written:min(len(p), written+maxFrame)]
		c.buf = binary.BigEndian.AppendUint32(c.buf[:0], dataStream)
		c.buf = binary.BigEndian.AppendUint32(c.buf, uint32(len(chunk)))
		c.buf = append(c.buf, chunk...)
		n, err := c.io.Write(c.buf)
		written += min(max(n-frameHeader, 0), len(chunk))
		if err != nil {
			return written, err
		}
	}
	return written, nil
}

// Close cuts the connection. It does not wait for what was written to arrive,
// so an end that matters must be agreed on by the protocol above.
func (c *spdyConn) Close() error { return c.hard.Close() }

func (c *spdyConn) LocalAddr() net.Addr                { return c.addr }
func (c *spdyConn) RemoteAddr() net.Addr               { return c.addr }
func (c *spdyConn) SetDeadline(t time.Time) error      { return c.io.SetDeadline(t) }
func (c *spdyConn) SetReadDeadline(t time.Time) error  { return c.io.SetReadDeadline(t) }
func (c *spdyConn) SetWriteDeadline(t time.Time) error { return c.io.SetWriteDeadline(t) }

// A forwardAddr names the far end of a port-forward: pod/NAMESPACE/NAME:PORT.
type forwardAddr string

func (forwardAddr) Network() string  { return "port-forward" }
func (a forwardAddr) String() string { return string(a) }
