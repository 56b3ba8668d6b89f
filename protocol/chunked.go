package protocol

import (
	"encoding/binary"
	"io"
	"net"
	"sync"
)

// A Chunked is a stream after its answer as a connection of which each side ends
// its own direction. Closing it before is a reset.
type Chunked struct {
	net.Conn     // the stream
	left     int // of the chunk that is being read
	head     [ChunkHead]byte
	have     int // of head
	ended    bool
	finish   func() error
}

// NewChunked makes a connection of a stream.
func NewChunked(stream net.Conn) *Chunked {
	c := &Chunked{Conn: stream}
	c.finish = sync.OnceValue(func() error {
		_, err := stream.Write(make([]byte, ChunkHead))
		return err
	})
	return c
}

// Read reads bytes of the connection; io.EOF is its orderly end, ErrReset any other.
func (c *Chunked) Read(b []byte) (int, error) {
	for c.left == 0 && !c.ended {
		n, err := c.Conn.Read(c.head[c.have:])
		if c.have += n; err != nil && c.have < ChunkHead {
			return 0, broken(err)
		}
		if c.have == ChunkHead {
			c.have, c.left = 0, chunkLength(c.head[:])
			c.ended = c.left == 0
		}
	}
	if c.ended {
		return 0, io.EOF
	}
	n, err := c.Conn.Read(b[:min(len(b), c.left)])
	c.left -= n
	if n > 0 {
		return n, nil
	}
	return 0, broken(err)
}

func broken(err error) error {
	if err == io.EOF {
		return ErrReset
	}
	return err
}

// pieces are what a Chunked writes of at a time: a chunk with its head.
var pieces = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (c *Chunked) Write(b []byte) (total int, err error) {
	p := pieces.Get().(*[32 << 10]byte)
	defer pieces.Put(p)
	for len(b) > 0 {
		n := copy(p[ChunkHead:], b)
		binary.BigEndian.PutUint32(p[:], uint32(n))
		if _, err := c.Conn.Write(p[:ChunkHead+n]); err != nil {
			return total, err
		}
		total += n
		b = b[n:]
	}
	return total, nil
}

// CloseWrite ends our direction.
func (c *Chunked) CloseWrite() error { return c.finish() }

func (c *Chunked) Close() error {
	err := c.Conn.Close()
	_ = c.Conn.SetDeadline(past) // Close alone does not wake a yamux reader
	return err
}
