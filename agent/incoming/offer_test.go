package incoming

import (
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// offered steals a port for a holder that gets each stream to it.
func offered(t *testing.T, in *Incoming, q protocol.Steal) (s *Steal, streams <-chan net.Conn) {
	list := make(chan net.Conn, 1)
	s = steal(t, in, q, holder(func() (net.Conn, error) {
		theirs, ours := newStream()
		_ = theirs.SetDeadline(time.Now().Add(30 * time.Second))
		list <- theirs
		return ours, nil
	}))
	return s, list
}

// An outcome is what becomes of an offer of which the first words came.
type outcome struct {
	end    func(*testing.T, *Steal, net.Conn) // nil: it is taken
	unsure bool                               // the debuggee may have had them
}

// outcomes are all that an offer may come to.
var outcomes = map[string]outcome{
	"taken":   {},
	"refused": {end: func(_ *testing.T, _ *Steal, stream net.Conn) { decline(stream) }},
	"silent":  {end: func(_ *testing.T, s *Steal, _ net.Conn) { s.Suspend(Paused) }, unsure: true},
	"cut":     {end: func(_ *testing.T, _ *Steal, stream net.Conn) { stream.Close() }, unsure: true},
	"absent":  {end: func(_ *testing.T, s *Steal, _ net.Conn) { s.Suspend(Absent) }, unsure: true},
	"waits, cut": {end: func(t *testing.T, _ *Steal, stream net.Conn) {
		delays(t, stream)
		stream.Close()
	}},
	"waits, refused": {end: func(t *testing.T, _ *Steal, stream net.Conn) {
		delays(t, stream)
		decline(stream)
	}},
	"granted, cut": {end: func(t *testing.T, _ *Steal, stream net.Conn) {
		delays(t, stream)
		asks(t, stream)
		stream.Close()
	}, unsure: true},
	"granted, waits, cut": {end: func(t *testing.T, _ *Steal, stream net.Conn) {
		delays(t, stream)
		asks(t, stream)
		delays(t, stream)
		stream.Close()
	}},
}

// delays says that an offer has to wait.
func delays(t *testing.T, stream net.Conn) { respond(t, stream, protocol.IncomingReply{Waits: true}) }

// asks has a waiting offer granted.
func asks(t *testing.T, stream net.Conn) {
	t.Helper()
	respond(t, stream, protocol.IncomingReply{Asks: true})
	if had, err := protocol.ReadGranted(stream, nil); err != nil || len(had) > 0 {
		t.Fatalf("after %q: %v", had, err)
	}
}

func respond(t *testing.T, stream net.Conn, a protocol.IncomingReply) {
	t.Helper()
	if err := protocol.WriteMessage(stream, protocol.KindIncoming, a, nil); err != nil {
		t.Fatal(err)
	}
}

// says is what the stream has of the client's words, of which want is expected.
func says(t *testing.T, stream net.Conn, want string) {
	t.Helper()
	got := ""
	for buf := make([]byte, protocol.MaxChunk); len(got) < len(want); {
		n, err := protocol.ReadDatagram(stream, buf)
		if err != nil {
			t.Fatalf("after %d bytes: %v", len(got), err)
		}
		got += string(buf[:n])
	}
	if got != want {
		t.Errorf("%d bytes came, which are not what was said: %.20q", len(got), got)
	}
}

// What a client says first comes with the offer, or follows: no answer is waited
// for. Whoever has it takes the rest, and the pod has all of it where it is refused.
func TestFirstWords(t *testing.T) {
	long := strings.Repeat("many words ", 4*maxAhead/11)
	for _, test := range []struct {
		name, first, rest string
		late              bool // said when the offer is out
	}{
		{name: "with the offer", first: "hello"},
		{name: "after it", first: "hello", late: true},
		{name: "and others later", first: "hello", rest: long},
		{name: "more than goes along", first: long, rest: "bye"},
	} {
		for _, taken := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, taken: %v", test.name, taken), func(t *testing.T) {
				in, port := newTest(t), echo(t)
				_, streams := offered(t, in, protocol.Steal{Port: port})
				c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
				say := func(words string) {
					if _, err := io.WriteString(c, words); err != nil {
						t.Error(err)
					}
				}
				if !test.late {
					say(test.first)
				}
				stream := unanswered(t, streams)
				if test.late {
					say(test.first)
				}
				ahead := test.first[:min(len(test.first), maxAhead)]
				says(t, stream, ahead)
				if taken {
					take(t, stream)
				} else {
					decline(stream)
				}
				go func() {
					say(test.rest)
					_ = c.CloseWrite()
				}()
				if taken {
					says(t, stream, test.first[len(ahead):]+test.rest)
					if n, err := protocol.ReadDatagram(stream, make([]byte, protocol.ChunkHead)); n != 0 || err != nil {
						t.Errorf("%d bytes at the end, %v", n, err)
					}
					stream.Close()
					return
				}
				if b, err := io.ReadAll(c); err != nil || string(b) != test.first+test.rest {
					t.Errorf("the pod echoes %d bytes, %v", len(b), err)
				}
			})
		}
	}
}

// Where the link is cut before the answer, the debuggee may have had the first words:
// the pod gets them, too, only if that does no harm.
func TestFirstWordsAreUnsure(t *testing.T) {
	for words, harmless := range map[string]bool{
		"hello":                               false,
		"":                                    true,
		"GET / HTTP/1.1\r\n\r\n":              true,
		"GET / HTTP/1.1\r\n":                  false, // a body may follow
		"POST / HTTP/1.1\r\n\r\n":             false,
		"GET / HTTP/1.1\r\n\r\nPOST / HTTP/1": false,
		"\x16\x03\x01 hello":                  true, // as TLS begins
	} {
		t.Run(fmt.Sprintf("%q", words), func(t *testing.T) {
			in, port := newTest(t), echo(t)
			_, streams := offered(t, in, protocol.Steal{Port: port})
			c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			if _, err := io.WriteString(c, words); err != nil {
				t.Fatal(err)
			}
			stream := unanswered(t, streams)
			says(t, stream, words)
			stream.Close()
			if harmless {
				_ = c.CloseWrite()
			}
			if b, err := io.ReadAll(c); harmless != (err == nil) || err == nil && string(b) != words {
				t.Errorf("the client gets %q, %v", b, err)
			}
		})
	}
}

// Over a link that seems to be cut what is offered waits from the beginning, and is the
// pod's until it was granted.
func TestFirstWordsOverASilentLink(t *testing.T) {
	in, port := newTest(t), echo(t)
	streams := make(chan net.Conn, 1)
	s := steal(t, in, protocol.Steal{Port: port}, deaf{holder(func() (net.Conn, error) {
		theirs, ours := newStream()
		streams <- theirs
		return ours, nil
	})})
	for granted := range 2 {
		c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
		if _, err := io.WriteString(c, "hello"); err != nil {
			t.Fatal(err)
		}
		stream := <-streams
		var offered protocol.Incoming
		if err := agenttest.ReadRequest(stream, protocol.KindIncoming, &offered); err != nil || !offered.Waits {
			t.Errorf("%+v was offered, %v", offered, err)
		}
		says(t, stream, "hello")
		if granted == 1 {
			asks(t, stream)
		}
		s.Suspend(Absent)
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); granted == 0 && (err != nil || string(b) != "hello") || granted == 1 && err == nil {
			t.Errorf("granted: %d; the client gets %q, %v", granted, b, err)
		}
		if err := s.Resume(Absent); err != nil {
			t.Error(err)
		}
	}
}

// Where the answer to a holder that asks is stuck in its link, the connection is not.
func TestGrantIsStuck(t *testing.T) {
	in, port := newTest(t), echo(t)
	streams, granting := make(chan net.Conn, 1), make(chan struct{})
	s := steal(t, in, protocol.Steal{Port: port}, holder(func() (net.Conn, error) {
		theirs, ours := newStream()
		streams <- theirs
		return stuck{ours, granting, t.Context().Done()}, nil
	}))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if _, err := io.WriteString(c, "hello"); err != nil {
		t.Fatal(err)
	}
	stream := unanswered(t, streams)
	says(t, stream, "hello")
	respond(t, stream, protocol.IncomingReply{Asks: true})
	<-granting
	s.Suspend(Absent)
	if b, err := io.ReadAll(c); err == nil {
		t.Errorf("the client gets %q", b)
	}
}

// A stuck stream does not write what grants.
type stuck struct {
	net.Conn
	granting chan struct{} // closed when it is to
	over     <-chan struct{}
}

func (s stuck) Write(b []byte) (int, error) {
	if !bytes.Equal(b, protocol.Granted()) {
		return s.Conn.Write(b)
	}
	close(s.granting)
	<-s.over
	return 0, net.ErrClosed
}

// A deaf client seems to have no link.
type deaf struct{ Client }

func (deaf) Hears() bool { return false }

// unanswered reads an offer of which there is to be no answer yet.
func unanswered(t *testing.T, streams <-chan net.Conn) net.Conn {
	t.Helper()
	stream := <-streams
	if err := agenttest.ReadRequest(stream, protocol.KindIncoming, new(protocol.Incoming)); err != nil {
		t.Fatal(err)
	}
	return stream
}

// take answers an offer.
func take(t *testing.T, stream net.Conn) {
	t.Helper()
	respond(t, stream, protocol.IncomingReply{})
}

func decline(stream net.Conn) {
	_ = protocol.WriteError(stream, "incoming", io.ErrClosedPipe)
	stream.Close()
}

// A request that a filter chooses comes with the offer, as far as it has come, and
// nothing of the next one does. Not taken, it is the pod's with all that follows.
func TestFirstRequest(t *testing.T) {
	const hers, nobodys, ok = "POST / HTTP/1.1\r\nX-User: alice\r\n", "GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	const hersAgain = "GET / HTTP/1.1\r\nX-User: alice\r\n\r\n"
	long := strings.Repeat("long words ", 4*maxAhead/11)
	for _, test := range []struct {
		name, request, rest string
		next                string // another request, in the same breath
		again               bool   // it may be made twice
	}{
		{name: "without body", request: hers + "\r\n"},
		{name: "with its body", request: hers + "Content-Length: 5\r\n\r\nwords"},
		{name: "with some of it", request: hers + "Content-Length: 10\r\n\r\nwords", rest: "words"},
		{name: "chunks", request: hers + "Transfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n", rest: "5\r\nwords\r\n0\r\nX: y\r\n\r\n"},
		{name: "with more than goes along", request: hers + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(long)) + long},
		{name: "that waits for 100", request: hers + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n", rest: "words"},
		{name: "and another", request: hers + "Content-Length: 5\r\n\r\nwords", next: nobodys},
		{name: "and another of hers", request: hers + "\r\n", rest: hers + "\r\n"},
		{name: "that may be made twice", request: hersAgain, rest: hersAgain, again: true},
		{name: "that its body makes another", request: strings.Replace(hersAgain, "\r\n\r\n", "\r\nContent-Length: 5\r\n\r\nwords", 1)},
	} {
		for name, outcome := range outcomes {
			t.Run(test.name+", "+name, func(t *testing.T) {
				in, port := newTest(t), echo(t)
				s, streams := offered(t, in, protocol.Steal{Port: port, Filter: user("alice")})
				c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
				var saying sync.WaitGroup
				defer saying.Wait()
				say := func(words string) {
					saying.Go(func() {
						if _, err := io.WriteString(c, words); err != nil {
							t.Error(err)
						}
					})
				}
				say(test.request + test.next)
				stream := unanswered(t, streams)
				b := make([]byte, maxAhead)
				n, err := protocol.ReadDatagram(stream, b)
				if ahead := string(b[:n]); err != nil || !strings.HasPrefix(test.request, ahead) || n < min(len(test.request), 1<<10) {
					t.Fatalf("with the offer came %d bytes, %v: %.300q", n, err, ahead)
				}
				if outcome.end != nil {
					outcome.end(t, s, stream)
					if outcome.unsure && !test.again {
						const want = "HTTP/1.1 502 Bad Gateway"
						if b, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(b), want) {
							t.Errorf("the client got %.300q, %v", b, err)
						}
						return
					}
					saying.Wait()
					say(test.rest)
					saying.Wait()
					_ = c.CloseWrite()
					if b, err := io.ReadAll(c); err != nil || string(b) != test.request+test.next+test.rest {
						t.Errorf("the pod echoes %d bytes, %v: %.300q", len(b), err, b)
					}
					return
				}
				take(t, stream)
				saying.Wait()
				say(test.rest)
				says(t, stream, test.request[n:]+test.rest)
				if err := protocol.WriteDatagram(stream, []byte(ok)); err != nil {
					t.Fatal(err)
				}
				want := ok
				if test.next != "" {
					want += test.next // the pod echoes it
				}
				b = b[:len(want)]
				if _, err := io.ReadFull(c, b); err != nil || string(b) != want {
					t.Errorf("the client got %q, %v", b, err)
				}
			})
		}
	}
}

// Streams of HTTP/2 that begin together come with the offer, bodies and all. Not taken,
// they are the pod's. What is reset meanwhile is reset at its holder, if there is one.
func TestFirstStreams(t *testing.T) {
	for name, outcome := range outcomes {
		t.Run(name, func(t *testing.T) {
			in := newTest(t)
			pod, alice := netip.MustParseAddrPort(server(t, "pod")), server(t, "alice")
			s, streams := offered(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")})
			c := dial(t, pod)
			client := newClient2(c)
			client.request(1, "POST", "words")
			client.request(3, "POST", "")
			client.request(5, "POST", "other words")
			client.request(7, "GET", "")
			client.say(t)
			stream := unanswered(t, streams)
			var came bytes.Buffer
			said := io.TeeReader(protocol.NewChunked(stream), &came)
			if _, err := io.ReadFull(said, make([]byte, len(http2.ClientPreface))); err != nil {
				t.Fatal(err)
			}
			ahead := http2.NewFramer(nil, said)
			for ended := 0; ended < 4; {
				f, err := ahead.ReadFrame()
				if err != nil {
					t.Fatalf("%d streams came with the offer, %v", ended, err)
				}
				if f.Header().Flags.Has(http2.FlagDataEndStream) && f.Header().StreamID != 0 {
					ended++
				}
			}
			_ = client.framer.WriteRSTStream(3, http2.ErrCodeCancel)
			_ = client.framer.WritePing(false, [8]byte{})
			client.say(t)
			client.ponged(t) // so it is known
			want := "pod"
			if outcome.end == nil {
				want = "alice"
				take(t, stream)
				if f, err := ahead.ReadFrame(); err != nil || f.Header().Type != http2.FrameRSTStream || f.Header().StreamID != 3 {
					t.Errorf("%v, %v, not the reset", f, err)
				}
				d, err := net.Dial("tcp", alice)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := d.Write(came.Bytes()); err != nil {
					t.Fatal(err)
				}
				var relaying sync.WaitGroup
				defer relaying.Wait()
				relaying.Go(func() { _ = protocol.Relay(d.(*net.TCPConn), stream) })
			} else {
				outcome.end(t, s, stream)
			}
			got := client.answers(t, 3)
			for id, body := range map[uint32]string{1: "words", 5: "other words", 7: ""} {
				unsure := outcome.unsure && id != 7
				switch {
				case !unsure && got[id] != want+string(sum(body)):
					t.Errorf("stream %d was answered by %.5q", id, got[id])
				case unsure && !strings.HasPrefix(got[id], "mirrord: the request was offered to the debuggee"):
					t.Errorf("stream %d was answered with %q", id, got[id])
				}
			}
			c.Close()
		})
	}
}

// A stream that was answered in place of a holder may be reset before it takes the answer.
func TestUnsureStreamIsReset(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	_, streams := offered(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")})
	c := dial(t, pod)
	client := newClient2(c)
	_ = client.framer.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 0})
	client.request(1, "POST", "words")
	client.say(t)
	unanswered(t, streams).Close()
	for answered := false; !answered; {
		f, err := client.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		answered = f.Header().StreamID == 1
	}
	_ = client.framer.WriteRSTStream(1, http2.ErrCodeCancel)
	_ = client.framer.WritePing(false, [8]byte{})
	client.say(t)
	client.ponged(t)
	c.Close()
}

// A holder that refuses, after it had the first words, every second connection: each
// request is answered once, by one or the other, who has all of its body.
func TestRefusedNowAndThen(t *testing.T) {
	for _, way := range []struct{ tls, http2 bool }{{}, {http2: true}, {tls: true}, {tls: true, http2: true}} {
		t.Run(fmt.Sprintf("%+v", way), func(t *testing.T) {
			in := newTest(t)
			q := protocol.Steal{Filter: user("alice")}
			tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
			scheme := "http"
			if way.tls {
				keys, pair := certificate(t, t.TempDir())
				pod := newTLSServer(t, "pod", pair, &tls.Config{})
				q.Port, q.TLS, scheme = pod.addr.Port(), &keys, "https"
				roots := x509.NewCertPool()
				roots.AddCert(pair.Leaf)
				tr.TLSClientConfig = &tls.Config{RootCAs: roots, ServerName: "shop"}
			} else {
				q.Port = netip.MustParseAddrPort(server(t, "pod")).Port()
			}
			tr.Protocols.SetHTTP1(!way.http2)
			tr.Protocols.SetHTTP2(way.tls && way.http2)
			tr.Protocols.SetUnencryptedHTTP2(!way.tls && way.http2)
			alice := &fickle{Client: relayedTo(t, server(t, "alice")), refusing: newGoroutines(t)}
			steal(t, in, q, alice)
			var byAlice, byPod int
			for i := range 24 {
				body := strings.Repeat("words", []int{0, 1, 500, 3000, 4000, 60_000}[i/2%6])
				r, err := http.NewRequest("POST", fmt.Sprintf("%s://127.0.0.1:%d/", scheme, q.Port), strings.NewReader(body))
				if err != nil {
					t.Fatal(err)
				}
				got := askAs(t, &http.Client{Transport: tr, Timeout: 30 * time.Second}, r, "alice")
				if strings.HasPrefix(got, "alice") {
					byAlice++
				} else if strings.HasPrefix(got, "pod") {
					byPod++
				}
				if !strings.HasSuffix(got, string(sum(body))) {
					t.Errorf("request %d, of %d bytes, was answered by %.20q", i, len(body), got)
				}
			}
			if byAlice != 12 || byPod != 12 {
				t.Errorf("%d were alice's, %d the pod's", byAlice, byPod)
			}
		})
	}
}

// A fickle client refuses every second stream.
type fickle struct {
	Client
	opened   atomic.Int32
	refusing *goroutines
}

func (f *fickle) Open() (net.Conn, error) {
	if f.opened.Add(1)%2 == 1 {
		return f.Client.Open()
	}
	theirs, ours := newStream()
	f.refusing.Go(func() {
		if agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming)) == nil {
			_, _ = protocol.ReadDatagram(theirs, make([]byte, maxAhead))
		}
		decline(theirs)
	})
	return ours, nil
}

// A client2 speaks HTTP/2, frame by frame.
type client2 struct {
	conn   net.Conn
	out    bytes.Buffer
	framer *http2.Framer
	block  bytes.Buffer
	fields *hpack.Encoder
}

func newClient2(c net.Conn) *client2 {
	client := &client2{conn: c}
	client.framer = http2.NewFramer(&client.out, c)
	client.fields = hpack.NewEncoder(&client.block)
	client.out.WriteString(http2.ClientPreface)
	_ = client.framer.WriteSettings()
	return client
}

// request makes one of alice's ready.
func (c *client2) request(stream uint32, method, body string) {
	c.block.Reset()
	for _, f := range [][2]string{{":method", method}, {":scheme", "http"}, {":path", "/"}, {":authority", "shop"}, {"x-user", "alice"}} {
		_ = c.fields.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	_ = c.framer.WriteHeaders(http2.HeadersFrameParam{StreamID: stream, BlockFragment: c.block.Bytes(), EndHeaders: true, EndStream: body == ""})
	if body != "" {
		_ = c.framer.WriteData(stream, true, []byte(body))
	}
}

// say says all that is ready in one breath.
func (c *client2) say(t *testing.T) {
	t.Helper()
	if _, err := c.out.WriteTo(c.conn); err != nil {
		t.Fatal(err)
	}
}

// ponged waits for the answer to a ping.
func (c *client2) ponged(t *testing.T) {
	t.Helper()
	for {
		f, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if p, ok := f.(*http2.PingFrame); ok && p.IsAck() {
			return
		}
	}
}

// answers are the bodies of n answers.
func (c *client2) answers(t *testing.T, n int) map[uint32]string {
	t.Helper()
	got := map[uint32]string{}
	for n > 0 {
		f, err := c.framer.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if d, ok := f.(*http2.DataFrame); ok {
			got[d.StreamID] += string(d.Data())
			if d.StreamEnded() {
				n--
			}
		}
	}
	return got
}

// A client that waits for its server's first words is offered at once, and gets them.
func TestFirstWordsAreTheServers(t *testing.T) {
	in, port := newTest(t), echo(t)
	_, streams := offered(t, in, protocol.Steal{Port: port})
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	stream := unanswered(t, streams)
	take(t, stream)
	if err := protocol.WriteDatagram(stream, []byte("220 ready")); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 9)
	if _, err := io.ReadFull(c, b); err != nil || string(b) != "220 ready" {
		t.Fatalf("%q, %v", b, err)
	}
	_, _ = io.WriteString(c, "HELO")
	says(t, stream, "HELO")
	stream.Close()
}

// What the holder has taken when it gives the port back, or pauses, is its own: its
// debuggee may have acted on the first words. What it refuses then is the pod's.
func TestTakenAtTheEnd(t *testing.T) {
	for name, end := range map[string]func(*Steal){
		"released": (*Steal).Release,
		"paused":   func(s *Steal) { s.Suspend(Paused) },
		"paused, and back": func(s *Steal) {
			s.Suspend(Paused)
			if err := s.Resume(Paused); err != nil {
				t.Error(err)
			}
		},
	} {
		for _, taken := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, taken: %v", name, taken), func(t *testing.T) {
				in, port := newTest(t), echo(t)
				s, streams := offered(t, in, protocol.Steal{Port: port})
				c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
				if _, err := io.WriteString(c, "hello"); err != nil {
					t.Fatal(err)
				}
				stream := <-streams
				if err := agenttest.ReadRequest(stream, protocol.KindIncoming, new(protocol.Incoming)); err != nil {
					t.Fatal(err)
				}
				says(t, stream, "hello")
				end(s)
				want := "hello"
				if taken {
					want = "mine"
					if err := errors.Join(
						protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil),
						protocol.WriteDatagram(stream, []byte(want)),
						protocol.WriteDatagram(stream, nil), // its end
					); err != nil {
						t.Fatal(err)
					}
				} else {
					_ = protocol.WriteError(stream, "incoming", io.ErrClosedPipe)
				}
				_ = c.CloseWrite()
				if taken {
					_, _ = protocol.ReadDatagram(stream, make([]byte, protocol.ChunkHead))
				}
				stream.Close()
				if b, err := io.ReadAll(c); err != nil || string(b) != want {
					t.Errorf("the client gets %q, %v, not %q", b, err, want)
				}
			})
		}
	}
}
