package traffic

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A connection of before is told from its next request on; nothing is kept, or
// known, while nobody asks.
func TestWatchMidway(t *testing.T) {
	w := serve(t, echo)
	w.source.Watch(false)
	c := w.client(false)
	w.do(c, "POST", "/unseen", strings.NewReader("x"))
	for range 2 {
		if !w.source.Watch(true) || w.source.Watch(true) {
			t.Error("watching is not as new as it is")
		}
		w.do(c, "POST", "/seen", strings.NewReader("hello"))
		last := w.answers(1)
		r := last[len(last)-1]
		if r.Path != "/seen" || r.Status != 200 || r.RequestBytes != 5 || r.ResponseBytes != 5 {
			t.Errorf("%+v %+v", r.Asked, r.Answered)
		}
		if got, ok := w.source.Request(r.ID, false); !ok || string(got.Request.Body) != "hello" {
			t.Errorf("%+v, %v", got, ok)
		}
		if !w.source.Watch(false) || w.source.Watched() {
			t.Error("it is still watched")
		}
		if _, ok := w.source.Request(r.ID, false); ok {
			t.Error("it is still kept")
		}
		w.do(c, "POST", "/unseen", strings.NewReader("x"))
		w.mu.Lock()
		w.events = nil
		w.mu.Unlock()
	}
}

// What is no request's beginning is waited out.
func TestMidwayWaits(t *testing.T) {
	k := newTalk(t, true)
	k.feed(client, []byte("the rest of a body"), 100)
	k.feed(server, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 100)
	k.feed(client, []byte("GET /next HTTP/1.1\r\nHost: a\r\n\r\n"), 100)
	k.feed(server, []byte("HTTP/1.1 204 No\r\n\r\n"), 100)
	if list := k.answers(1); len(list) != 1 || list[0].Path != "/next" || list[0].Status != 204 {
		t.Error(k.all())
	}
	k = newTalk(t, true)
	k.feed(client, []byte("\x00\x01\x02"), 1)
	k.end(nil)
	if len(k.events) > 0 {
		t.Errorf("of what nobody knows is told %s", k.all())
	}
}

// Who looks is slower than what is relayed: nobody waits, and what was missed
// is told.
func TestTooMuchAtOnce(t *testing.T) {
	w := serve(t, echo)
	c := w.client(false)
	k := w.source.current.Load()
	k.mu.Lock() // as if it looked at something for long
	big := strings.Repeat("x", 3*maxQueued)
	for i := range 3 {
		if got := w.do(c, "POST", fmt.Sprint("/", i, "?chunked"), io.MultiReader(strings.NewReader(big))); len(got) != len(big) {
			t.Errorf("%d bytes came back", len(got))
		}
	}
	if n := k.queued.Load(); n > maxQueued {
		t.Errorf("%d bytes wait", n)
	}
	k.mu.Unlock()
	w.until(ide.EventMissed, 1)
	w.do(c, "GET", "/after", nil)
	for n := 1; ; n++ {
		list := w.answers(n)
		if r := list[len(list)-1]; r.Path == "/after" && r.Answered != nil {
			if r.Status != 200 {
				t.Errorf("%+v", r.Answered)
			}
			break
		}
	}
	if first := w.answers(1)[0]; first.Path != "/0?chunked" || first.Status != 201 && !strings.HasPrefix(first.Error, "missed") {
		t.Errorf("%+v %+v", first.Asked, first.Answered)
	}
	for end := time.Now().Add(patience); k.queued.Load() != 0; {
		if time.Now().After(end) {
			t.Fatalf("%d bytes are counted that do not wait", k.queued.Load())
		}
	}
}

// Bytes that were skipped within a body change nothing but the body.
func TestSkippedBody(t *testing.T) {
	k := newTalk(t, false)
	k.feed(client, []byte("POST / HTTP/1.1\r\nContent-Length: 100000\r\n\r\nabc"), 1000)
	k.flow.push(record{kind: skipped, d: client, n: 50_000})
	k.flow.push(record{kind: skipped, d: client, n: 49_996})
	k.flow.look()
	k.feed(client, []byte("x"), 1)
	k.feed(server, []byte("HTTP/1.1 200 OK\r\n\r\nabc"), 1000)
	k.flow.push(record{kind: skipped, d: server, n: 7})
	k.end(nil)
	r := k.answers(1)[0]
	if r.Status != 200 || r.RequestBytes != 100_000 || r.ResponseBytes != 10 || r.Error != "" {
		t.Errorf("%+v", r.Answered)
	}
	x := k.flow.w.store.get(r.ID)
	if string(x.request.body) != "abc" || !x.request.truncated || string(x.response.body) != "abc" || !x.response.truncated {
		t.Errorf("%q and %q are kept", x.request.body, x.response.body)
	}
}

// Of a body that is not kept no copies are made.
func TestNeedlessBody(t *testing.T) {
	k := newTalk(t, false)
	const size = 1 << 30
	k.feed(client, fmt.Appendf(nil, "POST / HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", size, strings.Repeat("x", maxBody)), 1<<20)
	if got := k.flow.needless[client].Load(); got != k.flow.talk.offset[client]+size-maxBody {
		t.Errorf("needless up to %d", got)
	}
	piece := make([]byte, 1<<20)
	for left := int64(size - maxBody); left > 0; left -= int64(len(piece)) {
		piece = piece[:min(left, int64(len(piece)))]
		k.feed(client, piece, len(piece))
		if n := k.flow.w.queued.Load(); n > 0 {
			t.Fatalf("%d bytes wait", n)
		}
	}
	k.feed(server, []byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"), 100)
	if r := k.answers(1)[0]; r.Status != 200 || r.RequestBytes != size {
		t.Errorf("%+v", r.Answered)
	}
}

// What comes in no order that is known is bounded.
func TestManyRecords(t *testing.T) {
	k := newTalk(t, false)
	k.feed(client, []byte("GET / HTTP/1.1\r\n\r\n"), 100)
	for range 10 * maxRecords {
		k.flow.push(record{kind: skipped, d: client, n: 1})
		k.flow.push(record{kind: skipped, d: server, n: 2})
	}
	if n := len(k.flow.records); n > maxRecords+2 {
		t.Errorf("%d records", n)
	}
	k.flow.look()
	if k.flow.talk.bytes[client] != 18+10*maxRecords || k.flow.talk.bytes[server] != 20*maxRecords {
		t.Errorf("counted %v", k.flow.talk.bytes)
	}
	if r := k.answers(1)[0]; r.Status != 0 || r.Error == "" {
		t.Errorf("%+v", r.Answered)
	}
}

// The last requests are kept, as far as there is room.
func TestStore(t *testing.T) {
	k := newTalk(t, false)
	ask := func(i, size int) {
		body := strings.Repeat("x", size)
		k.feed(client, fmt.Appendf(nil, "POST /%d HTTP/1.1\r\nContent-Length: %d\r\n\r\n%s", i, size, body), 1<<20)
		k.feed(server, fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size, body), 1<<20)
	}
	for i := range maxExchanges + 50 {
		ask(i, 10)
	}
	s := &k.flow.w.store
	if len(s.last) != maxExchanges || s.last[0].path != "/50" || s.get(s.last[0].id) != s.last[0] || s.get(1) != nil {
		t.Errorf("%d are kept, from %s on", len(s.last), s.last[0].path)
	}
	for i := range maxExchanges {
		ask(i, maxBody)
	}
	sum := 0
	for _, x := range s.last {
		sum += x.size
	}
	if last := s.last[len(s.last)-1]; s.size > maxStored || s.size < maxStored-2*maxBody || sum != s.size || len(last.response.body) != maxBody || last.response.truncated {
		t.Errorf("%d bytes are kept, counted %d", sum, s.size)
	}
	if len(s.last) >= maxExchanges {
		t.Errorf("%d are kept", len(s.last))
	}
	// One that is evicted while it comes is still told.
	k.feed(client, []byte("POST /slow HTTP/1.1\r\nContent-Length: 10\r\n\r\n"), 1<<20)
	for len(s.last) > 0 {
		s.evict()
	}
	k.feed(client, []byte("0123456789"), 1<<20)
	k.feed(server, []byte("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: 2\r\n\r\nok"), 1<<20)
	list := k.answers(1)
	if r := list[len(list)-1]; r.Path != "/slow" || r.Status != 200 || r.RequestBytes != 10 || r.ResponseBytes != 2 || s.size != 0 {
		t.Errorf("%+v, %d bytes", r.Answered, s.size)
	}
}

// More connections than are watched are relayed all the same.
func TestManyConnections(t *testing.T) {
	w := newSource(t)
	w.source.Watch(true)
	var all []*Incoming
	for range maxFlows + 1 {
		in := w.source.Incoming(port, true, netip.MustParseAddrPort("10.1.2.3:4711"))
		in.Answered(nil)
		all = append(all, in)
	}
	w.until(ide.EventMissed, 1)
	all[maxFlows].Receives([]byte("GET / HTTP/1.1\r\n\r\n"))
	all[maxFlows].Ended(nil)
	all[0].Receives([]byte("GET / HTTP/1.1\r\n\r\n"))
	all[0].Ended(nil)
	if list := w.answers(1); len(list) != 1 || !list[0].Mirror || list[0].Peer != "10.1.2.3:4711" {
		t.Error(w.all())
	}
	in := w.source.Incoming(port, true, netip.AddrPort{})
	in.Answered(nil)
	in.Receives([]byte("GET / HTTP/1.1\r\n\r\n"))
	w.until(ide.EventRequest, 2) // there is room again
}

// answer makes a resolver's answer of a name's addresses.
func answer(t *testing.T, name string, addrs ...string) []byte {
	t.Helper()
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{Response: true})
	n := dnsmessage.MustNewName(name)
	alias := dnsmessage.MustNewName("alias.example.")
	err := b.StartQuestions()
	must := func(next error) {
		if err == nil {
			err = next
		}
	}
	must(b.Question(dnsmessage.Question{Name: n, Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}))
	must(b.StartAnswers())
	must(b.CNAMEResource(dnsmessage.ResourceHeader{Name: n, Class: dnsmessage.ClassINET}, dnsmessage.CNAMEResource{CNAME: alias}))
	for _, a := range addrs {
		ip := netip.MustParseAddr(a)
		if ip.Is4() {
			must(b.AResource(dnsmessage.ResourceHeader{Name: alias, Class: dnsmessage.ClassINET}, dnsmessage.AResource{A: ip.As4()}))
		} else {
			must(b.AAAAResource(dnsmessage.ResourceHeader{Name: alias, Class: dnsmessage.ClassINET}, dnsmessage.AAAAResource{AAAA: ip.As16()}))
		}
	}
	msg, last := b.Finish()
	must(last)
	if err != nil {
		t.Fatal(err)
	}
	return msg
}

func TestOutgoing(t *testing.T) {
	w := newSource(t)
	resolver := w.source.Outgoing("udp", netip.MustParseAddrPort("10.96.0.10:53"), 0)
	resolver.Receives(answer(t, "inventory.shop.svc.cluster.local.", "10.96.0.12", "fd00::12")) // learnt while nobody asks
	old := w.source.Outgoing("tcp", netip.MustParseAddrPort("10.96.0.13:80"), 0)
	old.Answered(nil)
	old.Receives([]byte("unseen"))
	w.source.Watch(true)

	self := uint32(unix.Gettid())
	o := w.source.Outgoing("tcp", netip.MustParseAddrPort("[::ffff:10.96.0.12]:80"), self)
	o.Answered(nil)
	first := w.until(ide.EventOutgoing, 1)[0].Outgoing
	if first.Name != "inventory.shop.svc.cluster.local" || first.Address != "10.96.0.12:80" || first.Proto != "tcp" || first.PID != os.Getpid() || first.Ended || first.Error != "" {
		t.Errorf("%+v", first)
	}
	o.Sends([]byte("hello"))
	o.Receives([]byte("hi"))
	o.Receives(nil)
	o.Ended(nil)
	o.Ended(net.ErrClosed)
	last := w.until(ide.EventOutgoing, 2)[1].Outgoing
	if last.ID != first.ID || !last.Ended || last.BytesIn != 2 || last.BytesOut != 5 || last.PID != os.Getpid() || last.Error != "" {
		t.Errorf("%+v", last)
	}
	old.Receives([]byte("seen"))
	old.Ended(protocol.ErrReset)
	if e := w.until(ide.EventOutgoing, 3)[2].Outgoing; !e.Ended || e.BytesIn != 4 || e.Error != "ECONNRESET" || e.Name != "" || e.ID == first.ID {
		t.Errorf("%+v", e)
	}
	refused := w.source.Outgoing("tcp", netip.MustParseAddrPort("[fd00::12]:80"), 1<<30)
	refused.Answered(fmt.Errorf("connecting: %w", syscall.ECONNREFUSED))
	refused.Ended(nil)
	if e := w.until(ide.EventOutgoing, 4)[3].Outgoing; !e.Ended || e.Error != "ECONNREFUSED" || e.Name != "inventory.shop.svc.cluster.local" || e.PID != 1<<30 {
		t.Errorf("%+v", e)
	}
	w.source.Watch(false)
	w.source.Watch(true)
	w.source.Outgoing("tcp", netip.MustParseAddrPort("10.96.0.14:80"), 0).Answered(nil)
	if list := w.until(ide.EventOutgoing, 5); len(list) != 5 || list[4].Outgoing.Address != "10.96.0.14:80" {
		t.Error(w.all())
	}
}

func TestNames(t *testing.T) {
	var n names
	whole := answer(t, "a.example.", "10.0.0.1")
	for i := range whole {
		n.learn(whole[:i])
	}
	if len(n.by) > 0 {
		t.Errorf("half an answer was believed: %v", n.by)
	}
	n.learn(whole)
	n.learn(answer(t, "b.example.", "10.0.0.1", "10.0.0.2"))
	if n.of(netip.MustParseAddr("::ffff:10.0.0.1")) != "b.example" || n.of(netip.MustParseAddr("10.0.0.2")) != "b.example" || n.of(netip.MustParseAddr("10.0.0.3")) != "" {
		t.Errorf("%v", n.by)
	}
	for i := range 2 * maxNames {
		n.put(netip.AddrFrom4([4]byte{10, 1, byte(i >> 8), byte(i)}), "x")
	}
	if len(n.by) > maxNames {
		t.Errorf("%d names", len(n.by))
	}
}

// Openings of one path are told as one, and those of many up to a limit.
func TestFiles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSource(t)
		w.source.File(Opening{Path: "/unseen"})
		w.source.Watch(true)
		for range 10 {
			w.source.File(Opening{Path: "/a", Bytes: 5, Thread: 1 << 30})
			w.source.File(Opening{Path: "/a", Err: syscall.ENOENT})
		}
		w.source.File(Opening{Path: "/dir", List: true, Count: 3})
		synctest.Wait()
		told := func() string {
			var list []string
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, e := range w.events {
				if f := e.File; f == nil {
					list = append(list, e.Kind)
				} else {
					list = append(list, strings.TrimSpace(fmt.Sprint(f.Op, " ", f.Path, " ", f.Bytes, " ", f.Count, " ", f.Error)))
				}
			}
			w.events = nil
			return strings.Join(list, ", ")
		}
		if got := told(); got != "open /a 5 0, open /a 0 0 ENOENT, list /dir 0 3" {
			t.Errorf("at once: %s", got)
		}
		time.Sleep(joinTime + joinTime/2)
		got := told()
		if got != "open /a 5 9, open /a 0 9 ENOENT" && got != "open /a 0 9 ENOENT, open /a 5 9" {
			t.Errorf("after that: %s", got)
		}
		time.Sleep(3 * joinTime)
		if got := told(); got != "" {
			t.Errorf("then: %s", got)
		}
		for _, process := range []uint32{1 << 30, 1<<30 + 1} { // none is of that number
			w.source.File(Opening{Path: "/b", Thread: process})
		}
		synctest.Wait()
		if got := told(); got != "open /b 0 0, open /b 0 0" {
			t.Errorf("by two processes: %s", got)
		}
		w.source.File(Opening{Path: "/a"})
		w.source.File(Opening{Path: "/a"})
		w.source.Close() // tells what is left
		synctest.Wait()
		if got := told(); got != "open /a 0 0" && got != "open /a 0 0, open /a 0 0" {
			t.Errorf("again: %s", got)
		}
		w.source.File(Opening{Path: "/a"})
		if w.source.Watch(true) {
			t.Error("it is watched after its end")
		}
	})
	w := newSource(t)
	w.source.Watch(true)
	for i := range 2 * maxJoined {
		w.source.File(Opening{Path: fmt.Sprint("/", i)})
	}
	w.until(ide.EventMissed, 1)
}

// A debuggee's connections end after what they said has been looked at.
func TestClose(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	w.do(w.client(false), "GET", "/", nil)
	w.source.Close()
	if r := w.answers(1)[0]; r.Status != http.StatusTeapot {
		t.Errorf("%+v", r.Answered)
	}
}
