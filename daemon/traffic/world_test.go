package traffic

import (
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"

	"mirrord/daemon/forward"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// patience bounds every wait: a test that needs it has failed.
const patience = 30 * time.Second

// A world is a target's port, whose connections go to a server as stolen ones
// do: through a stream of the tunnel and forward.Incoming.
type world struct {
	t      testing.TB
	source *Source
	addr   string // of the port

	mu     sync.Mutex
	events []ide.SessionEvent // guarded by mu
	news   chan struct{}      // of capacity 1
}

const port = 8080

func newSource(t testing.TB) *world {
	w := &world{t: t, news: make(chan struct{}, 1)}
	w.source = New(func(e ide.SessionEvent) {
		w.mu.Lock()
		w.events = append(w.events, e)
		w.mu.Unlock()
		select {
		case w.news <- struct{}{}:
		default:
		}
	})
	t.Cleanup(w.source.Close)
	return w
}

// newWorld watches what comes to l.
func newWorld(t *testing.T, l net.Listener) *world {
	t.Helper()
	w := newSource(t)
	front, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w.addr = front.Addr().String()
	p1, p2 := net.Pipe()
	quiet := yamux.DefaultConfig()
	quiet.LogOutput = io.Discard
	ours, err := yamux.Client(p1, quiet)
	if err != nil {
		t.Fatal(err)
	}
	theirs, err := yamux.Server(p2, quiet)
	if err != nil {
		t.Fatal(err)
	}
	in := forward.NewIncoming()
	w.t.Cleanup(in.Close)
	at := forward.Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort()}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := front.Accept()
			if err != nil {
				return
			}
			s, err := theirs.Open()
			if err != nil {
				c.Close()
				continue
			}
			peer := c.RemoteAddr().(*net.TCPAddr).AddrPort()
			wg.Go(func() { w.deliver(in, ours, peer, at) })
			wg.Go(func() {
				if _, err := protocol.ReadAnswer(s, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
					c.Close()
					return
				}
				_ = protocol.Relay(c.(*net.TCPConn), s) // how it ended is the test's business
			})
		}
	})
	t.Cleanup(func() {
		front.Close()
		ours.Close()
		theirs.Close()
		wg.Wait()
	})
	w.source.Watch(true)
	return w
}

func (w *world) deliver(in *forward.Incoming, mux *yamux.Session, peer netip.AddrPort, at forward.Listener) {
	s, err := mux.Accept()
	if err != nil {
		return
	}
	watch := w.source.Incoming(port, false, peer)
	if err := in.Deliver(w.t.Context(), forward.NewOffer(s, false), forward.Peer{Client: peer}, at, watch); err != nil {
		s.Close()
	}
}

// serve watches what comes to a handler.
func serve(t *testing.T, h http.HandlerFunc) *world {
	t.Helper()
	l := listen(t)
	s := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	s.Protocols.SetHTTP1(true)
	s.Protocols.SetUnencryptedHTTP2(true)
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	return newWorld(t, l)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// converse watches what comes to a server of one connection after another.
func converse(t *testing.T, with func(net.Conn)) *world {
	t.Helper()
	l := listen(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.SetDeadline(time.Now().Add(patience))
			with(c)
			c.Close()
		}
	}()
	return newWorld(t, l)
}

func (w *world) dial() *net.TCPConn {
	w.t.Helper()
	c, err := net.Dial("tcp4", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c.(*net.TCPConn)
}

// client is an HTTP client of the port.
func (w *world) client(http2 bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols), ExpectContinueTimeout: patience, DisableCompression: true}
	tr.Protocols.SetHTTP1(!http2)
	tr.Protocols.SetUnencryptedHTTP2(http2)
	w.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// do sends a request and reads all of its answer.
func (w *world) do(c *http.Client, method, path string, body io.Reader, header ...string) string {
	w.t.Helper()
	r, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.addr+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	resp, err := c.Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b)
}

// until waits for n events of a kind, and returns them.
func (w *world) until(kind string, n int) []ide.SessionEvent {
	w.t.Helper()
	timeout := time.After(patience)
	for {
		var list []ide.SessionEvent
		w.mu.Lock()
		for _, e := range w.events {
			if e.Kind == kind {
				list = append(list, e)
			}
		}
		w.mu.Unlock()
		if len(list) >= n {
			return list
		}
		select {
		case <-w.news:
		case <-timeout:
			w.t.Fatalf("%d events %q, want %d; all:\n%s", len(list), kind, n, w.all())
		}
	}
}

func (w *world) all() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	b, _ := json.MarshalIndent(w.events, "", " ")
	return string(b)
}

// result asks for the request of an event.
func (w *world) result(e ide.SessionEvent) ide.RequestResult {
	w.t.Helper()
	r, ok := w.source.Request(e.Request.ID, false)
	if !ok {
		w.t.Fatalf("there is no request %d", e.Request.ID)
	}
	return r
}

// answers are the requests and answers told so far, by path in the order of
// requests, once there are n answers.
func (w *world) answers(n int) (list []ide.Request) {
	w.t.Helper()
	w.until(ide.EventResponse, n)
	by := map[uint64]*ide.Answered{}
	for _, e := range w.until(ide.EventResponse, n) {
		if by[e.Request.ID] != nil {
			w.t.Errorf("request %d is answered twice", e.Request.ID)
		}
		by[e.Request.ID] = e.Request.Answered
	}
	for _, e := range w.until(ide.EventRequest, n) {
		list = append(list, ide.Request{ID: e.Request.ID, Asked: e.Request.Asked, Answered: by[e.Request.ID]})
	}
	return list
}

// peer is a client's address, for tests that have none.
func (w *watcher) peer() netip.AddrPort { return netip.MustParseAddrPort("10.1.2.3:4711") }
