package incoming

import (
	"bytes"
	"encoding/binary"
	"strings"

	"golang.org/x/net/http2/hpack"
)

// A sight is what the first bytes of a connection tell of its client.
type sight int

const (
	unsure sight = iota // more bytes may tell
	waits               // it speaks HTTP/2 and may wait for its server's settings
	other               // not kubelet
	prober              // kubelet
)

const (
	probeAgent  = "kube-probe/"
	healthCheck = "/grpc.health.v1.Health/Check"
	preface     = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
)

// look judges a connection by the bytes b that came first.
//
// Kubelet's probes are GET requests with a user agent of its own, unless the
// probe's specification sets another one; calls of gRPC's health service; and
// connections that end without a byte. Those in TLS cannot be told apart.
func look(b []byte) sight {
	switch {
	case begins(b, preface):
		return lookHTTP2(b[len(preface):])
	case begins(b, "GET "):
		return lookHTTP1(b)
	case strings.HasPrefix(preface, string(b)) || strings.HasPrefix("GET ", string(b)):
		return unsure
	}
	return other
}

func begins(b []byte, with string) bool { return bytes.HasPrefix(b, []byte(with)) }

// lookHTTP1 finds the user agent of a request.
func lookHTTP1(b []byte) sight {
	_, b, _ = bytes.Cut(b, []byte("\n"))
	for {
		line, rest, whole := bytes.Cut(b, []byte("\n"))
		if !whole {
			return unsure
		}
		line = bytes.TrimSuffix(line, []byte("\r"))
		if len(line) == 0 {
			return other
		}
		if name, value, _ := bytes.Cut(line, []byte(":")); strings.EqualFold(string(name), "user-agent") {
			if begins(bytes.TrimLeft(value, " \t"), probeAgent) {
				return prober
			}
			return other
		}
		b = rest
	}
}

// Of HTTP/2's frames: length 3 | type 1 | flags 1 | stream 4 (RFC 9113).
const (
	frameHead = 9

	typeHeaders      = 0x1
	typeSettings     = 0x4
	typeContinuation = 0x9

	flagAck        = 0x1 // of settings
	flagEndHeaders = 0x4
	flagPadded     = 0x8
	flagPriority   = 0x20
)

// A frame2 is a frame of HTTP/2.
type frame2 struct {
	kind, flags byte
	body        []byte
}

// nextFrame takes a frame off b; ok is false where it is not all there.
func nextFrame(b []byte) (f frame2, rest []byte, ok bool) {
	if len(b) < frameHead {
		return f, b, false
	}
	end := frameHead + int(binary.BigEndian.Uint32(b)>>8)
	if len(b) < end {
		return f, b, false
	}
	return frame2{b[3], b[4], b[frameHead:end]}, b[end:], true
}

// lookHTTP2 finds the first request in the frames after a client's preface.
func lookHTTP2(b []byte) sight {
	seen := unsure
	var block []byte // of the first request
	for {
		f, rest, ok := nextFrame(b)
		if !ok {
			return seen
		}
		b = rest
		switch {
		case f.kind == typeSettings && block == nil:
			seen = waits // whoever waits has sent his own first
		case f.kind == typeHeaders && block == nil:
			fragment, ok := f.fragment()
			if !ok {
				return other
			}
			block = append([]byte{}, fragment...)
		case f.kind == typeContinuation && block != nil:
			block = append(block, f.body...)
		case block != nil || seen == unsure:
			return other // a frame that HTTP/2 does not have there
		}
		if block != nil {
			if f.flags&flagEndHeaders != 0 {
				return lookHeaders(block)
			}
			seen = unsure
		}
	}
}

// fragment is a headers frame's part of the header block.
func (f frame2) fragment() ([]byte, bool) {
	b, pad := f.body, 0
	if f.flags&flagPadded != 0 {
		if len(b) < 1 {
			return nil, false
		}
		pad, b = int(b[0]), b[1:]
	}
	if f.flags&flagPriority != 0 {
		if len(b) < 5 {
			return nil, false
		}
		b = b[5:]
	}
	if len(b) < pad {
		return nil, false
	}
	return b[:len(b)-pad], true
}

func lookHeaders(block []byte) sight {
	seen := other
	d := hpack.NewDecoder(4096, func(h hpack.HeaderField) { // the table's first size
		if h.Name == ":path" && h.Value == healthCheck || h.Name == "user-agent" && strings.HasPrefix(h.Value, probeAgent) {
			seen = prober
		}
	})
	d.SetMaxStringLength(maxPeek)
	if _, err := d.Write(block); err != nil {
		return other
	}
	return seen
}

// withoutAck is b, which begins with a client's preface, up to and without its
// first acknowledgement of settings, and that one's end in b. ok is false
// where there is none yet.
func withoutAck(b []byte) (before []byte, end int, ok bool) {
	rest := b[len(preface):]
	for {
		at := len(b) - len(rest)
		f, after, ok := nextFrame(rest)
		if !ok {
			return nil, 0, false
		}
		rest = after
		if f.kind == typeSettings && f.flags&flagAck != 0 {
			return b[:at], len(b) - len(rest), true
		}
	}
}
