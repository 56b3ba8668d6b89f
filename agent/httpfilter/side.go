package httpfilter

import (
	"bytes"
	"errors"
	"slices"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

const (
	initialWindow = 1<<16 - 1 // before settings say otherwise
	initialFrame  = 16 << 10
	outgoing      = 64 << 10 // bytes that are made ready at a time
)

// A side is one of a conn2's connections: the client's, the pod's, a holder's.
// All but conn, which is set before anything else runs, is guarded by conn2.mu.
type side struct {
	c      *conn2
	conn   Conn
	holder Holder
	wrote  chan struct{} // closed when nothing more is written

	out     *bytes.Buffer // ready to be written
	spare   *bytes.Buffer
	framer  *http2.Framer // writes to out
	fields  bytes.Buffer
	encoder *hpack.Encoder // writes to fields
	awake   chan struct{}  // holds one where there may be something to write
	last    bool           // after what is ready nothing more is written

	initial  int64 // window of new streams to it
	window   int64 // of all streams to it
	maxFrame int
	limit    uint32 // of streams to it
	nextID   uint32
	room     int64              // that it has left to send
	grant    int64              // that it has if nothing is owed
	credit   int64              // to be given back
	streams  map[*stream]bool   // upstreams only
	byID     map[uint32]*stream // upstreams only, those that it knows
	closed   bool
}

func newSide(c *conn2, holder Holder) *side {
	s := &side{
		c: c, holder: holder, wrote: make(chan struct{}), out: new(bytes.Buffer), spare: new(bytes.Buffer), awake: make(chan struct{}, 1),
		initial: initialWindow, window: initialWindow, maxFrame: initialFrame, limit: maxStreams,
		nextID: 1, room: connWindow, grant: connWindow, streams: map[*stream]bool{}, byID: map[uint32]*stream{},
	}
	s.encoder = hpack.NewEncoder(&s.fields)
	s.encoder.SetMaxDynamicTableSizeLimit(tableSize)
	s.framer = http2.NewFramer(writerFunc(func(b []byte) (int, error) { return s.out.Write(b) }), nil)
	return s
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(b []byte) (int, error) { return f(b) }

// run opens an upstream's connection and reads it to its end.
func (s *side) run() {
	c := s.c
	c.mu.Lock()
	s.greet()
	if s.holder != nil {
		s.lend()
	}
	first := bytes.Clone(s.out.Bytes())
	c.mu.Unlock()
	conn, err := s.dial(first)
	c.mu.Lock()
	if err != nil || c.dead {
		if err == nil {
			reset(conn)
		}
		s.recall(errors.Is(err, ErrUnsure) && !c.exits.Deaf())
		alone := s.alone()
		s.gone(err)
		c.mu.Unlock()
		if err != nil && alone {
			c.kill() // as a pod that nobody listens in
		}
		return
	}
	s.conn = conn
	for st := range s.streams {
		st.lent = nil
	}
	c.wg.Go(s.write)
	c.mu.Unlock()
	err = s.read(conn)
	c.mu.Lock()
	defer c.mu.Unlock()
	s.gone(err)
}

// alone tells whether a side is the pod's and all of the client's streams are, too. c.mu
// is held.
func (s *side) alone() bool {
	for _, st := range s.c.streams {
		if st.up != s {
			return false
		}
	}
	return s.holder == nil
}

// greet begins what is said to an upstream. c.mu is held.
func (s *side) greet() {
	s.out.WriteString(http2.ClientPreface)
	_ = s.framer.WriteSettings(append(ourSettings(streamWindow), http2.Setting{ID: http2.SettingEnablePush, Val: 0})...)
	_ = s.framer.WriteWindowUpdate(0, connWindow-initialWindow)
	s.wake()
}

// lend makes requests ready that go along with the asking for a connection. c.mu is held.
func (s *side) lend() {
	for _, st := range s.all() {
		for len(st.request.items) > 0 {
			i := st.request.items[0]
			size := len(i.data)
			for _, f := range i.fields {
				size += int(f.Size())
			}
			if s.out.Len()+size > alongMost || !s.frame(st) {
				break
			}
			st.lent = append(st.lent, i)
		}
	}
}

// recall takes back what went along to who does not take it; where that is unsure, only
// what may be done twice. c.mu is held.
func (s *side) recall(unsure bool) {
	for id, st := range s.byID {
		if unsure && !st.again {
			continue
		}
		delete(s.byID, id)
		h := &st.request
		for _, i := range st.lent {
			n := int64(len(i.data))
			h.credit -= n // the client has it already
			s.c.kept += n
			keptByAll.Add(n)
		}
		h.items = append(st.lent, h.items...)
		h.window, h.sent = 0, false
		s.c.heads += st.size
		st.lent, st.upID = nil, 0
	}
}

func (s *side) dial(first []byte) (Conn, error) {
	if s.holder == nil {
		return s.c.exits.Pod()
	}
	return s.holder.Take(first)
}

// gone ends what an upstream had. c.mu is held.
func (s *side) gone(err error) {
	s.leave()
	delete(s.c.open, s)
	s.close()
	if s.c.dead {
		return
	}
	for _, st := range s.all() {
		s.c.fail(st, err)
	}
}

// leave has no more streams go to an upstream. c.mu is held.
func (s *side) leave() {
	if s.c.sides[s.holder] == s {
		delete(s.c.sides, s.holder)
	}
}

// close closes the connection. c.mu is held.
func (s *side) close() {
	if s.closed {
		return
	}
	s.closed = true
	if s.conn != nil {
		_ = s.conn.Close()
	}
	s.wake()
}

func (s *side) wake() {
	select {
	case s.awake <- struct{}{}:
	default:
	}
}

// add has a stream go to an upstream. c.mu is held.
func (s *side) add(st *stream) {
	s.streams[st] = true
	s.wake()
}

// reset resets a stream at a side. c.mu is held.
func (s *side) reset(id uint32, code http2.ErrCode) {
	_ = s.framer.WriteRSTStream(id, code)
	s.wake()
}

// give gives a side back what it may send on all its streams. c.mu is held.
func (s *side) give(n int64) {
	s.room += n
	s.credit += n
	if s.credit >= s.grant/4 {
		_ = s.framer.WriteWindowUpdate(0, uint32(s.credit))
		s.credit = 0
		s.wake()
	}
}

// write writes what is ready until the side is closed.
func (s *side) write() {
	defer close(s.wrote)
	for range s.awake {
		for {
			s.c.mu.Lock()
			if s.closed {
				s.c.mu.Unlock()
				return
			}
			s.fill()
			b, last := s.out, s.last
			s.out, s.spare = s.spare, s.out
			s.c.mu.Unlock()
			if b.Len() > 0 {
				if _, err := s.conn.Write(b.Bytes()); err != nil {
					_ = s.conn.Close() // its reader tells of it
					return
				}
			}
			more := b.Len() >= outgoing
			b.Reset()
			if last {
				return
			}
			if !more {
				break
			}
		}
	}
}

// fill makes ready what can be sent now: a frame of each stream in turn. c.mu is held.
func (s *side) fill() {
	list := s.c.ready(s)
	for sent := true; sent && s.out.Len() < outgoing; {
		sent = false
		for _, st := range list {
			sent = s.frame(st) || sent
		}
	}
}

// ready are the streams that have something for a side.
func (c *conn2) ready(to *side) (list []*stream) {
	if to != c.client {
		for st := range to.streams {
			if len(st.request.items) > 0 {
				list = append(list, st)
			}
		}
		slices.SortFunc(list, older)
		return list
	}
	for _, st := range c.streams {
		if len(st.answer.items) > 0 {
			list = append(list, st)
		}
	}
	return list
}

// frame makes the next frames of a stream ready, and tells whether there were any.
func (s *side) frame(st *stream) bool {
	h, id, from := &st.request, st.upID, s.c.client
	if s == s.c.client {
		h, id, from = &st.answer, st.id, st.up
	}
	if len(h.items) == 0 {
		return false
	}
	i := &h.items[0]
	switch {
	case i.reset:
		s.reset(id, i.code)
		s.c.remove(st)
		return true
	case i.fields != nil:
		if id == 0 {
			if uint32(len(s.byID)) >= s.limit || s.nextID > 1<<31-3 {
				return false
			}
			id = s.nextID
			s.nextID += 2
			st.upID, s.byID[id] = id, st
			s.c.heads -= st.size
			h.window += s.initial
		}
		s.headers(id, i)
	default:
		n := min(int64(len(i.data)), h.window, s.window, int64(s.maxFrame))
		if n <= 0 && len(i.data) > 0 {
			return false
		}
		rest := i.data[n:]
		_ = s.framer.WriteData(id, i.end && len(rest) == 0, i.data[:n])
		h.window -= n
		s.window -= n
		if from != nil {
			s.c.passed(h, from, n, st)
		}
		if i.data = rest; len(rest) > 0 {
			return true
		}
	}
	end := i.end
	h.items = h.items[1:]
	if end {
		h.sent = true
		s.c.settle(st)
	}
	return true
}

// passed gives a sender back what was passed on of a stream, and as much in addition
// until its window is whole.
func (c *conn2) passed(h *half, from *side, n int64, st *stream) {
	c.release(h, from, n)
	if h.credit += n; h.credit < h.grant/4 || h.ended {
		return
	}
	id := st.id
	if from != c.client {
		id = st.upID
	}
	more := min(h.credit, streamWindow-h.grant)
	_ = from.framer.WriteWindowUpdate(id, uint32(h.credit+more))
	h.room += h.credit + more
	h.grant += more
	h.credit = 0
	from.wake()
}

// headers makes fields ready as one block. c.mu is held.
func (s *side) headers(id uint32, i *item) {
	s.fields.Reset()
	for _, f := range i.fields {
		_ = s.encoder.WriteField(f)
	}
	b := s.fields.Bytes()
	first := b[:min(len(b), s.maxFrame)]
	b = b[len(first):]
	_ = s.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: first, EndStream: i.end, EndHeaders: len(b) == 0})
	for len(b) > 0 {
		next := b[:min(len(b), s.maxFrame)]
		b = b[len(next):]
		_ = s.framer.WriteContinuation(id, len(b) == 0, next)
	}
}

// flooded tells whether a side makes us say more than it reads. c.mu is held.
func (s *side) flooded() error {
	if s.out.Len() > maxControl+outgoing {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}
