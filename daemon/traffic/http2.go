package traffic

import (
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// Limits of an HTTP/2 connection.
const (
	frameHead  = 9
	maxStreams = 1000    // that are open
	maxTable   = 1 << 18 // of a header table, whatever its peer allows
)

// An h2 is a conversation in HTTP/2, with prior knowledge.
type h2 struct {
	c       *conversation
	sides   [2]h2side
	streams map[uint32]*h2stream
}

type h2stream struct {
	x        *exchange
	complete [2]bool
}

// An h2side is where one direction is.
type h2side struct {
	part    buffer // of the preface, a frame's head, or a payload that is needed whole
	preface int    // bytes that are still to come of it
	frame   http2.FrameHeader
	inFrame bool
	left    int // of its payload
	pad     int // of its payload, at its end; -1: its length comes first
	block   buffer
	open    http2.FrameHeader // whose block goes on with CONTINUATION; its StreamID 0: none
	decode  *hpack.Decoder
	fields  [][2]string
	size    int // of fields
	cut     bool
}

func newHTTP2(c *conversation) *h2 {
	h := &h2{c: c, streams: map[uint32]*h2stream{}}
	for d := range h.sides {
		s := &h.sides[d]
		s.part.w, s.block.w = c.w, c.w
		s.decode = hpack.NewDecoder(4096, func(f hpack.HeaderField) {
			if s.size += len(f.Name) + len(f.Value) + fieldCost; s.size > maxHead {
				s.cut = true
				return
			}
			s.fields = append(s.fields, [2]string{f.Name, f.Value})
		})
		s.decode.SetMaxStringLength(maxHead)
		s.decode.SetAllowedMaxDynamicTableSize(maxTable)
	}
	h.sides[client].preface = len(preface)
	return h
}

func (h *h2) data(d direction, b []byte, at time.Duration) bool {
	s := &h.sides[d]
	if n := min(s.preface, len(b)); n > 0 { // it was recognized by it
		s.preface -= n
		b = b[n:]
	}
	for len(b) > 0 {
		if !s.inFrame {
			n := min(frameHead-len(s.part.b), len(b))
			if !s.part.add(b[:n]) {
				return false
			}
			b = b[n:]
			if len(s.part.b) < frameHead {
				return true
			}
			s.begin()
			if !h.fits(s) {
				return false
			}
		}
		n := min(s.left, len(b))
		if !h.payload(d, b[:n], at) {
			return false
		}
		b = b[n:]
	}
	return true
}

// begin reads a frame's head.
func (s *h2side) begin() {
	p := s.part.b
	s.frame = http2.FrameHeader{
		Length: uint32(p[0])<<16 | uint32(p[1])<<8 | uint32(p[2]), Type: http2.FrameType(p[3]), Flags: http2.Flags(p[4]),
		StreamID: binary.BigEndian.Uint32(p[5:]) & (1<<31 - 1),
	}
	s.part.clear()
	s.inFrame, s.left, s.pad = true, int(s.frame.Length), 0
	if s.frame.Type == http2.FrameData && s.frame.Flags.Has(http2.FlagDataPadded) {
		s.pad = -1
	}
}

// fits tells whether a frame may come where it does.
func (h *h2) fits(s *h2side) bool {
	if s.open.StreamID != 0 {
		return s.frame.Type == http2.FrameContinuation && s.frame.StreamID == s.open.StreamID
	}
	return s.frame.Type != http2.FrameContinuation
}

// payload takes a part of a frame's payload, the last with what is left.
func (h *h2) payload(d direction, b []byte, at time.Duration) bool {
	s := &h.sides[d]
	s.left -= len(b)
	switch s.frame.Type {
	case http2.FrameData:
		if !h.body(d, b) {
			return false
		}
	case http2.FrameHeaders, http2.FramePushPromise, http2.FrameContinuation:
		if !s.part.add(b) {
			return false
		}
	case http2.FrameRSTStream:
		if s.frame.Length != 4 || !s.part.add(b) {
			return false
		}
	}
	if s.left > 0 {
		return true
	}
	s.inFrame = false
	whole := append([]byte(nil), s.part.b...)
	s.part.clear()
	switch s.frame.Type {
	case http2.FrameData:
		if s.frame.Flags.Has(http2.FlagDataEndStream) {
			h.complete(d, s.frame.StreamID, at)
		}
	case http2.FrameHeaders, http2.FramePushPromise, http2.FrameContinuation:
		return h.fragment(d, whole, at)
	case http2.FrameRSTStream:
		if len(whole) == 4 {
			h.reset(s.frame.StreamID, http2.ErrCode(binary.BigEndian.Uint32(whole)), at)
		}
	}
	return true
}

// body takes a part of a DATA frame, of which s.left bytes follow.
func (h *h2) body(d direction, b []byte) bool {
	s := &h.sides[d]
	if s.pad < 0 && len(b) > 0 {
		s.pad = int(b[0])
		b = b[1:]
		if s.pad > s.left+len(b) {
			return false
		}
	}
	if padding := s.pad - s.left; padding > 0 {
		b = b[:max(len(b)-padding, 0)]
	}
	if st := h.streams[s.frame.StreamID]; st != nil && len(b) > 0 {
		st.x.add(st.x.messageOf(d), b)
	}
	return true
}

func (x *exchange) messageOf(d direction) *message {
	if d == client {
		return &x.request
	}
	return &x.response
}

// fragment takes a part of a header block.
func (h *h2) fragment(d direction, b []byte, at time.Duration) bool {
	s := &h.sides[d]
	if s.frame.Type != http2.FrameContinuation {
		s.open = s.frame
		cut, pad := 0, 0
		if s.frame.Flags.Has(http2.FlagHeadersPadded) { // PUSH_PROMISE has the same
			if len(b) == 0 {
				return false
			}
			cut, pad = 1, int(b[0])
		}
		if s.frame.Type == http2.FrameHeaders && s.frame.Flags.Has(http2.FlagHeadersPriority) {
			cut += 5
		}
		if s.frame.Type == http2.FramePushPromise {
			cut += 4
		}
		if len(b) < cut+pad {
			return false
		}
		b = b[cut : len(b)-pad]
	}
	if !s.block.add(b) {
		return false
	}
	if !s.frame.Flags.Has(http2.FlagHeadersEndHeaders) { // CONTINUATION and PUSH_PROMISE have the same
		return true
	}
	s.fields, s.size, s.cut = nil, 0, false
	_, err := s.decode.Write(s.block.b)
	if err == nil {
		err = s.decode.Close()
	}
	s.block.clear()
	opened := s.open
	s.open = http2.FrameHeader{}
	if err != nil {
		return false
	}
	if opened.Type == http2.FrameHeaders {
		h.headers(d, opened.StreamID, s, at)
		if opened.Flags.Has(http2.FlagHeadersEndStream) {
			h.complete(d, opened.StreamID, at)
		}
	}
	s.fields = nil
	return true
}

// headers takes a message's head, or its trailers.
func (h *h2) headers(d direction, id uint32, s *h2side, at time.Duration) {
	pseudo := map[string]string{}
	fields := s.fields[:0:0]
	for _, f := range s.fields {
		if strings.HasPrefix(f[0], ":") {
			pseudo[f[0]] = f[1]
		} else {
			fields = append(fields, f)
		}
	}
	st := h.streams[id]
	switch {
	case d == client && st == nil:
		if pseudo[":method"] == "" {
			return
		}
		if len(h.streams) >= maxStreams {
			h.c.w.miss()
			return
		}
		host := pseudo[":authority"]
		if host == "" {
			host = field(fields, "host")
		}
		x := h.c.ask(at, pseudo[":method"], pseudo[":path"], host, "HTTP/2", fields)
		x.stream = id
		x.request.truncated = x.request.truncated || s.cut
		h.streams[id] = &h2stream{x: x}
	case st == nil:
	case d == server && st.x.status == 0:
		status, _ := strconv.Atoi(pseudo[":status"])
		if status < 200 {
			return // the answer is still to come
		}
		st.x.status = status
		st.x.head(&st.x.response, fields)
		st.x.response.truncated = st.x.response.truncated || s.cut
	default:
		st.x.trail(st.x.messageOf(d), fields)
	}
}

// complete is the end of a message.
func (h *h2) complete(d direction, id uint32, at time.Duration) {
	st := h.streams[id]
	if st == nil {
		return
	}
	st.complete[d] = true
	if d == server {
		st.x.finish(at, "")
	}
	if st.complete[client] && st.complete[server] {
		delete(h.streams, id)
	}
}

func (h *h2) reset(id uint32, code http2.ErrCode, at time.Duration) {
	if st := h.streams[id]; st != nil {
		st.x.finish(at, "its stream was reset: "+code.String())
		delete(h.streams, id)
	}
}

func (h *h2) skip(d direction, n int) bool {
	s := &h.sides[d]
	if !s.inFrame || s.frame.Type != http2.FrameData || s.pad < 0 || n > s.left-s.pad-1 {
		return false
	}
	s.left -= n
	if st := h.streams[s.frame.StreamID]; st != nil {
		st.x.pass(st.x.messageOf(d), n)
	}
	return true
}

func (h *h2) end(direction, time.Duration) {}

func (h *h2) abandon(at time.Duration, why string) {
	for id, st := range h.streams {
		st.x.finish(at, why)
		delete(h.streams, id)
	}
	for d := range h.sides {
		h.sides[d].part.clear()
		h.sides[d].block.clear()
	}
}
