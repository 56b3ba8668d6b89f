package httpfilter

import (
	"bufio"
	"errors"
	"io"
	"slices"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// read takes a side's frames to its connection's end.
func (s *side) read(in io.Reader) error { return s.readWith(in, tableSize) }

func (s *side) readWith(in io.Reader, table uint32) error {
	f := http2.NewFramer(nil, bufio.NewReaderSize(in, initialFrame))
	f.SetReuseFrames()
	f.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	f.ReadMetaHeaders.SetAllowedMaxDynamicTableSize(table)
	f.MaxHeaderListSize = maxHead
	f.SetMaxReadFrameSize(initialFrame) // nobody was told of more
	for first := true; ; first = false {
		frame, err := f.ReadFrame()
		if bad, ok := errors.AsType[http2.StreamError](err); ok {
			s.c.mu.Lock()
			err = s.refuse(bad)
			s.c.mu.Unlock()
			if err == nil {
				continue
			}
		}
		if err == http2.ErrFrameTooLarge {
			err = http2.ConnectionError(http2.ErrCodeFrameSize)
		}
		if err != nil {
			return err
		}
		if _, ok := frame.(*http2.SettingsFrame); first && !ok {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		if err := s.take(frame); err != nil {
			return err
		}
	}
}

// refuse resets a stream of which there was a malformed frame. By such a client has
// a stream reset as well as if it did so itself. c.mu is held.
func (s *side) refuse(bad http2.StreamError) error {
	c := s.c
	s.reset(bad.StreamID, bad.Code)
	if s == c.client {
		c.last = max(c.last, bad.StreamID)
	}
	st := s.stream(bad.StreamID)
	switch {
	case st == nil:
	case s == c.client:
		st.cancel(http2.ErrCodeCancel)
		c.remove(st)
	default:
		c.client.reset(st.id, bad.Code)
		c.remove(st)
	}
	if err := s.flooded(); err != nil || s != c.client {
		return err
	}
	return c.calm()
}

// stream finds a stream by a side's number. c.mu is held.
func (s *side) stream(id uint32) *stream {
	if s == s.c.client {
		return s.c.streams[id]
	}
	return s.byID[id]
}

// idle tells whether no stream of that number was begun. c.mu is held.
func (s *side) idle(id uint32) bool {
	if s == s.c.client {
		return id > s.c.last
	}
	return id >= s.nextID
}

// halves are what a side sends of a stream, and what is sent to it.
func (s *side) halves(st *stream) (half, other *half) {
	if s == s.c.client {
		return &st.request, &st.answer
	}
	return &st.answer, &st.request
}

// take takes one frame.
func (s *side) take(frame http2.Frame) error {
	c := s.c
	if h, ok := frame.(*http2.MetaHeadersFrame); ok {
		bad := http2.StreamError{StreamID: h.StreamID}
		switch {
		case h.Truncated: // of the rest nobody knows what it says
			bad.Code = http2.ErrCodeEnhanceYourCalm
		case h.HasPriority() && h.Priority.StreamDep == h.StreamID:
			bad.Code = http2.ErrCodeProtocol
		}
		if bad.Code != 0 {
			c.mu.Lock()
			defer c.mu.Unlock()
			return s.refuse(bad)
		}
		fields := slices.Clone(h.Fields)
		if s == c.client && !s.known(h.StreamID) {
			return c.begin(h.StreamID, fields, h.StreamEnded())
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		return s.says(h.StreamID, item{fields: fields, end: h.StreamEnded()})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch f := frame.(type) {
	case *http2.DataFrame:
		return s.data(f)
	case *http2.SettingsFrame:
		return s.settings(f)
	case *http2.PingFrame:
		if !f.IsAck() {
			_ = s.framer.WritePing(true, f.Data)
			s.wake()
		}
		return s.flooded()
	case *http2.PriorityFrame:
		if f.StreamDep == f.StreamID {
			return s.refuse(http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeProtocol})
		}
	case *http2.WindowUpdateFrame:
		return s.widen(f.StreamID, int64(f.Increment))
	case *http2.RSTStreamFrame:
		if s == c.client {
			return c.resetByClient(f.StreamID, f.ErrCode)
		}
		if st := s.byID[f.StreamID]; st != nil {
			st.answered = true
			st.answer.put(item{reset: true, code: f.ErrCode})
			c.client.wake()
		}
	case *http2.GoAwayFrame:
		if s != c.client {
			s.drain(f.LastStreamID)
		}
	case *http2.PushPromiseFrame:
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	return nil
}

func (s *side) known(id uint32) bool {
	s.c.mu.Lock()
	defer s.c.mu.Unlock()
	return s.c.streams[id] != nil
}

// says adds to what a side has said on a stream. c.mu is held.
func (s *side) says(id uint32, i item) error {
	c := s.c
	st := s.stream(id)
	if st == nil {
		if s.idle(id) {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		s.give(int64(len(i.data))) // it is over
		if s != c.client {         // who may not have heard of it
			return nil
		}
		s.reset(id, http2.ErrCodeStreamClosed)
		return s.flooded()
	}
	h, _ := s.halves(st)
	if h.ended {
		s.give(int64(len(i.data)))
		if s == c.client && st.up != nil { // else by a failure of ours
			return s.refuse(http2.StreamError{StreamID: id, Code: http2.ErrCodeStreamClosed})
		}
		return nil
	}
	c.keep(h, s, int64(len(i.data)))
	h.put(i)
	switch {
	case s != c.client:
		st.answered = true
		c.client.wake()
	case st.judged != nil:
		c.judge(st)
	case st.up != nil:
		st.up.wake()
	}
	return nil
}

func (s *side) data(f *http2.DataFrame) error {
	n, size := int64(len(f.Data())), int64(f.Length)
	if s.room -= size; s.room < 0 {
		return http2.ConnectionError(http2.ErrCodeFlowControl)
	}
	padding := size - n
	s.give(padding)
	if st := s.stream(f.StreamID); st != nil {
		h, _ := s.halves(st)
		if h.room -= n; h.room < 0 {
			s.give(n)
			return s.refuse(http2.StreamError{StreamID: f.StreamID, Code: http2.ErrCodeFlowControl})
		}
		if padding > 0 { // which counts for the stream, too
			_ = s.framer.WriteWindowUpdate(f.StreamID, uint32(padding))
			s.wake()
		}
	}
	if n == 0 && !f.StreamEnded() {
		return nil
	}
	return s.says(f.StreamID, item{data: slices.Clone(f.Data()), end: f.StreamEnded()})
}

func (s *side) settings(f *http2.SettingsFrame) error {
	if f.IsAck() {
		if c := s.c; s == c.client && c.unheard > 0 {
			if c.unheard--; c.unheard == 0 {
				c.most = c.told
			}
		}
		return nil
	}
	err := f.ForeachSetting(func(v http2.Setting) error {
		if err := v.Valid(); err != nil {
			return err
		}
		s.setting(v)
		return nil
	})
	if err != nil {
		return err
	}
	_ = s.framer.WriteSettingsAck()
	s.wake()
	return s.flooded()
}

// setting takes one that a side has made. c.mu is held.
func (s *side) setting(v http2.Setting) {
	switch v.ID {
	case http2.SettingHeaderTableSize:
		s.encoder.SetMaxDynamicTableSize(min(v.Val, tableSize))
	case http2.SettingMaxFrameSize:
		s.maxFrame = int(min(v.Val, outgoing))
	case http2.SettingMaxConcurrentStreams:
		s.limit = v.Val
	case http2.SettingInitialWindowSize:
		wider := int64(v.Val) - s.initial
		s.initial = int64(v.Val)
		for _, st := range s.c.streams {
			if _, other := s.halves(st); s == s.c.client || st.up == s && st.upID != 0 {
				other.window += wider
			}
		}
	}
}

// widen gives more room for what is sent to a side. c.mu is held.
func (s *side) widen(id uint32, n int64) error {
	const most = 1<<31 - 1
	if s == s.c.client && s.c.exits.Deaf() {
		return nil
	}
	if id == 0 {
		if s.window += n; s.window > most {
			return http2.ConnectionError(http2.ErrCodeFlowControl)
		}
	} else if st := s.stream(id); st != nil {
		_, other := s.halves(st)
		if other.window += n; other.window > most {
			return s.refuse(http2.StreamError{StreamID: id, Code: http2.ErrCodeFlowControl})
		}
	} else if s.idle(id) {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	s.wake()
	return nil
}

// drain lets an upstream that is about to end finish what it has; what it will
// not look at the client may ask for again.
func (s *side) drain(last uint32) {
	s.leave()
	for _, st := range s.all() {
		switch {
		case st.upID == 0:
			delete(s.streams, st)
			s.c.assign(st, s.holder)
		case st.upID > last:
			s.c.client.reset(st.id, http2.ErrCodeRefusedStream)
			s.c.remove(st)
		}
	}
}
