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
//	"mrl1" | client id 16 | role 1 | resume 1 | received 8
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
	openingSize = len(magic) + 16 + 1 + 1 + 8
	answerSize  = 1 + 8
	frameHead   = 5
	maxBody     = 60 << 10 // with its head it stays below one 64 KiB frame of a port-forward
)

const (
	frameData = 0 // body: bytes of the stream
	frameAck  = 1 // body: received 8; also the keep-alive
	frameFin  = 2 // no body: the sender has closed the stream
)

// roleControl is the only role yet; a second connection of a client, for bulk
// data, will have another.
const roleControl = 0

const (
	statusOK      = 0
	statusUnknown = 1 // resume was asked for, but the agent does not know the client
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

type opening struct {
	id       ID
	resume   bool
	received uint64
}

func (o opening) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, o.id[:]...)
	resume := byte(0)
	if o.resume {
		resume = 1
	}
	b = append(b, roleControl, resume)
	return binary.BigEndian.AppendUint64(b, o.received)
}

func readOpening(r io.Reader) (o opening, err error) {
	var b [openingSize]byte
	if _, err := io.ReadFull(r, b[:]); err != nil {
		return o, fmt.Errorf("reading opening: %w", err)
	}
	rest := b[len(magic):]
	if string(b[:len(magic)]) != magic || rest[16] != roleControl || rest[17] > 1 {
		return o, fmt.Errorf("reading opening: %w", errFrame)
	}
	return opening{ID(rest[:16]), rest[17] == 1, binary.BigEndian.Uint64(rest[18:])}, nil
}

// open runs the client's part of the opening and returns what the agent has received.
func open(nc net.Conn, o opening) (uint64, error) {
	nc.SetDeadline(time.Now().Add(openTimeout))
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
