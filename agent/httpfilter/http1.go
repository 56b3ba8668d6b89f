package httpfilter

import (
	"bytes"
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/net/http2"

	"mirrord/protocol/filter"
)

// A conn1 is a client's connection in HTTP/1, or in what turns out to be none.
//
// Goroutines: the caller's reads requests; each upstream has one that reads its
// answers. All are gone when Serve returns.
type conn1 struct {
	exits  Exits
	client Conn
	in     source         // of the client; the caller's
	head   head           // of the latest request; the caller's
	chosen filter.Request // the same for a filter; the caller's
	said   bool           // there was a request; the caller's
	wg     sync.WaitGroup

	mu      sync.Mutex
	changed sync.Cond            // of what mu guards
	ups     map[Holder]*upstream // guarded by mu; nil: the pod's
	current *upstream            // who may write to the client, nil: nobody yet; guarded by mu
	spoken  bool                 // the client has sent a request; guarded by mu
	tunnel  *upstream            // all that the client still says is for it; guarded by mu
	agreed  *offer               // the pod goes on in HTTP/2; guarded by mu
	over    bool                 // the client gets nothing more; guarded by mu
	dead    bool                 // guarded by mu; all is being closed
	turning bool                 // guarded by mu; a request is waiting for its turn
	drains  *time.Timer          // guarded by mu; the connection is to end, and will by then
	asked   bool                 // guarded by mu; no more requests are passed on
	secured *Secured             // what the client's TLS is opened by; the caller's
}

var (
	errOver  = errors.New("the connection is over")
	errHTTP2 = errors.New("the client speaks HTTP/2")
)

// Serve splits a client's requests until its connection ends, and closes it.
// ctx ends it before.
func Serve(ctx context.Context, client Conn, exits Exits) error {
	deepen(0)
	c := &conn1{exits: exits, client: client, in: newSource(client), ups: map[Holder]*upstream{}}
	c.changed.L = &c.mu
	stop := context.AfterFunc(ctx, c.kill)
	stay := context.AfterFunc(exits.Over(), c.drain)
	err := c.requests()
	stay()
	c.drained()
	switch err {
	case errHTTP2:
		err = c.upgrade(ctx)
	case errTLS:
		err = c.within(ctx)
	default:
		c.end(err)
	}
	c.wg.Wait()
	c.in.free()
	stop()
	if err == errOver || err == io.EOF {
		err = nil
	}
	return err
}

// deepen has a goroutine's stack grow at once to what it will need: step by step
// all that is on it is copied each time, which was a twentieth of a connection's cost.
// It is not used, as it would be cleared first.
//
//go:noinline
func deepen(use int) byte {
	if use == 0 {
		return 0
	}
	var room [5 << 10]byte
	return room[use]
}

// requests passes the client's requests on until nothing more can come. io.EOF:
// the client has ended its side, and all that it said is passed on.
func (c *conn1) requests() error {
	if err := c.greet(); err != nil {
		return err
	}
	for {
		h, err := c.next()
		switch err {
		case nil:
		case errForeign:
			return c.forward()
		default:
			return err
		}
		if err := c.request(h); err != nil {
			return err
		}
	}
}

// greet waits for the client to say something; if it does not, perhaps the pod will.
func (c *conn1) greet() error {
	if !c.exits.PodFirst() {
		_ = c.client.SetReadDeadline(time.Now().Add(firstWords))
		err := c.in.fill()
		_ = c.client.SetReadDeadline(time.Time{})
		switch {
		case err == nil || err == io.EOF:
			return nil // next sees it, too
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return err
		}
	}
	_, _ = c.open(nil, nil, nil) // who has no pod may still have a holder
	return nil
}

// next reads the head of a request. errForeign: what comes is none; io.EOF: there is no other.
func (c *conn1) next() (*head, error) {
	c.in.narrow()
	if c.head.size > firstBuffer || cap(c.head.fields) > 4*usualFields { // not to be kept by who waits
		c.head, c.chosen = head{}, filter.Request{}
	}
	limited := false
	for {
		b := c.in.kept()
		if len(b) > 0 {
			if b[0] == handshake && !c.said {
				return nil, c.hello()
			}
			err := c.head.request(b)
			switch {
			case prefaced(b):
				if len(b) >= len(http2.ClientPreface) {
					return nil, c.speak2()
				}
			case err == nil:
				return &c.head, c.speak()
			case err == errForeign || len(b) >= maxHead:
				return nil, errForeign
			}
			if !limited {
				limited = true
				_ = c.client.SetReadDeadline(time.Now().Add(headTime))
				defer func() { _ = c.client.SetReadDeadline(time.Time{}) }()
			}
		}
		err := c.in.fill()
		c.mu.Lock()
		tunnel, over := c.tunnel, c.over
		c.mu.Unlock()
		switch {
		case over:
			return nil, errOver
		case tunnel != nil && err == io.EOF && len(b) == 0:
			return nil, io.EOF
		case tunnel != nil, err == io.EOF && (len(b) > 0 || !c.begun()), errors.Is(err, os.ErrDeadlineExceeded):
			return nil, errForeign
		case err != nil:
			return nil, err
		}
	}
}

// prefaced tells whether b may be how HTTP/2 begins.
func prefaced(b []byte) bool {
	n := min(len(b), len(http2.ClientPreface))
	return string(b[:n]) == http2.ClientPreface[:n]
}

// speak2 notes that the client speaks HTTP/2, as it may from the beginning on.
func (c *conn1) speak2() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.spoken || c.tunnel != nil {
		return errForeign
	}
	c.spoken, c.current = true, &upstream{} // who was opened meanwhile has no say
	c.exits.Spoke(false)
	return errHTTP2
}

// upgrade goes on in HTTP/2.
func (c *conn1) upgrade(ctx context.Context) error {
	c.dropAll()
	return serve2(ctx, c.client, io.MultiReader(bytes.NewReader(c.in.kept()), c.client), c.exits, c.agreed)
}

// dropAll ends the connections that were opened to no use.
func (c *conn1) dropAll() {
	c.mu.Lock()
	idle := slices.Collect(maps.Values(c.ups))
	c.mu.Unlock()
	for _, u := range idle {
		u.drop()
	}
}

// begun tells whether anybody but the client knows of the connection.
func (c *conn1) begun() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.current != nil || len(c.ups) > 0
}

// speak notes that the client has sent a request, unless its bytes are somebody's already.
func (c *conn1) speak() error {
	if c.said { // whose its bytes are is seen later
		return nil
	}
	c.said = true
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.tunnel != nil {
		return errForeign
	}
	if !c.spoken {
		c.spoken = true
		c.exits.Spoke(false)
	}
	return nil
}

// request passes one request on.
func (c *conn1) request(h *head) error {
	holder := c.choose(h)
	o := offers(h)
	if o != nil && holder != nil {
		o, h.upgrades = nil, false
		head := withoutOffer(c.in.kept()[:h.size])
		c.in.replace(h.size, head)
		h.size = len(head)
	}
	x := &exchange{offer: o, method: h.method, keeps: h.keeps(), expects: h.expects, upgrades: h.upgrades && h.upgrade != "" || h.method == "CONNECT"}
	if holder != nil && h.repeatable() {
		x.again = append([]byte{}, c.in.kept()[:h.size]...)
	}
	u := c.askAgain(holder, x)
	if u == nil {
		var err error
		if holder != nil && h.framing.kind != noBody && !x.expects {
			c.gather(holder, h)
		}
		if u, err = c.turn(holder, x, c.in.ahead(h.size, h.framing)); err != nil {
			return err
		}
	}
	if u == nil { // all that comes is somebody's
		return c.forward()
	}
	err := c.in.pass(u.conn, h.size, &h.framing)
	if _, theirs := errors.AsType[writeError](err); theirs {
		<-u.done // it tells what there is to tell
		return errOver
	}
	if err == errForeign && u.holder == nil {
		return c.forward()
	}
	if err != nil {
		return err
	}
	return c.sent(x)
}

// Repeatable tells whether a client that has said b may say it again though perhaps it was
// heard: a single request of that kind, or how TLS begins.
func Repeatable(b []byte) bool {
	var h head
	return len(b) > 1 && b[0] == handshake && b[1] == 3 || h.request(b) == nil && h.size == len(b) && h.repeatable()
}

func (h *head) repeatable() bool { return h.framing.kind == noBody && repeatable(h.method) }

// repeatable names the methods that RFC 9110, 9.2.1, calls safe.
func repeatable(method string) bool {
	return method == "GET" || method == "HEAD" || method == "OPTIONS" || method == "TRACE"
}

// choose decides whose a request is. Where its body decides, that is waited for.
func (c *conn1) choose(h *head) Holder {
	r := &c.chosen
	*r = filter.Request{Method: h.method, Path: path(h.target), Header: h.fields}
	holder, answer := c.exits.Choose(r)
	if answer != filter.Unsure {
		return holder
	}
	if !hopeless(r) {
		r.Body, r.Whole = c.body(h)
	}
	r.Unseen = !r.Whole
	holder, _ = c.exits.Choose(r)
	return holder
}

// body reads a body that stays to be passed on, if it comes soon and is small.
func (c *conn1) body(h *head) (b []byte, whole bool) {
	_ = c.client.SetReadDeadline(time.Now().Add(bodyTime))
	defer func() { _ = c.client.SetReadDeadline(time.Time{}) }()
	f := h.framing
	f.data = &b
	for at := h.size; ; {
		n, done, err := f.take(c.in.kept()[at:])
		at += n
		switch {
		case err != nil || len(b) > maxBody || at > h.size+2*maxBody:
			return nil, false
		case done:
			return b, true
		case c.in.fill() != nil:
			return nil, false
		}
	}
}

// gather reads what comes at once of a body, for it to go along where its receiver has
// to be asked first.
func (c *conn1) gather(holder Holder, h *head) {
	c.mu.Lock()
	there := c.ups[holder] != nil
	c.mu.Unlock()
	if there {
		return
	}
	_ = c.client.SetReadDeadline(time.Now().Add(alongTime))
	defer func() { _ = c.client.SetReadDeadline(time.Time{}) }()
	f := h.framing
	for at := h.size; len(c.in.kept()) < alongMost; {
		n, done, err := f.take(c.in.kept()[at:])
		if at += n; done || err != nil || c.in.fill() != nil {
			return
		}
	}
}

// turn waits until an upstream may be written to without a mix of answers, and opens
// it if need be. x, unless it is nil, is noted as about to be written, first being how
// that begins. nil without an error: the client's bytes are somebody's already.
func (c *conn1) turn(holder Holder, x *exchange, first []byte) (*upstream, error) {
	c.mu.Lock()
	c.turning = true
	for !c.stopped() && c.current != nil && len(c.current.asked) > 0 && (c.current.holder != holder || len(c.current.asked) >= c.most(holder)) {
		c.changed.Wait()
	}
	c.turning = false
	u := c.ups[holder]
	stopped, tunnel := c.stopped(), c.tunnel
	if u == nil { // whoever is idle meanwhile has no say
		c.current = &upstream{}
	} else if c.current = u; x != nil && !stopped {
		u.asked = append(u.asked, x)
	}
	c.mu.Unlock()
	switch {
	case tunnel != nil:
		return nil, nil
	case stopped:
		return nil, errOver
	case u != nil:
		return u, nil
	}
	u, err := c.open(holder, x, first)
	switch {
	case err == nil, holder == nil:
		return u, err
	case errors.Is(err, ErrUnsure) && x != nil && x.again == nil && !c.exits.Deaf(): // a hello of TLS does no harm
		c.apologise(x, holder, err)
		return nil, errOver
	}
	return c.turn(nil, x, first)
}

// most is how many requests may wait for an answer there. Of a copy it is one: where
// a debuggee ends its connection with an answer, the client has made another request
// that is to come to it, too.
func (c *conn1) most(holder Holder) int {
	if holder != nil && c.exits.Deaf() {
		return 1
	}
	return maxAsked
}

// stopped tells whether no more requests are passed on one by one. c.mu is held.
func (c *conn1) stopped() bool { return c.tunnel != nil || c.over || c.dead }

// askAgain is turn where nothing has to be waited for, as mostly; nil: something has.
func (c *conn1) askAgain(holder Holder, x *exchange) *upstream {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := c.ups[holder]
	if u == nil || u != c.current || c.stopped() || len(u.asked) >= c.most(holder) {
		return nil
	}
	u.asked = append(u.asked, x)
	return u
}

// sent notes that a request is written. What may become a tunnel is waited for.
func (c *conn1) sent(x *exchange) error {
	if !x.expects && !x.upgrades && x.offer == nil {
		return nil // nobody asks
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	x.sent = true
	for (x.upgrades || x.offer != nil) && !x.settled && !c.stopped() {
		c.changed.Wait()
	}
	switch {
	case c.agreed != nil:
		return errHTTP2
	case c.over || c.dead:
		return errOver
	}
	return nil
}

// forward brings all that the client still says to the tunnel, else to the pod.
func (c *conn1) forward() error {
	c.mu.Lock()
	u := c.tunnel
	c.mu.Unlock()
	if u == nil {
		var err error
		if u, err = c.turn(nil, nil, nil); err != nil {
			return err
		}
		c.mu.Lock()
		if c.tunnel == nil {
			c.tunnel, c.current = u, u
		}
		u = c.tunnel
		c.changed.Broadcast()
		c.mu.Unlock()
	}
	err := c.in.pass(u.conn, 0, &framing{kind: untilEnd})
	if _, theirs := errors.AsType[writeError](err); theirs {
		<-u.done
		return errOver
	}
	if err != nil {
		return err
	}
	return io.EOF
}

// end brings all connections to their end, after the client's requests came to theirs.
func (c *conn1) end(err error) {
	if err != io.EOF && err != errOver {
		c.kill()
		return
	}
	c.farewell(false)
	c.mu.Lock()
	for c.waiting() {
		c.changed.Wait()
	}
	tunnel := c.tunnel
	c.mu.Unlock()
	if tunnel != nil {
		<-tunnel.done
	}
	c.farewell(true)
	if err == errOver { // the client may still be sending, and is to read what it was told
		_ = c.client.SetReadDeadline(time.Now().Add(lingerTime)) // who waited for a body may have cleared it
		_, _ = io.Copy(io.Discard, c.client)
	}
	c.wg.Wait()
	_ = c.client.Close()
	for _, u := range c.ups {
		_ = u.conn.Close()
	}
}

// farewell tells all upstreams that nothing more comes; at last they have
// little time to end, too.
func (c *conn1) farewell(last bool) {
	c.mu.Lock()
	ups := slices.Collect(maps.Values(c.ups))
	c.mu.Unlock()
	for _, u := range ups {
		if len(ups) == 1 && u.over() {
			return // all is closed now
		}
		if !u.left {
			u.left = true
			_ = u.conn.CloseWrite()
		}
		if last {
			_ = u.conn.SetReadDeadline(time.Now().Add(lingerTime))
		}
	}
}

// waiting tells whether an answer is still to come. c.mu is held.
func (c *conn1) waiting() bool {
	if c.dead || c.over {
		return false
	}
	for _, u := range c.ups {
		if len(u.asked) > 0 && u != c.tunnel {
			return true
		}
	}
	return false
}

// kill closes all connections at once.
func (c *conn1) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dead = true
	reset(c.client)
	for _, u := range c.ups {
		reset(u.conn)
	}
	c.changed.Broadcast()
}

// finish tells the client that nothing more comes.
func (c *conn1) finish() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.over = true
	_ = c.client.CloseWrite()
	_ = c.client.SetReadDeadline(time.Now().Add(lingerTime))
	c.changed.Broadcast()
}

// open opens a connection to the holder, nil: to the pod. What is written to it
// begins with first; where that is a request, x, its answer is waited for from then on:
// the receiver may have it.
func (c *conn1) open(holder Holder, x *exchange, first []byte) (*upstream, error) {
	u, err := c.connect(holder, first)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead {
		reset(u.conn)
		return nil, errOver
	}
	c.ups[holder] = u
	if x != nil {
		u.asked, c.current = []*exchange{x}, u
	}
	c.wg.Go(u.run)
	return u, nil
}

func (c *conn1) connect(holder Holder, first []byte) (*upstream, error) {
	var conn Conn
	var err error
	if holder == nil {
		conn, err = c.exits.Pod()
	} else {
		conn, err = holder.Take(first)
	}
	if err != nil {
		return nil, err
	}
	if holder != nil && c.exits.Deaf() {
		conn = copied{conn}
	}
	return &upstream{c: c, conn: conn, holder: holder, in: newSource(conn), done: make(chan struct{})}, nil
}
