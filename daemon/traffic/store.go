package traffic

import (
	"net/netip"
	"strings"
	"time"

	"mirrord/protocol/ide"
)

// Limits of what can be asked for later.
const (
	maxExchanges = 200
	maxBody      = 64 << 10 // of a message
	maxStored    = 16 << 20 // in all
	fieldCost    = 64       // of a header, beside its text
)

// A store has the last exchanges. Its watcher's mu is held.
type store struct {
	closed bool
	last   []*exchange // oldest first
	size   int
}

func (s *store) get(id uint64) *exchange {
	for _, x := range s.last {
		if x.id == id {
			return x
		}
	}
	return nil
}

func (s *store) add(x *exchange) {
	if len(s.last) == maxExchanges {
		s.evict()
	}
	s.last = append(s.last, x)
}

func (s *store) evict() {
	x := s.last[0]
	s.last = s.last[:copy(s.last, s.last[1:])]
	s.size -= x.size
	x.evicted, x.size = true, 0
	x.request.drop()
	x.response.drop()
}

// grow makes room for n bytes more of x, if need be in the place of older ones.
func (s *store) grow(x *exchange, n int) bool {
	for !x.evicted && s.size+n > maxStored && s.last[0] != x {
		s.evict()
	}
	if x.evicted || s.size+n > maxStored {
		return false
	}
	s.size += n
	x.size += n
	return true
}

// unanswered finds what who serves a connection may be about to answer: in
// HTTP/1, where answers come in order, the first; in HTTP/2 that of a stream.
func (s *store) unanswered(peer netip.AddrPort, stream uint32) *exchange {
	for _, x := range s.last {
		if !x.done && x.of.peer == peer && x.stream == stream {
			return x
		}
	}
	return nil
}

// An exchange is one request and its answer.
type exchange struct {
	id       uint64
	of       *Incoming
	stream   uint32 // in HTTP/2
	w        *watcher
	begun    time.Duration
	at       time.Time
	method   string
	path     string
	host     string
	proto    string
	grpc     bool
	status   int
	request  message
	response message
	took     time.Duration
	done     bool
	err      string

	size    int // what it takes of the store
	evicted bool
}

// A message is what is kept of one.
type message struct {
	fields    [][2]string
	trailers  [][2]string
	body      []byte
	bytes     int64 // of all of the body
	truncated bool
}

func (m *message) drop() { m.fields, m.trailers, m.body, m.truncated = nil, nil, nil, true }

// ask begins an exchange whose request has come.
func (c *conversation) ask(at time.Duration, method, path, host, proto string, fields [][2]string) *exchange {
	x := &exchange{
		id: c.w.source.id(), of: c.of, w: c.w, begun: at, at: c.w.began.Add(at),
		method: method, path: path, host: host, proto: proto, grpc: strings.HasPrefix(field(fields, "Content-Type"), "application/grpc"),
	}
	c.w.store.add(x)
	if !c.w.store.grow(x, len(method)+len(path)+len(host)) {
		x.path = ""
	}
	x.head(&x.request, fields)
	c.w.source.tell(ide.SessionEvent{Kind: ide.EventRequest, Request: &ide.Request{ID: x.id, Asked: &ide.Asked{
		Port: x.of.port, Mirror: x.of.mirror, Peer: x.of.peer.String(), Method: method, Path: shownPath(path, false), Host: host, Proto: proto, GRPC: x.grpc,
	}}})
	return x
}

// head keeps the headers of m.
func (x *exchange) head(m *message, fields [][2]string) { m.fields = x.keep(m, m.fields, fields) }

func (x *exchange) trail(m *message, fields [][2]string) { m.trailers = x.keep(m, m.trailers, fields) }

func (x *exchange) keep(m *message, had, fields [][2]string) [][2]string {
	cost := 0
	for _, f := range fields {
		cost += len(f[0]) + len(f[1]) + fieldCost
	}
	if !x.w.store.grow(x, cost) {
		m.truncated = true
		return had
	}
	return append(had, fields...)
}

// add keeps what there is room for of a part of m's body.
func (x *exchange) add(m *message, b []byte) {
	m.bytes += int64(len(b))
	if m.truncated {
		return
	}
	if room := maxBody - len(m.body); len(b) > room {
		b, m.truncated = b[:room], true
	}
	if len(b) > 0 && !x.w.store.grow(x, len(b)) {
		m.truncated = true
		return
	}
	m.body = append(m.body, b...)
}

// pass counts a part of m's body that was not copied.
func (x *exchange) pass(m *message, n int) {
	m.bytes += int64(n)
	m.truncated = true
}

// full tells whether no more of m's body is kept.
func (m *message) full() bool { return m.truncated || len(m.body) == maxBody }

// finish tells that x was answered, or with why, that it will not be.
func (x *exchange) finish(at time.Duration, why string) {
	if x.done {
		return
	}
	x.done, x.err, x.took = true, why, at-x.begun
	answered := &ide.Answered{Status: x.status, MS: ms(x.took), RequestBytes: x.request.bytes, ResponseBytes: x.response.bytes, Error: why}
	if why != "" {
		answered.Status = 0
	}
	if x.grpc {
		answered.GRPCStatus = grpcStatus(&x.response)
	}
	x.w.source.tell(ide.SessionEvent{Kind: ide.EventResponse, Request: &ide.Request{ID: x.id, Answered: answered}})
}

// result is what session/request tells of x.
func (x *exchange) result(now time.Duration, reveal bool) ide.RequestResult {
	took := x.took
	if !x.done {
		took = now - x.begun
	}
	return ide.RequestResult{
		Request: ide.RequestMessage{
			Method: x.method, Path: shownPath(x.path, reveal), Host: x.host, Proto: x.proto, Headers: append([][2]string{}, shown(x.request.fields, reveal)...),
			Trailers: shown(x.request.trailers, reveal), Body: append([]byte{}, x.request.body...), Truncated: x.request.truncated,
		},
		Response: ide.ResponseMessage{
			Status: x.status, Headers: append([][2]string{}, shown(x.response.fields, reveal)...),
			Trailers: shown(x.response.trailers, reveal), Body: append([]byte{}, x.response.body...), Truncated: x.response.truncated,
		},
		Peer: x.of.peer.String(), Port: x.of.port, Mirror: x.of.mirror, Started: x.at.Format(time.RFC3339Nano), MS: ms(took), Done: x.done, Error: x.err,
	}
}
