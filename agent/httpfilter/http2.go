package httpfilter

import (
	"bytes"
	"cmp"
	"context"
	"errors"
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
	streamWindow  = 256 << 10              // of what a side may send, and so is kept of a stream
	firstWindow   = maxBody + initialFrame // of a request, until some was passed on; a body too long for filters is seen
	connWindow    = 1 << 20                // of what a side may send of all streams, and is not kept yet
	clientWindow  = 256 << 10              // and a client, of which there are many
	maxStreams    = 250                    // that we allow the client at one time, beside those of holders
	maxHeld       = 3 * maxStreams         // which are as many
	maxHeads      = 1 << 20                // bytes of fields that wait for the pod, and for holders
	maxControl    = 64 << 10               // bytes that answer a side's settings, pings and the like
	resetsAtOnce  = 1000                   // of streams by the client
	resetsPerTime = 100                    // more of them each second
	tableSize     = 4 << 10                // of HPACK, each way
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
// What a side sends is kept until the other has taken it, of a stream at most a window:
// the sender gets that back as it goes. Of all see kept.go.
type conn2 struct {
	exits Exits
	wg    sync.WaitGroup

	mu      sync.Mutex
	client  *side
	sides   map[Holder]*side   // that take new streams, nil: the pod's; guarded by mu
	open    map[*side]bool     // all but the client's; guarded by mu
	streams map[uint32]*stream // by the client's number; guarded by mu
	last    uint32             // the client's highest number; guarded by mu
	told    int                // streams that the client may have, as it was told; guarded by mu
	most    int                // of these what it has acknowledged; guarded by mu
	unheard int                // of our settings those that it has not; guarded by mu
	kept    int64              // bytes of data that are on loan; guarded by mu
	heads   int                // bytes of requests' fields that no side has got; guarded by mu
	resets  float64            // that the client may still make; guarded by mu
	since   time.Time          // resets is as of then; guarded by mu
	dead    bool               // guarded by mu
	drains  *time.Timer        // guarded by mu; the client was asked to go
	left    bool               // guarded by mu; no new stream is taken
	reading bool               // guarded by mu; more has come of the client than was looked at
	fresh   []*side            // guarded by mu; to be opened soon
	late    *time.Timer        // guarded by mu; nil: fresh does not wait for it
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
	again    bool // it is whole, and may be made once more

	size   int             // of its fields
	lent   []item          // of the request; went along to who has not taken it yet
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
	grant  int64 // that it has if all is passed on
	credit int64 // of what was passed on, to be given back
	owed   int64 // of what is kept and is not on loan
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
		resets: resetsAtOnce, since: time.Now(), told: maxStreams, most: maxStreams, unheard: 1,
	}
	c.client = newSide(c, nil)
	c.client.conn = client
	if exits.Deaf() {
		c.client.window = boundless
	} else {
		c.client.room, c.client.grant = clientWindow, clientWindow
	}
	defer func() {
		c.wg.Wait()
		keptByAll.Add(-c.kept)
	}()
	defer c.kill()
	defer context.AfterFunc(ctx, c.kill)()
	if o != nil {
		c.adopt(o)
	}
	c.mu.Lock()
	_ = c.client.framer.WriteSettings(append(ourSettings(firstWindow), http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: maxStreams})...)
	_ = c.client.framer.WriteWindowUpdate(0, uint32(c.client.grant-initialWindow))
	c.client.wake()
	c.mu.Unlock()
	defer context.AfterFunc(exits.Over(), c.drain)()
	c.wg.Go(c.client.write)
	preface := make([]byte, len(http2.ClientPreface))
	_, err := io.ReadFull(in, preface)
	if err == nil && string(preface) == http2.ClientPreface {
		err = c.client.read(batch{in, c})
	}
	if err == io.EOF {
		return nil
	}
	if code, ok := errors.AsType[http2.ConnectionError](err); ok {
		c.goAway(http2.ErrCode(code))
	}
	return err
}

func ourSettings(window uint32) []http2.Setting {
	return []http2.Setting{
		{ID: http2.SettingInitialWindowSize, Val: window},
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
		c.fresh = append(c.fresh, s)
		if !c.reading {
			c.begun()
		}
	}
	return s
}

// begun opens the sides that are to be, when what has come of the client was looked
// at: what it brings to one goes there together. Where a holder's requests have not come
// to their end, that is waited for a little. c.mu is held.
func (c *conn2) begun() {
	c.fresh = slices.DeleteFunc(c.fresh, func(s *side) bool {
		for st := range s.streams {
			if s.holder != nil && !st.request.ended {
				return false
			}
		}
		c.wg.Go(s.run)
		return true
	})
	if len(c.fresh) == 0 || c.late != nil {
		return
	}
	c.late = time.AfterFunc(alongTime, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.late = nil
		for _, s := range c.fresh {
			if !c.dead {
				c.wg.Go(s.run)
			}
		}
		c.fresh = nil
	})
}

// A batch reads what comes of the client at a time.
type batch struct {
	io.Reader
	c *conn2
}

func (b batch) Read(p []byte) (int, error) {
	b.look(false)
	defer b.look(true)
	return b.Reader.Read(p)
}

func (b batch) look(reading bool) {
	c := b.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reading = reading; !reading {
		c.begun()
	}
}

// assign gives a stream to a holder, nil: the pod. c.mu is held.
func (c *conn2) assign(st *stream, holder Holder) {
	if st.timer != nil {
		st.timer.Stop()
	}
	st.judged = nil
	if st.up = c.side(holder); st.up != nil {
		st.up.add(st)
		c.allow()
	}
}

// held is how many streams holders have. c.mu is held.
func (c *conn2) held() (n int) {
	for s := range c.open {
		if s.holder != nil {
			n += len(s.streams)
		}
	}
	return n
}

// allow lets the client have more streams, so that those that wait for a holder leave
// as many to others as there would be without. c.mu is held.
func (c *conn2) allow() {
	if c.told-c.held() >= maxStreams || c.told >= maxHeld+maxStreams {
		return
	}
	c.told += maxStreams
	c.unheard++
	_ = c.client.framer.WriteSettings(http2.Setting{ID: http2.SettingMaxConcurrentStreams, Val: uint32(c.told)})
	c.client.wake()
}

// begin takes a new request of the client.
func (c *conn2) begin(id uint32, fields []hpack.HeaderField, end bool) error {
	r := &filter.Request{Header: make([]filter.Field, 0, len(fields))}
	st := &stream{id: id}
	st.answer.room, st.answer.grant = streamWindow, streamWindow
	st.request.room, st.request.grant = firstWindow, firstWindow
	if c.exits.Deaf() { // it has what the pod gave it
		st.request.room, st.request.grant = streamWindow, streamWindow
	}
	for _, f := range fields {
		st.size += int(f.Size())
		switch f.Name {
		case ":method":
			r.Method = f.Value
			st.head, st.again = f.Value == "HEAD", end && repeatable(f.Value)
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
	if answer == filter.Unsure {
		r.Whole = end
		if r.Unseen = !end && hopeless(r); end || r.Unseen {
			holder, answer = c.exits.Choose(r)
		}
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
	if c.left || c.full() || holder != nil && c.held() >= maxHeld || c.crowded(st.size, holder != nil) {
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
			c.decide(st, nil, false)
		}
	})
	return nil
}

// full tells whether the client has as many streams as it may. Those that it knows
// to be over are not counted, though there are bounds to them, too. c.mu is held.
func (c *conn2) full() bool {
	n := len(c.streams)
	if n < c.most || n >= 2*c.most {
		return n >= c.most
	}
	for _, st := range c.streams {
		if st.request.ended && st.answer.sent {
			n--
		}
	}
	return n >= c.most
}

// crowded tells whether with size more too many bytes of fields wait for holders, or for
// others. c.mu is held.
func (c *conn2) crowded(size int, held bool) bool {
	if c.heads+size <= maxHeads {
		return false
	}
	for _, st := range c.streams {
		if st.upID == 0 && held == (st.up != nil && st.up.holder != nil) {
			size += st.size
		}
	}
	return size > maxHeads
}

// judge looks at a body that decides. c.mu is held.
func (c *conn2) judge(st *stream) {
	var body bytes.Buffer
	for _, i := range st.request.items {
		body.Write(i.data)
	}
	if long := body.Len() > maxBody; long || st.request.ended {
		c.decide(st, body.Bytes(), !long)
	}
}

// decide gives a stream to whose it is by its body, or without, if that is not to be
// known. c.mu is held.
func (c *conn2) decide(st *stream, body []byte, whole bool) {
	r := st.judged
	if r.Whole, r.Unseen = whole, !whole; whole {
		r.Body = body
	}
	holder, _ := c.exits.Choose(r)
	c.assign(st, holder)
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
	c.release(&st.request, c.client, st.request.drop())
	if st.up != nil {
		c.release(&st.answer, st.up, st.answer.drop())
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
	st.cancel(code)
	c.remove(st)
	return nil
}

// cancel resets a stream where it went, unless that has failed. c.mu is held.
func (st *stream) cancel(code http2.ErrCode) {
	if st.up != nil && st.upID != 0 {
		st.up.reset(st.upID, code)
	}
}

// fail answers in place of a side that has not. c.mu is held.
func (c *conn2) fail(st *stream, err error) {
	holder := st.up.holder
	switch {
	case holder == nil && st.upID == 0: // nor has the pod
		c.client.reset(st.id, http2.ErrCodeRefusedStream)
		c.remove(st)
		return
	case holder == nil || st.answered:
		c.client.reset(st.id, http2.ErrCodeInternal)
		c.remove(st)
		return
	case st.upID == 0: // it has got nothing
		delete(st.up.streams, st)
		c.assign(st, nil)
		return
	}
	words := unanswered(holder, err)
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
	c.release(&st.request, c.client, st.request.drop())
	st.request.ended, st.request.sent = true, true // nobody wants more of it
	delete(st.up.streams, st)
	st.up = nil
	c.client.wake()
}

// all are the streams of a side, in order.
func (s *side) all() []*stream {
	return slices.SortedFunc(maps.Keys(s.streams), older)
}

func older(a, b *stream) int { return cmp.Compare(a.id, b.id) }
