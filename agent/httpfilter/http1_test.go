package httpfilter

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

const (
	plain  = "GET /a HTTP/1.1\r\nhost: x\r\n\r\n"
	stolen = "GET /b HTTP/1.1\r\nX-USER:  alice\t\r\nHost: x\r\n\r\n"
	ok     = "HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\nok"
	mine   = "HTTP/1.1 200 Fine\r\nContent-Length: 4\r\n\r\nmine"
	end    = ""
)

// What goes through passes byte by byte, wherever it goes.
func TestConversations(t *testing.T) {
	const (
		post     = "POST /c HTTP/1.1\r\nContent-Length: 5\r\n\r\nwords"
		chunks   = "POST /d HTTP/1.1\r\nX-User: alice\r\nTransfer-Encoding: Chunked\r\n\r\n5;a=\"b\"\r\nwords\r\n00\r\nX-End: 1\r\n\r\n"
		answered = "HTTP/1.1 103 Early\r\nLink: x\r\n\r\nHTTP/1.1 200 \r\nTransfer-Encoding: chunked\r\n\r\nA\r\n0123456789\r\n0\r\n\r\n"
		upgrade  = "GET /ws HTTP/1.1\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
		switched = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
		head     = "HEAD / HTTP/1.1\r\n\r\n"
		headed   = "HTTP/1.1 200 OK\r\nContent-Length: 77\r\n\r\n"
		expects  = "POST /e HTTP/1.1\r\nX-User: alice\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
		goOn     = "HTTP/1.1 100 Continue\r\n\r\n"
		closing  = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok"
		endless  = "HTTP/1.0 200 OK\r\n\r\nto the end"
		connect  = "CONNECT a:1 HTTP/1.1\r\n\r\n"
		failed   = "HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: "
	)
	for name, c := range map[string]struct{ client, pod, alice []string }{
		"pod's":              {[]string{plain, ok, post, ok, end}, []string{plain, ok, post, ok, end}, nil},
		"pipelined":          {[]string{plain + post + stolen + plain, ok + ok + mine + ok, end}, []string{plain + post, ok + ok, plain, ok, end}, []string{stolen, mine, end}},
		"chunks":             {[]string{chunks, answered, stolen, mine, end}, nil, []string{chunks, answered, stolen, mine, end}},
		"head":               {[]string{head, headed, plain, ok, end}, []string{head, headed, plain, ok, end}, nil},
		"no content":         {[]string{plain, "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", plain, ok, end}, []string{plain, "HTTP/1.1 304 No\r\nContent-Length: 9\r\n\r\n", plain, ok, end}, nil},
		"continue":           {[]string{expects, goOn, "words", mine, end}, nil, []string{expects, goOn, "words", mine, end}},
		"no continue":        {[]string{expects, mine, end}, nil, []string{expects, mine, end}},
		"continue for pod":   {[]string{strings.Replace(expects, "alice", "bob", 1), ok, stolen, ok, end}, []string{strings.Replace(expects, "alice", "bob", 1), ok, stolen, ok, end}, nil},
		"websocket to pod":   {[]string{upgrade + "\r\n", switched, stolen, "\x00words", end}, []string{upgrade + "\r\n", switched, stolen, "\x00words", end}, nil},
		"websocket to alice": {[]string{plain, ok, upgrade + "x-user: alice\r\n\r\n", switched, plain, "\x00words", end}, []string{plain, ok, end}, []string{upgrade + "x-user: alice\r\n\r\n", switched, plain, "\x00words", end}},
		"upgrade refused":    {[]string{upgrade + "\r\n", ok, stolen, mine, end}, []string{upgrade + "\r\n", ok, end}, []string{stolen, mine, end}},
		"tunnel":             {[]string{connect, headed, stolen, "xx", end}, []string{connect, headed, stolen, "xx", end}, nil},
		"alice closes":       {[]string{stolen, closing, end}, nil, []string{stolen, closing, end}},
		"alice endless":      {[]string{stolen, endless, end}, nil, []string{stolen, endless}},
		"pod endless":        {[]string{plain, endless, end}, []string{plain, endless}, nil},
		"pod closes":         {[]string{stolen, mine, plain, closing, end}, []string{plain, closing}, []string{stolen, mine, end}},
		"alice fails":        {[]string{stolen, failed}, nil, []string{stolen}},
		"alice is no server": {[]string{stolen, failed}, nil, []string{stolen, "SSH-2.0-x\r\n"}},
		"alice stops midway": {[]string{stolen, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"}, nil, []string{stolen, "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal"}},
		"pod is no server":   {[]string{plain, "SSH-2.0-x\r\n", stolen, "xx", end}, []string{plain, "SSH-2.0-x\r\n", stolen, "xx", end}, nil},
		"pod first":          {[]string{"", "220 hello\r\n", stolen, "250 go on\r\n", end}, []string{"", "220 hello\r\n", stolen, "250 go on\r\n", end}, nil},
		"late words of pod":  {[]string{plain, ok + "HTTP/1.1 408 Late\r\n\r\n", stolen, "xx", end}, []string{plain, ok + "HTTP/1.1 408 Late\r\n\r\n", stolen, "xx", end}, nil},
		"no words":           {[]string{end}, []string{end}, nil},
		"half a head":        {[]string{"GET / HTT", end}, []string{"GET / HTT", end}, nil},
		"TLS":                {[]string{"\x16\x03\x01", "\x16", stolen, "xx", end}, []string{"\x16\x03\x01", "\x16", stolen, "xx", end}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := &world{pod: scripted(t, "pod", "", c.pod), holders: []*place{scripted(t, "alice", "alice", c.alice)}}
			conn := w.client(t)
			for i, words := range c.client {
				switch {
				case i%2 == 1:
					expect(t, "client", conn, words)
				case words == end && i == len(c.client)-1:
					if err := conn.CloseWrite(); err != nil {
						t.Fatal(err)
					}
					expect(t, "client", conn, end)
				case words != "":
					say(t, conn, words)
				}
			}
		})
	}
}

// scripted is a place that takes one connection, or none where it has no words.
func scripted(t *testing.T, name, wants string, words []string) *place {
	p := script(t, name, wants, words...)
	serve := p.serve
	p.serve = func(c *duplex) {
		if words == nil || p.taken.Load() > 1 {
			t.Errorf("connection %d to %s", p.taken.Load(), name)
			c.Close()
			return
		}
		if words[0] == "" && len(words) > 1 { // it speaks first
			say(t, c, words[1])
			words = words[2:]
			script(t, name, wants, words...).serve(c)
			return
		}
		serve(c)
	}
	return p
}

// What two readers could see two requests in is the pod's from there on.
func TestSmuggling(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nX-User: alice\r\n\r\n"
	for _, attack := range []string{
		"POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 9\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: 0, 0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: +0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: 0x0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length : 9\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nContent-Length: \r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: xchunked\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding:\x0bchunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding\r\n : chunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nX: y\r\n Transfer-Encoding: chunked\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nX: y\nContent-Length: 9\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nX: y\rContent-Length: 9\r\n\r\n" + hidden,
		"POST / HTTP/1.1\n\n" + hidden,
		"POST / HTTP/1.1\r\nX: \x00\r\n\r\n" + hidden,
		"POST /\tx HTTP/1.1\r\n\r\n" + hidden,
		"POST / x HTTP/1.1\r\n\r\n" + hidden,
		"POST / HTTP/1.2\r\n\r\n" + hidden,
		"\r\nPOST / HTTP/1.1\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5 \r\nwords\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nwords\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\nwords\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5;a\nx\r\nwords\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwordsX\r\n0\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\r\n\r\n" + hidden,
		"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + strings.Repeat("0", 16) + "5\r\nwords\r\n0\r\n\r\n" + hidden,
		"GET / HTTP/1.1\r\nX: " + strings.Repeat("x", maxHead) + "\r\n\r\n" + hidden,
	} {
		name := attack[:min(len(attack), 70)]
		w := &world{pod: script(t, "pod", "", plain, ok, attack, "", end), holders: []*place{web(t, "alice's", "alice")}}
		c := w.client(t)
		say(t, c, plain)
		expect(t, name, c, ok)
		say(t, c, attack)
		_ = c.CloseWrite()
		expect(t, name, c, end)
		if w.holders[0].taken.Load() > 0 {
			t.Errorf("%q got through to the holder", name)
		}
	}
}

// What a holder does not take is the pod's.
func TestRefused(t *testing.T) {
	w := &world{pod: web(t, "pod", ""), holders: []*place{{name: "alice", wants: "alice", no: errors.New("gone")}}}
	c := w.client(t)
	for range 2 {
		say(t, c, stolen)
		expect(t, "client", c, "HTTP/1.1 200 OK\r\n")
		readTo(t, c, "pod /b \r\n0\r\nX-End: \r\n\r\n")
	}
	if n := w.holders[0].taken.Load(); n != 2 {
		t.Errorf("the holder was asked %d times", n)
	}
}

func readTo(t *testing.T, r io.Reader, words string) {
	t.Helper()
	var got strings.Builder
	for b := make([]byte, 1); !strings.HasSuffix(got.String(), words); {
		if _, err := r.Read(b); err != nil {
			t.Fatalf("%q, then %v", got.String(), err)
		}
		got.Write(b)
	}
}

// A debuggee that ends a connection that it had kept, just as a request comes,
// gets it once more over another; one with a body is answered for.
func TestKeptTooLong(t *testing.T) {
	const post = "POST /b HTTP/1.1\r\nX-User: alice\r\nContent-Length: 1\r\n\r\nx"
	for request, want := range map[string]string{stolen: mine, post: "HTTP/1.1 502 Bad Gateway\r\n"} {
		alice := &place{name: "alice", wants: "alice"}
		alice.serve = func(c *duplex) {
			defer c.Close()
			expect(t, "alice", c, request)
			if alice.taken.Load() == 1 {
				say(t, c, mine)
				expect(t, "alice", c, request)
				return
			}
			say(t, c, mine)
			expect(t, "alice", c, end)
		}
		w := &world{pod: web(t, "pod", ""), holders: []*place{alice}}
		c := w.client(t)
		say(t, c, request)
		expect(t, "client", c, mine)
		say(t, c, request)
		expect(t, "client", c, want)
		if want == mine {
			_ = c.CloseWrite()
			expect(t, "client", c, end)
		} else {
			readTo(t, c, "the debuggee of alice, which did not answer it: EOF\n")
		}
	}
}

// A copy goes on where the debuggee ends its connection: its client's have nothing to
// do with that.
func TestDebuggeeEndsACopy(t *testing.T) {
	const request = "POST /c HTTP/1.1\r\nX-User: alice\r\nContent-Length: 5\r\n\r\nwords"
	for name, answer := range map[string]string{
		"closing":   "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
		"endless":   "HTTP/1.0 200 OK\r\n\r\nto the end",
		"midway":    "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal",
		"none":      "",
		"no server": "SSH-2.0-x\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			heard := make(chan bool, 10)
			alice := &place{name: "alice", wants: "alice", serve: func(c *duplex) {
				defer c.Close()
				expect(t, "alice", c, request)
				heard <- true
				say(t, c, answer)
			}}
			w := &world{deaf: true, pod: web(t, "pod", ""), holders: []*place{alice}}
			c := w.client(t)
			go func() { _, _ = io.Copy(io.Discard, c) }()
			const n = 3
			for range n {
				say(t, c, request+request+plain)
			}
			for range 2 * n {
				select {
				case <-heard:
				case <-time.After(30 * time.Second):
					t.Fatalf("only %d requests come", alice.taken.Load())
				}
			}
		})
	}
}

// A body decides where it must, and passes unchanged whoever gets it.
func TestBodyDecides(t *testing.T) {
	const head = "POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
	const one, other = head + "3\r\ndeb\r\n2\r\nug\r\n0\r\n\r\n", head + "3\r\nwor\r\n2\r\nds\r\n0\r\n\r\n"
	large := head + "11000\r\n" + strings.Repeat("debugging", 0x11000/9+1)[:0x11000] + "\r\n0\r\n\r\n"
	w := &world{
		pod:     script(t, "pod", "", other, ok, large, ok, end),
		holders: []*place{script(t, "alice", "", one, mine, plain, "", end)},
	}
	w.holders[0].serve = script(t, "alice", "", one, mine, end).serve
	c := w.client(t)
	for _, exchange := range [][2]string{{one, mine}, {other, ok}, {large, ok}} {
		say(t, c, exchange[0])
		expect(t, "client", c, exchange[1])
	}
	_ = c.CloseWrite()
	expect(t, "client", c, end)
}

// A body that comes at once, if not with its head, goes along with it; of others
// nothing is waited for, once the holder has a connection.
func TestBodyAlong(t *testing.T) {
	const head, body = "POST / HTTP/1.1\r\nX-User: alice\r\nContent-Length: 5\r\n\r\n", "words"
	for name, pause := range map[string]time.Duration{"at once": 0, "late": 2 * alongTime} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := scripted(t, "alice", "alice", []string{head + body, mine, head, "HTTP/1.1 100 Continue\r\n\r\n", body, mine, end})
				w := &world{pod: scripted(t, "pod", "", nil), holders: []*place{alice}}
				c := w.client(t)
				say(t, c, head)
				time.Sleep(pause)
				say(t, c, body)
				expect(t, "client", c, mine)
				want := head
				if pause == 0 {
					want += body
				}
				if got := alice.first.Load(); got != want {
					t.Errorf("%q went along, not %q", got, want)
				}
				began := time.Now()
				say(t, c, head)
				expect(t, "client", c, "HTTP/1.1 100 Continue\r\n\r\n")
				say(t, c, body)
				expect(t, "client", c, mine)
				if took := time.Since(began); took != 0 {
					t.Errorf("another took %v", took)
				}
				_ = c.CloseWrite()
				expect(t, "client", c, end)
				synctest.Wait()
			})
		})
	}
}

// Whose body will never be known is no holder's that chooses by it, but another's that
// knows it otherwise.
func TestBodyNotKnown(t *testing.T) {
	const rest = "\r\nX-User: bob\r\n"
	large := strings.Repeat("debug", maxBody/5+1)
	for name, words := range map[string]struct{ at, later string }{
		"too large":          {fmt.Sprintf("Content-Length: %d%s\r\n%s", len(large), rest, large), ""},
		"large, and no more": {fmt.Sprintf("Content-Length: %d%s\r\n", len(large), rest), large},
		"chunks":             {fmt.Sprintf("Transfer-Encoding: chunked%s\r\n%x\r\n%s\r\n0\r\n\r\n", rest, len(large), large), ""},
		"asked for":          {"Content-Length: 5\r\nExpect: 100-continue" + rest + "\r\n", "debug"},
		"gRPC-Web":           {"Content-Length: 5\r\nContent-Type: application/grpc-web" + rest + "\r\n", "debug"},
		"slow":               {"Content-Length: 5" + rest + "\r\n", "debug"},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := "POST /e HTTP/1.1\r\n" + words.at
				bob := []string{begin, ok, end}
				if words.later != "" {
					bob = []string{begin, "HTTP/1.1 100 Continue\r\n\r\n", words.later, ok, end}
				}
				w := &world{pod: scripted(t, "pod", "", nil), holders: []*place{scripted(t, "alice", "", nil), scripted(t, "bob", "bob", bob)}}
				c := w.client(t)
				began := time.Now()
				say(t, c, begin)
				if words.later != "" {
					expect(t, "client", c, bob[1])
					say(t, c, words.later)
				}
				expect(t, "client", c, ok)
				var want time.Duration
				if words.later != "" && name != "asked for" { // it might have gone along
					want = alongTime
				}
				if name == "slow" {
					want += bodyTime
				}
				if took := time.Since(began); took != want {
					t.Errorf("it took %v, not %v", took, want)
				}
				_ = c.CloseWrite()
				expect(t, "client", c, end)
				synctest.Wait()
			})
		})
	}
}

// A path is the same in each form of a target, which passes as it was.
func TestPath(t *testing.T) {
	for target, want := range map[string]string{
		"/orders": "/orders", "/orders?id=http://shop/": "/orders?id=http://shop/", "http://shop/orders": "/orders",
		"HTTPS://a:b@shop:80/orders?id=7": "/orders?id=7", "http://shop": "/", "http://shop?id=/7": "/?id=/7", "*": "*", "shop:443": "shop:443",
		"//shop/orders": "//shop/orders", "/a://b/c": "/a://b/c", "://": "/",
	} {
		if got := path(target); got != want {
			t.Errorf("%q has the path %q, not %q", target, got, want)
		}
	}
	const request = "GET http://shop/orders HTTP/1.1\r\nHost: shop\r\n\r\n"
	w := &world{pod: scripted(t, "pod", "", nil), holders: []*place{scripted(t, "alice", "/orders", []string{request, mine, end})}}
	c := w.client(t)
	say(t, c, request)
	expect(t, "client", c, mine)
	_ = c.CloseWrite()
	expect(t, "client", c, end)
}

// A head as large as may be is chosen by its last field.
func TestLargestHead(t *testing.T) {
	const rest = "GET /b HTTP/1.1\r\nX: \r\nX-User: alice\r\n\r\n"
	request := strings.Replace(rest, "X: ", "X: "+strings.Repeat("x", maxHead-len(rest)), 1)
	w := &world{pod: scripted(t, "pod", "", nil), holders: []*place{script(t, "alice", "alice", request, mine, end)}}
	c := w.client(t)
	say(t, c, request)
	expect(t, "client", c, mine)
	_ = c.CloseWrite()
	expect(t, "client", c, end)
}

// What frames a body has bounds: beyond them it is the pod's as it is, and no
// holder's any more.
func TestEndlessFraming(t *testing.T) {
	const head = "POST /d HTTP/1.1\r\nX-User: alice\r\nTransfer-Encoding: chunked\r\n\r\n"
	for name, words := range map[string]string{
		"extension": "5;" + strings.Repeat("x", maxExtra),
		"trailer":   "0\r\nX: " + strings.Repeat("x", maxTrailer),
		"trailers":  "0\r\n" + strings.Repeat("X: y\r\n", maxTrailer/5+1),
	} {
		for _, user := range []string{"alice", "bob"} {
			request := strings.Replace(head, "alice", user, 1) + words
			pod, alice := []string{request, ok, stolen, "xx", end}, []string(nil)
			if user == "alice" {
				pod = nil
			}
			w := &world{pod: scripted(t, "pod", "", pod), holders: []*place{{name: "alice", wants: "alice", serve: func(c *duplex) {
				defer c.Close()
				_, _ = io.Copy(io.Discard, c)
			}}}}
			if user == "bob" {
				w.holders[0] = scripted(t, "alice", "alice", alice)
			}
			c := w.client(t)
			if user == "alice" {
				_, _ = io.WriteString(c, request) // its end may not be read
				expect(t, name, c, end)
				continue
			}
			say(t, c, request)
			expect(t, name, c, ok)
			say(t, c, stolen)
			expect(t, name, c, "xx")
			_ = c.CloseWrite()
			expect(t, name, c, end)
		}
	}
}

// A client that says a byte in a second is the pod's after a few, with all that it
// has said and will say.
func TestSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pod := &place{name: "pod", serve: func(c *duplex) {
			defer c.Close()
			expect(t, "pod", c, stolen)
			say(t, c, ok)
			expect(t, "pod", c, end)
		}}
		w := &world{pod: pod, holders: []*place{scripted(t, "alice", "alice", nil)}}
		c := w.client(t)
		_ = c.SetDeadline(time.Time{}) // it takes longer
		for i := range stolen {
			if n := w.pod.taken.Load(); n != 0 && time.Duration(i)*time.Second < headTime || n == 0 && time.Duration(i-1)*time.Second > headTime {
				t.Errorf("the pod has %d connections after %d bytes", n, i)
			}
			say(t, c, stolen[i:i+1])
			time.Sleep(time.Second)
		}
		expect(t, "client", c, ok)
		_ = c.CloseWrite()
		expect(t, "client", c, end)
	})
}
