package link

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"time"
)

// The opening of a connection, client to agent
//
//	"mrl1" | client id 16 | channel 1 | attempt 4 | received 8
//
// and the agent's answer
//
//	status 1 | received 8
//
// where received counts the bytes of the stream that the side has got so far;
// the other side sends from there on. Then frames follow both ways:
//
//	type 1 | length 4 | body
const (
	magic       = "mrl1"
	openingSize = len(magic) + 16 + 1 + 4 + 8
	answerSize  = 1 + 8
	frameHead   = 5
	maxBody     = 240 << 10 // a full chunk of a relay, with the heads of chunk and stream
)

const (
	frameData = 0 // body: bytes of the stream
	frameAck  = 1 // body: received 8; also the keep-alive
	frameFin  = 2 // no body: the sender has closed the stream
)

// A Channel is one of a client's links.
type Channel uint8

const (
	Control  Channel = 0 // small operations; its end is the client's
	Bulk     Channel = 1 // whatever moves many bytes
	channels         = 2
)

func (c Channel) String() string {
	if c == Bulk {
		return "bulk"
	}
	return "control"
}

const (
	statusOK      = 0
	statusUnknown = 1 // the agent does not know the client, and this is not its first connection
)

// ErrGone: the agent does not know this client any more; what was in flight is lost.
var ErrGone = errors.New("the agent does not know this client any more")

var errFrame = errors.New("malformed frame")

// An ID names a client over all its connections.
type ID [16]byte

// NewID returns a random one.
func NewID() (id ID) {
	rand.Read(id[:])
	return id
}

func (id ID) String() string { return hex.EncodeToString(id[:4]) }

// An opening is a link's attempt to get a connection. Attempts are counted, so
// that one which was given up and arrives late is not taken for the latest.
type opening struct {
	id       ID
	channel  Channel
	attempt  uint32
	received uint64
}

func (o opening) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, o.id[:]...)
	b = append(b, byte(o.channel))
	b = binary.BigEndian.AppendUint32(b, o.attempt)
	return binary.BigEndian.AppendUint64(b, o.received)
}

func readOpening(r io.Reader) (o opening, err error) {
	var b [openingSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return o, fmt.Errorf("reading opening: %w", err)
	}
	rest := b[len(magic):]
	if string(b[:len(magic)]) != magic || rest[16] >= channels {
		return o, fmt.Errorf("reading opening: %w", errFrame)
	}
	return opening{
		ID(rest[:16]), Channel(rest[16]),
		binary.BigEndian.Uint32(rest[17:]), binary.BigEndian.Uint64(rest[21:]),
	}, nil
}

// open runs the client's part of the opening and returns what the agent has received.
func open(nc net.Conn, o opening) (uint64, error) {
	nc.SetDeadline(time.Now().Add(silence))
	defer nc.SetDeadline(time.Time{})
	if _, err := nc.Write(o.append(nil)); err != nil {
		return 0, fmt.Errorf("opening link: %w", err)
	}
	var b [answerSize]byte
	if _, err := io.ReadFull(nc, b[:]); err != nil {
		return 0, fmt.Errorf("opening link: %w", err)
	}
	switch b[0] {
	case statusOK:
		return binary.BigEndian.Uint64(b[1:]), nil
	case statusUnknown:
		return 0, ErrGone
	}
	return 0, fmt.Errorf("opening link: %w", errFrame)
}

func appendAnswer(b []byte, status byte, received uint64) []byte {
	return binary.BigEndian.AppendUint64(append(b, status), received)
}

func appendFrame(b []byte, typ byte, n int) []byte {
	return binary.BigEndian.AppendUint32(append(b, typ), uint32(n))
}
