package httpfilter

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mirrord/protocol/filter"
)

// Limits of a client's connection in HTTP/2.
const (
	streamWindow  = 256 << 10 // of what a side may send, and so is kept of a stream
	connWindow    = 1 << 20   // and of all its streams
	maxStreams    = 250       // that we allow the client at one time
	maxHeads      = 1 << 20   // bytes of their fields that wait for a side
	maxControl    = 64 << 10  // bytes that answer a side's settings, pings and the like
	resetsAtOnce  = 1000      // of streams by the client
	resetsPerTime = 100       // more of them each second
	tableSize     = 4 << 10   // of HPACK, each way
	lastWords     = time.Second
	boundless     = 1 << 50 // window of who hears nothing
)

// A conn2 is a client's connection in HTTP/2. Each stream of it goes to the pod
// or a holder as a stream of another connection, with a number of its own: frames
// are taken apart and made again, their fields in the order they came.
//
// Goroutines: the caller's reads the client's frames; a second one writes to it;
// each other side has two such, and one before that opens it. All are gone when
// serve2 returns.
//
// What a side sends is kept until the other has taken it, at most a window: the
// sender gets that back as it goes.
type conn2 struct {
	exits Exits
	wg    sync.WaitGroup

	mu      sync.Mutex
	client  *side
	sides   map[Holder]*side   // that take new streams, nil: the pod's; guarded by mu
	open    map[*side]bool     // all but the client's; guarded by mu
	streams map[uint32]*stream // by the client's number; guarded by mu
	last    uint32             // the client's highest number; guarded by mu
	heads   int                // bytes of requests' fields that no side has got; guarded by mu
	resets  float64            // that the client may still make; guarded by mu
	since   time.Time          // resets is as of then; guarded by mu
	dead    bool               // guarded by mu
	drains  *time.Timer        // guarded by mu; the client was asked to go
	left    bool               // guarded by mu; no new stream is taken
}

// A stream is a request and its answer. Guarded by conn2.mu.
type stream struct {
	id       uint32 // the client's
	up       *side  // nil: it is not decided yet
	upID     uint32 // 0: up has not heard of it yet
	request  half   // to up
	answer   half   // to the client
	answered bool   // something of the answer has come
	grpc     bool
	head     bool

	size   int             // of its fields
	judged *filter.Request // while its body decides
	timer  *time.Timer
}

// joins tells whether more data may be added to an item.
func (i *item) joins() bool {
	return i.fields == nil && !i.end && !i.reset && len(i.data) < initialFrame
}

// A half is a stream's one direction: what has come and is not passed on. Guarded by conn2.mu.
type half struct {
	items  []item
	window int64 // that the receiver gives
	room   int64 // that the sender has left
	credit int64 // of what was passed on, to be given back
	ended  bool  // the end has come
	sent   bool  // and was passed on
}

// An item is fields, or data, or a reset.
type item struct {
	fields []hpack.HeaderField
	data   []byte
	end    bool
	reset  bool
	code   http2.ErrCode
}

// serve2 splits the streams of a client that speaks HTTP/2; in is what it says.
// Unless it is nil, an offer was agreed to before.
func serve2(ctx context.Context, client Conn, in io.Reader, exits Exits, o *offer) error {
	c := &conn2{
		exits: exits, sides: map[Holder]*side{}, open: map[*side]bool{}, streams: map[uint32]*stream{},
		resets: resetsAtOnce, since: time.Now(),
	}
	c.client = newSide(c, nil)
	c.client.conn = client
	if exits.Deaf() {
		c.client.window = boundless
	}
	defer c.wg.Wait()
	defer c.kill()
	defer context.AfterFunc(ctx, c.kill)()
	if o != nil {
		c.adopt(o)
	}
	c.mu.Lock()
	_ = c.client.framer.WriteSettings(append(ourSettings(), http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})...)
	_ = c.client.framer.WriteWindowUpdate(0, connWindow-initialWindow)
	c.client.wake()
	c.mu.Unlock()
	defer context.AfterFunc(exits.Over(), c.drain)()
	c.wg.Go(c.client.write)
	preface := make([]byte, len(http2.ClientPreface))
	_, err := io.ReadFull(in, preface)
	if err == nil && string(preface) == http2.ClientPreface {
		err = c.client.read(in)
	}
	if err == io.EOF {
		return nil
	}
	if code, ok := errors.AsType[http2.ConnectionError](err); ok {
		c.goAway(http2.ErrCode(code))
	}
	return err
}

func ourSettings() []http2.Setting {
	return []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: streamWindow},
		{ID: http2.SettingMaxHeaderListSize, Val: maxHead},
	}
}

// kill closes all connections.
func (c *conn2) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	if c.drains != nil {
		c.drains.Stop()
	}
	for s := range c.open {
		s.close()
	}
	c.client.close()
	for _, st := range c.streams {
		if st.timer != nil {
			st.timer.Stop()
		}
	}
}

// goAway tells the client why its connection ends, if it still listens.
func (c *conn2) goAway(code http2.ErrCode) {
	c.mu.Lock()
	if c.dead {
		c.mu.Unlock()
		return
	}
	_ = c.client.framer.WriteGoAway(c.last, code, nil)
	c.client.last = true
	c.client.wake()
	c.mu.Unlock()
	select {
	case <-c.client.wrote:
	case <-time.After(lastWords):
	}
}

// side finds the side for a holder, nil: the pod, or begins to open it. c.mu is held.
func (c *conn2) side(holder Holder) *side {
	s := c.sides[holder]
	if s == nil && !c.dead {
		s = newSide(c, holder)
		c.sides[holder] = s
		c.open[s] = true
		c.wg.Go(s.run)
	}
	return s
}

// assign gives a stream to a holder, nil: the pod. c.mu is held.
func (c *conn2) assign(st *stream, holder Holder) {
	if st.timer != nil {
		st.timer.Stop()
	}
	st.judged = nil
	if st.up = c.side(holder); st.up != nil {
		st.up.add(st)
	}
}

// begin takes a new request of the client.
func (c *conn2) begin(id uint32, fields []hpack.HeaderField, end bool) error {
	r := &filter.Request{}
	st := &stream{id: id}
	st.request.room, st.answer.room = streamWindow, streamWindow
	for _, f := range fields {
		st.size += int(f.Size())
		switch f.Name {
		case ":method":
			r.Method = f.Value
			st.head = f.Value == "HEAD"
		case ":path":
			r.Path = f.Value
		case ":authority":
			r.Header = append(r.Header, filter.Field{Name: "host", Value: f.Value})
		case "content-type":
			st.grpc = strings.HasPrefix(f.Value, "application/grpc")
		}
		if !f.IsPseudo() {
			r.Header = append(r.Header, filter.Field{Name: f.Name, Value: f.Value})
		}
	}
	holder, answer := c.exits.Choose(r)
	if answer == filter.Unsure && end {
		r.Whole = true
		holder, answer = c.exits.Choose(r)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		return errOver
	}
	if id%2 == 0 || id <= c.last {
		return http2.ConnectionError(http2.ErrCodeProtocol)
	}
	c.last = id
	if c.left || c.full() || c.heads+st.size > maxHeads {
		c.client.reset(id, http2.ErrCodeRefusedStream)
		return c.client.flooded()
	}
	c.streams[id] = st
	c.heads += st.size
	if st.answer.window = c.client.initial; c.exits.Deaf() {
		st.answer.window = boundless
	}
	st.request.put(item{fields: fields, end: end})
	if answer != filter.Unsure {
		c.assign(st, holder)
		return nil
	}
	st.judged = r
	st.timer = time.AfterFunc(bodyTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if st.judged != nil && !c.dead {
			c.assign(st, nil)
		}
	})
	return nil
}

// full tells whether the client has as many streams as it may. Those that it knows
// to be over are not counted, though there are bounds to them, too. c.mu is held.
func (c *conn2) full() bool {
	n := len(c.streams)
	if n < maxStreams || n >= 2*maxStreams {
		return n >= maxStreams
	}
	for _, st := range c.streams {
		if st.request.ended && st.answer.sent {
			n--
		}
	}
	return n >= maxStreams
}

// judge looks at a body that decides. c.mu is held.
func (c *conn2) judge(st *stream) {
	r := st.judged
	var body bytes.Buffer
	for _, i := range st.request.items {
		body.Write(i.data)
	}
	switch {
	case body.Len() > maxBody:
		c.assign(st, nil)
	case st.request.ended:
		r.Body, r.Whole = body.Bytes(), true
		holder, _ := c.exits.Choose(r)
		c.assign(st, holder)
	}
}

// put adds to what is to be passed on. Small pieces of data become one, as what
// keeps a piece takes room of its own.
func (h *half) put(i item) {
	if n := len(h.items); n > 0 && i.fields == nil && !i.reset && h.items[n-1].joins() {
		h.items[n-1].data = append(h.items[n-1].data, i.data...)
		h.items[n-1].end = i.end
	} else {
		h.items = append(h.items, i)
	}
	h.ended = h.ended || i.end || i.reset
}

// drop forgets what is kept, and returns how many bytes of data that was.
func (h *half) drop() (n int64) {
	for _, i := range h.items {
		n += int64(len(i.data))
	}
	h.items = nil
	return n
}

// remove forgets a stream. c.mu is held.
func (c *conn2) remove(st *stream) {
	if st.timer != nil {
		st.timer.Stop()
	}
	delete(c.streams, st.id)
	if st.upID == 0 {
		c.heads -= st.size
	}
	c.client.give(st.request.drop())
	if st.up != nil {
		st.up.give(st.answer.drop())
		delete(st.up.streams, st)
		if st.upID != 0 {
			delete(st.up.byID, st.upID)
		}
		st.up.wake()
	}
	c.part()
}

// settle forgets a stream that has come to its end. c.mu is held.
func (c *conn2) settle(st *stream) {
	if st.request.sent && st.answer.sent {
		c.remove(st)
	}
}

// calm counts a stream that was reset by the client's doing. c.mu is held.
func (c *conn2) calm() error {
	now := time.Now()
	c.resets = min(resetsAtOnce, c.resets+resetsPerTime*now.Sub(c.since).Seconds()) - 1
	c.since = now
	if c.resets < 0 {
		return http2.ConnectionError(http2.ErrCodeEnhanceYourCalm)
	}
	return nil
}

// resetByClient passes the client's reset on. c.mu is held.
func (c *conn2) resetByClient(id uint32, code http2.ErrCode) error {
	if err := c.calm(); err != nil {
		return err
	}
	st := c.streams[id]
	if st == nil {
		if id > c.last {
			return http2.ConnectionError(http2.ErrCodeProtocol)
		}
		return nil
	}
	if st.upID != 0 {
		st.up.reset(st.upID, code)
	}
	c.remove(st)
	return nil
}

// fail answers in place of a side that has not. c.mu is held.
func (c *conn2) fail(st *stream, err error) {
	holder := st.up.holder
	switch {
	case holder == nil || st.answered:
		c.client.reset(st.id, http2.ErrCodeInternal)
		c.remove(st)
		return
	case st.upID == 0: // it has got nothing
		delete(st.up.streams, st)
		c.assign(st, nil)
		return
	}
	words := fmt.Sprintf("mirrord: the request was given to the debuggee of %s, which did not answer it: %v", holder.Name(), err)
	fields := []hpack.HeaderField{{Name: ":status", Value: "502"}, {Name: "content-type", Value: "text/plain; charset=utf-8"}}
	if st.grpc {
		fields = []hpack.HeaderField{
			{Name: ":status", Value: "200"}, {Name: "content-type", Value: "application/grpc"},
			{Name: "grpc-status", Value: "14"}, {Name: "grpc-message", Value: words}, // UNAVAILABLE
		}
	}
	alone := st.grpc || st.head
	st.answer.put(item{fields: fields, end: alone})
	if !alone {
		st.answer.put(item{data: []byte(words + "\n"), end: true})
	}
	c.client.give(st.request.drop())
	st.request.ended, st.request.sent = true, true // nobody wants more of it
	delete(st.up.streams, st)
	st.up = nil
	c.client.wake()
}

// all are the streams of a side, in order.
func (s *side) all() []*stream {
	return slices.SortedFunc(maps.Keys(s.streams), func(a, b *stream) int { return int(a.id) - int(b.id) })
}
