package httpfilter

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// An exchange is a request that is not answered yet.
type exchange struct {
	method   string
	keeps    bool   // the client keeps the connection
	expects  bool   // 100-continue
	upgrades bool   // the connection may become a tunnel
	offer    *offer // to go on in HTTP/2
	again    []byte // the whole request, where it may be made once more
	sent     bool   // it is written; guarded by conn1.mu
	settled  bool   // it was answered; guarded by conn1.mu
}

// An upstream is where some of a client's requests go.
type upstream struct {
	c      *conn1
	conn   Conn
	holder Holder        // nil: the pod
	in     source        // its goroutine's
	said   head          // of the latest answer; its goroutine's
	used   bool          // its goroutine's; it has answered before
	done   chan struct{} // closed when no more answers come
	left   bool          // the client's goroutine's; farewell was said

	asked []*exchange // in order; guarded by conn1.mu
}

// run passes answers on until no more come.
func (u *upstream) run() {
	defer close(u.done)
	defer u.in.free()
	deepen(0)
	for {
		u.in.narrow()
		if len(u.in.kept()) == 0 {
			if err := u.in.fill(); err != nil {
				u.ended(err)
				return
			}
		}
		x := u.first()
		if x == nil {
			u.unasked()
			return
		}
		if !u.answer(x) {
			return
		}
	}
}

// over tells whether no more answers come.
func (u *upstream) over() bool {
	select {
	case <-u.done:
		return true
	default:
		return false
	}
}

// first is the request that is to be answered.
func (u *upstream) first() *exchange {
	u.c.mu.Lock()
	defer u.c.mu.Unlock()
	if len(u.asked) == 0 {
		return nil
	}
	return u.asked[0]
}

// has tells whether what the upstream says by itself is for the client. c.mu is held.
func (u *upstream) has() bool {
	c := u.c
	return c.tunnel == u || u.holder == nil && c.tunnel == nil && (c.current == u || c.current == nil)
}

// unasked passes on what nobody asked the pod for: it speaks first, or says why
// it ends an idle connection.
func (u *upstream) unasked() {
	c := u.c
	c.mu.Lock()
	has, first := u.has(), !c.spoken
	if has {
		c.tunnel, c.current = u, u
		c.changed.Broadcast()
	} else {
		u.forget()
	}
	c.mu.Unlock()
	switch {
	case !has:
		u.leave()
		return
	case first:
		c.exits.Spoke(true)
	}
	u.pipe()
}

// pipe passes on all that comes.
func (u *upstream) pipe() {
	if err := u.in.pass(u.c.client, 0, &framing{kind: untilEnd}); err != nil {
		u.c.kill()
		return
	}
	_ = u.c.client.CloseWrite()
}

// becomes has all that the client still says go to u, and passes on what comes.
func (u *upstream) becomes() {
	u.c.mu.Lock()
	u.c.tunnel, u.c.current = u, u
	u.c.changed.Broadcast()
	u.c.mu.Unlock()
	u.pipe()
}

// forget lets no request go to the upstream any more. c.mu is held since it was
// seen that none is there.
func (u *upstream) forget() {
	if u.c.ups[u.holder] == u {
		delete(u.c.ups, u.holder)
	}
}

// leave ends the connection of a forgotten upstream.
func (u *upstream) leave() {
	_ = u.conn.CloseWrite()
	_ = u.conn.Close()
}

// A copied gets a copy of what its client says. That it takes no more is no matter of
// the client's, and its end is seen by who reads from it.
type copied struct{ Conn }

func (c copied) Write(b []byte) (int, error) {
	_, _ = c.Conn.Write(b)
	return len(b), nil
}

// part ends a connection that gets copies. The client's next request is for another.
func (u *upstream) part() {
	c := u.c
	c.mu.Lock()
	for _, x := range u.asked {
		x.settled = true
	}
	u.asked = nil
	u.forget()
	c.changed.Broadcast()
	c.mu.Unlock()
	u.leave()
}

// parts tells whether the connection may end without its client's.
func (u *upstream) parts() bool { return u.holder != nil && u.c.exits.Deaf() }

func (u *upstream) drop() {
	u.c.mu.Lock()
	u.forget()
	u.c.mu.Unlock()
	u.leave()
}

// ended tells of the upstream's end, at which no part of an answer was left.
func (u *upstream) ended(err error) {
	c := u.c
	c.mu.Lock()
	dead, has, asked := c.dead || c.over, u.has(), len(u.asked)
	closes := c.asked && len(c.ups) == 1 // the client has ended its side, and its connection is closed next
	passes := !dead && has && asked == 0 && err == io.EOF
	switch {
	case passes:
		c.tunnel, c.current = u, u
		c.changed.Broadcast()
	case asked == 0:
		u.forget()
	}
	c.mu.Unlock()
	switch {
	case dead, errors.Is(err, os.ErrDeadlineExceeded):
		u.leave()
	case passes && closes:
	case passes:
		_ = c.client.CloseWrite()
	case asked > 0 && u.holder != nil:
		u.fail(err)
	case asked > 0 && err == io.EOF:
		c.finish()
	case asked > 0 || has:
		c.kill()
	default:
		u.leave()
	}
}

// head reads the head of the answer to x.
func (u *upstream) head(x *exchange) (*head, error) {
	for {
		b := u.in.kept()
		if len(b) > 0 {
			if err := u.said.answer(b, x.method); err != errMore {
				return &u.said, err
			}
			if len(b) >= maxHead {
				return nil, errForeign
			}
		}
		if err := u.in.fill(); err != nil {
			if err == io.EOF && len(b) > 0 {
				err = errForeign
			}
			return nil, err
		}
	}
}

// answer passes one answer on, with the interim ones before it. It tells whether
// there may be others.
func (u *upstream) answer(x *exchange) bool {
	for {
		h, err := u.head(x)
		switch {
		case err == errForeign, err == nil && h.status == 101 && !x.upgrades:
			if u.holder != nil {
				u.fail(errForeign)
			} else {
				u.becomes()
			}
			return false
		case err != nil:
			u.ended(err)
			return false
		case h.status == 101, x.method == "CONNECT" && h.status/100 == 2:
			if u.in.pass(u.c.client, h.size, &framing{kind: noBody}) != nil {
				u.c.kill()
				return false
			}
			if x.offer != nil && h.status == 101 && strings.EqualFold(h.upgrade, "h2c") {
				u.hand(x)
				return false
			}
			u.settle(x, true)
			u.pipe()
			return false
		case h.status < 200:
			if u.in.pass(u.c.client, h.size, &framing{kind: noBody}) != nil {
				u.c.kill()
				return false
			}
			continue
		}
		return u.final(x, h)
	}
}

// final passes an answer on.
func (u *upstream) final(x *exchange, h *head) bool {
	c := u.c
	early := false // the body may never come
	if x.expects {
		c.mu.Lock()
		early = !x.sent
		c.mu.Unlock()
	}
	last := !early && u.last(x, h)
	var err error
	if last {
		err = u.in.passHead(c.client, h.size, withClose)
		h.size = 0
	}
	if err == nil {
		err = u.in.pass(c.client, h.size, &h.framing)
	}
	_, theirs := errors.AsType[writeError](err)
	switch {
	case u.parts() && x.keeps && !early && (err != nil || h.framing.kind == untilEnd || !h.keeps()):
		u.part()
		return false
	case err == errForeign && u.holder == nil:
		u.becomes()
		return false
	case err == io.ErrUnexpectedEOF && !theirs && u.holder == nil, err == nil && h.framing.kind == untilEnd:
		c.finish()
		return false
	case err != nil:
		c.kill()
		return false
	}
	u.used = true
	if early && u.holder == nil {
		u.settle(x, true)
		u.pipe()
		return false
	}
	if last || u.holder != nil && (early || !h.keeps() || !x.keeps) {
		c.finish()
		return false
	}
	u.settle(x, false)
	return true
}

// hand gives the pod's connection to who goes on in HTTP/2.
func (u *upstream) hand(x *exchange) {
	c := u.c
	c.mu.Lock()
	defer c.mu.Unlock()
	u.forget()
	u.asked = nil
	x.settled = true
	x.offer.conn, x.offer.rest = u.conn, bytes.Clone(u.in.kept())
	c.agreed, c.current = x.offer, &upstream{}
	c.changed.Broadcast()
}

// settle notes that x was answered, and whether all that follows is u's.
func (u *upstream) settle(x *exchange, tunnel bool) {
	c := u.c
	c.mu.Lock()
	defer c.mu.Unlock()
	x.settled = true
	u.asked = append(u.asked[:0], u.asked[1:]...) // in the same memory
	if tunnel {
		c.tunnel, c.current = u, u
	}
	c.changed.Broadcast()
}

// fail answers in place of a holder's debuggee that did not, or makes its
// request again where it has surely not answered because it was closing a
// connection that it had kept.
func (u *upstream) fail(err error) {
	c := u.c
	c.mu.Lock()
	x := u.asked[0]
	again := u.used && x.again != nil && len(u.asked) == 1 && errors.Is(err, io.EOF)
	c.mu.Unlock()
	if again && u.repeat(x) {
		return
	}
	if u.parts() {
		u.part()
		return
	}
	u.drop()
	c.apologise(x, u.holder, err)
}

// apologise answers in place of a holder's debuggee, with which the connection ends.
func (c *conn1) apologise(x *exchange, holder Holder, why error) {
	body := unanswered(holder, why) + "\n"
	answer := fmt.Sprintf("HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: %d\r\nConnection: close\r\n\r\n", len(body))
	if x.method != "HEAD" {
		answer += body
	}
	if _, err := io.WriteString(c.client, answer); err != nil {
		c.kill()
		return
	}
	c.finish()
}

func unanswered(holder Holder, why error) string {
	return fmt.Sprintf("mirrord: the request was offered to the debuggee of %s, which did not answer it: %v", holder.Name(), why)
}

// repeat makes a request again over a new connection to the holder, or the pod.
func (u *upstream) repeat(x *exchange) bool {
	c := u.c
	u.drop()
	next, err := c.open(u.holder, nil, nil)
	if err != nil {
		c.mu.Lock()
		next = c.ups[nil]
		c.mu.Unlock()
		if next == nil {
			if next, err = c.open(nil, nil, nil); err != nil {
				return false
			}
		}
	}
	c.mu.Lock()
	next.asked = append(next.asked, x)
	c.current = next
	u.asked = nil
	c.changed.Broadcast()
	c.mu.Unlock()
	_, _ = next.conn.Write(x.again) // an error is its reader's, too
	return true
}
