package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Limits of one frame, checked before anything is allocated.
const (
	FrameHead  = 8        // bytes before a frame's header
	MaxHeader  = 32 << 10 // bytes of JSON
	MaxPayload = 1 << 20  // raw bytes
)

// Errors of ReadFrame; both mean that the stream is of no more use.
var (
	ErrFrameSize  = errors.New("frame exceeds its limit")
	ErrFrameFlags = errors.New("frame has unknown flags")
)

// A Frame is the unit of a request and of its response:
//
//	kind 1 | flags 1 | header length 2 | payload length 4 | header (JSON) | payload (raw)
//
// Numbers are big endian. No flag is defined yet.
type Frame struct {
	Kind    Kind
	Header  []byte
	Payload []byte
}

// AppendFrame appends f's bytes to b. It panics where f exceeds a limit: only
// a caller's bug makes such a frame.
func AppendFrame(b []byte, f Frame) []byte {
	return append(AppendHead(b, f.Kind, f.Header, len(f.Payload)), f.Payload...)
}

// AppendHead appends what comes before a frame's payload of so many bytes.
func AppendHead(b []byte, k Kind, header []byte, payload int) []byte {
	if len(header) > MaxHeader || payload > MaxPayload {
		panic(fmt.Sprintf("protocol: frame of %d and %d bytes", len(header), payload))
	}
	b = append(b, byte(k), 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(header)))
	b = binary.BigEndian.AppendUint32(b, uint32(payload))
	return append(b, header...)
}

// ReadFrame reads one frame. io.EOF: the stream ended between frames.
func ReadFrame(r io.Reader) (Frame, error) { return readFrame(r, 0, nil) }

// ReadFrameTo reads one frame. The payload of one of kind k is put into p; more
// than fits is ErrFrameSize.
func ReadFrameTo(p []byte, r io.Reader, k Kind) (Frame, error) { return readFrame(r, k, p[:0:len(p)]) }

// readFrame reads the payload of a frame of kind k into to, unless that is nil.
func readFrame(r io.Reader, k Kind, to []byte) (Frame, error) {
	kind, header, payload, err := readSizes(r)
	if err != nil {
		return Frame{}, err
	}
	f := Frame{Kind: kind}
	if to == nil || f.Kind != k {
		body := make([]byte, header+payload)
		f.Header, f.Payload = body[:header:header], body[header:]
	} else if payload > cap(to) {
		return Frame{}, ErrFrameSize
	} else {
		f.Header, f.Payload = make([]byte, header), to[:payload]
	}
	for _, b := range [][]byte{f.Header, f.Payload} {
		if err := readInside(r, b); err != nil {
			return Frame{}, err
		}
	}
	return f, nil
}

// ReadHead reads a frame up to its payload, which is of so many bytes.
func ReadHead(r io.Reader) (k Kind, header []byte, payload int, err error) {
	k, size, payload, err := readSizes(r)
	if err == nil {
		header = make([]byte, size)
		err = readInside(r, header)
	}
	return k, header, payload, err
}

func readSizes(r io.Reader) (k Kind, header, payload int, err error) {
	var head [FrameHead]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, 0, 0, err
	}
	if head[1] != 0 {
		return 0, 0, 0, ErrFrameFlags
	}
	header = int(binary.BigEndian.Uint16(head[2:]))
	size := binary.BigEndian.Uint32(head[4:])
	if header > MaxHeader || size > MaxPayload {
		return 0, 0, 0, ErrFrameSize
	}
	return Kind(head[0]), header, int(size), nil
}

// readInside fills b from inside a frame.
func readInside(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return err
}
