package incoming

import (
	"bufio"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// user chooses the requests of one.
func user(name string) *protocol.Filter {
	return &protocol.Filter{Header: "^x-user: " + name + "$"}
}

// visitor is a client that keeps one connection.
func visitor(t *testing.T, port netip.AddrPort) func(user, path string) string {
	t.Helper()
	tr := &http.Transport{MaxConnsPerHost: 1}
	t.Cleanup(tr.CloseIdleConnections)
	return func(user, path string) string {
		t.Helper()
		r, err := http.NewRequest("POST", fmt.Sprintf("http://%s%s", port, path), strings.NewReader("words"))
		if err != nil {
			t.Fatal(err)
		}
		name, _, _ := strings.Cut(askAs(t, &http.Client{Transport: tr, Timeout: 20 * time.Second}, r, user), string(sum("words")))
		return name
	}
}

// askAs is what a user's request is answered.
func askAs(t *testing.T, c *http.Client, r *http.Request, user string) string {
	t.Helper()
	r.Header.Set("X-User", user)
	a, err := c.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func sum(words string) []byte {
	s := sha256.Sum256([]byte(words))
	return s[:]
}

// Two hold a port with filters: each gets his own requests, all others are the
// pod's, on one connection.
func TestSharedPort(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	alice := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, relayedTo(t, server(t, "alice")))
	bobs := relayedTo(t, server(t, "bob"))
	ask := visitor(t, pod)
	expect := func(user, want string) {
		t.Helper()
		if got := ask(user, "/"); got != want {
			t.Errorf("%q was answered by %q, not %q", user, got, want)
		}
	}
	expect("alice", "alice")
	expect("bob", "pod")
	bob := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("b.*|alice")}, bobs)
	expect("bob", "bob")
	expect("alice", "alice") // the older steal's
	expect("carol", "pod")
	alice.Suspend(Absent)
	expect("alice", "bob")
	if err := alice.Resume(Absent); err != nil {
		t.Fatal(err)
	}
	expect("alice", "alice")
	alice.Release()
	expect("alice", "bob")
	bob.Suspend(Absent)
	expect("bob", "pod")
	bob.Release()
	expect("bob", "pod")
	if in.port(pod.Port()) != nil {
		t.Error("the port is still held")
	}
	ask = visitor(t, pod)
	expect("bob", "pod")
	steal(t, in, protocol.Steal{Port: pod.Port()}, relayedTo(t, server(t, "all"))).Release()
}

// Who wants all connections of a port shares it with nobody.
func TestSharedOrNot(t *testing.T) {
	in := newTest(t)
	all := protocol.Steal{Port: 7}
	some := protocol.Steal{Port: 7, Filter: user("alice")}
	for _, order := range [][2]protocol.Steal{{all, some}, {some, all}, {all, all}} {
		s := steal(t, in, order[0], holder(refusing))
		_, err := in.Steal(t.Context(), order[1], holder(refusing))
		if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "client test") {
			t.Errorf("%+v, then %+v: %v", order[0], order[1], err)
		}
		s.Release()
	}
	for want, f := range map[error]protocol.Steal{
		unix.EINVAL:     {Port: 7, Filter: &protocol.Filter{Path: "("}},
		unix.EOPNOTSUPP: {Port: 7, Filter: user("alice"), Mirror: true, Once: true},
	} {
		if _, err := in.Steal(t.Context(), f, holder(refusing)); !errors.Is(err, want) {
			t.Errorf("%+v: %v", f, err)
		}
	}
	steal(t, in, all, holder(refusing)) // nothing of these is left
}

// Who overrides has the port, and those who had it hear of it; with a filter, those
// who have one keep theirs.
func TestOverride(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	lost := make(chan string, 4)
	take := func(name string, q protocol.Steal) *Steal {
		t.Helper()
		q.Port, q.Session, q.Override = pod.Port(), name, true
		s := steal(t, in, q, relayedTo(t, server(t, name)))
		s.OnLost(func(err error) { lost <- name + ": " + err.Error() })
		return s
	}
	expect := func(want ...string) {
		t.Helper()
		for range want {
			if got := <-lost; !slices.Contains(want, got) {
				t.Errorf("told %q, not one of %q", got, want)
			}
		}
	}
	alice := take("alice", protocol.Steal{Filter: user("alice")})
	bob := take("bob", protocol.Steal{Filter: user("bob")})
	if got := visitor(t, pod)("alice", "/"); got != "alice" || len(lost) > 0 {
		t.Errorf("%q answers alice", got)
	}
	all := take("all", protocol.Steal{})
	expect("alice: client test, session all has taken it over", "bob: client test, session all has taken it over")
	if got := visitor(t, pod)("alice", "/"); got != "all" {
		t.Errorf("%q answers alice", got)
	}
	take("carol", protocol.Steal{Filter: user("carol")})
	expect("all: client test, session carol has taken it over")
	for _, s := range []*Steal{alice, bob, all} {
		s.Release() // what they had is carol's
	}
	for who, want := range map[string]string{"carol": "carol", "alice": "pod"} {
		if got := visitor(t, pod)(who, "/"); got != want {
			t.Errorf("%q answers %s", got, who)
		}
	}
	// What another process holds it keeps.
	l, err := net.Listen("unix", claimName(7))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, "dave")
			c.Close()
		}
	}()
	_, err = in.Steal(t.Context(), protocol.Steal{Port: 7, Override: true}, holder(refusing))
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "it is stolen already, by dave") || !strings.Contains(err.Error(), "cannot be overridden") {
		t.Errorf("of another process: %v", err)
	}
}

// Kubelet's probes are the pod's, whatever a filter says.
func TestProbesOfFilteredPort(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	steal(t, in, protocol.Steal{Port: pod.Port(), Probed: true, Filter: &protocol.Filter{Path: "."}}, relayedTo(t, server(t, "all")))
	for agent, want := range map[string]string{"kube-probe/1.34": "pod", "curl/8": "all"} {
		r, _ := http.NewRequest("GET", "http://"+pod.String(), nil)
		r.Header.Set("User-Agent", agent)
		tr := &http.Transport{DisableKeepAlives: true}
		a, err := tr.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if !strings.HasPrefix(string(b), want) {
			t.Errorf("%s was answered by %q", agent, b)
		}
	}
}

// A server that speaks first is not waited for, and what is not HTTP passes.
func TestServerFirst(t *testing.T) {
	in := newTest(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(c, "220 hello\r\n")
			_, _ = io.Copy(c, c)
			c.Close()
		}
	})
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	steal(t, in, protocol.Steal{Port: addr.Port(), Filter: &protocol.Filter{Path: "."}}, holder(func() (net.Conn, error) {
		t.Error("the holder was asked")
		return refusing()
	}))
	for range 3 {
		c := dial(t, addr)
		b := make([]byte, len("220 hello\r\n"))
		if _, err := io.ReadFull(c, b); err != nil {
			t.Fatal(err)
		}
		const words = "GET / HTTP/1.1\r\n\r\n"
		_, _ = io.WriteString(c, words)
		_ = c.CloseWrite()
		if b, err := io.ReadAll(c); err != nil || string(b) != words {
			t.Errorf("%q, %v", b, err)
		}
	}
	if !in.port(addr.Port()).podFirst.Load() {
		t.Error("it was not learnt who speaks first")
	}
}

// returning is a server that gives each body back while it comes.
func returning(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
		}
		_ = http.NewResponseController(w).EnableFullDuplex()
		_, _ = io.Copy(w, r.Body)
	})}
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	return l.Addr().String()
}

// Large bodies go both ways through the filter, to the pod and to the debuggee.
func TestLargeBodies(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(returning(t))
	steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, relayedTo(t, returning(t)))
	const size = 32 << 20
	for _, who := range []string{"alice", "nobody"} {
		for _, path := range []string{"/length", "/chunks"} {
			sent, got := sha256.New(), sha256.New()
			body := io.LimitReader(rand.NewChaCha8([32]byte{1}), size)
			r, _ := http.NewRequest("POST", "http://"+pod.String()+path, io.TeeReader(body, sent))
			if path == "/length" {
				r.ContentLength = size
			}
			r.Header.Set("X-User", who)
			tr := &http.Transport{}
			a, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(r)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(got, a.Body)
			a.Body.Close()
			tr.CloseIdleConnections()
			if n != size || err != nil || string(got.Sum(nil)) != string(sent.Sum(nil)) {
				t.Errorf("%s of %s: %d bytes, %v", path, who, n, err)
			}
		}
	}
}

// A client that goes while its debuggee has a request is answered for.
func TestHolderGoes(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	ctx, cancel := context.WithCancel(t.Context())
	s, err := in.Steal(ctx, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, holder(func() (net.Conn, error) {
		theirs, ours := net.Pipe()
		go func() {
			_, _ = protocol.ReadFrame(theirs)
			_ = protocol.WriteMessage(theirs, protocol.KindIncoming, protocol.IncomingReply{}, nil)
			_, _ = io.ReadFull(theirs, make([]byte, protocol.ChunkHead+maxAhead+1)) // more than comes before it is taken
			cancel()
			theirs.Close() // as the end of its session does
		}()
		return ours, nil
	}))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	r, _ := http.NewRequest("GET", "http://"+pod.String(), nil)
	r.Header.Set("X-User", "alice")
	r.Header.Set("X-Long", strings.Repeat("x", maxAhead))
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	a, err := tr.RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if b, _ := io.ReadAll(a.Body); a.StatusCode != http.StatusBadGateway || !strings.Contains(string(b), "client test") {
		t.Errorf("%s: %q", a.Status, b)
	}
	if got := visitor(t, pod)("alice", "/"); got != "pod" {
		t.Errorf("the next one was answered by %q", got)
	}
}

// Streams of one HTTP/2 connection belong to whom they should, kubelet's to the pod.
func TestSharedStreams(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	for _, name := range []string{"alice", "bob"} {
		steal(t, in, protocol.Steal{Port: pod.Port(), Probed: true, Filter: user(name)}, relayedTo(t, server(t, name)))
	}
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) {
		return dial(t, pod), nil
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	conn, err := tr.NewClientConn(t.Context(), "http", "shop:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	for _, c := range []struct{ user, path, want string }{
		{"alice", "/", "alice"}, {"", "/", "pod"}, {"bob", "/", "bob"}, {"alice", healthCheck, "pod"}, {"alice", "/", "alice"},
	} {
		r, _ := http.NewRequest("POST", "http://"+pod.String()+c.path, strings.NewReader("words"))
		r.Header.Set("X-User", c.user)
		a, err := conn.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || string(b) != c.want+string(sum("words")) {
			t.Errorf("%s as %q was answered by %.6q, %v", c.path, c.user, b, err)
		}
	}
}

// A request that is at its holder when the port is given back is answered there.
func TestReleasedInFlight(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		close(asked)
		<-answer
		_, _ = io.WriteString(w, "alice")
	})}
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	s := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, relayedTo(t, l.Addr().String()))
	ask := visitor(t, pod)
	got := make(chan string, 1)
	go func() { got <- ask("alice", "/") }()
	<-asked
	s.Release()
	close(answer)
	if name := <-got; name != "alice" {
		t.Errorf("it was answered by %q", name)
	}
	if name := ask("alice", "/"); name != "pod" {
		t.Errorf("the next one was answered by %q", name)
	}
}

// A thousand connections at one time are told apart, request by request.
func TestManyVisitors(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, relayedTo(t, server(t, "alice")))
	const visitors = 1000
	var wg, all sync.WaitGroup
	all.Add(visitors)
	for i := range visitors {
		wg.Go(func() {
			c, err := net.Dial("tcp", pod.String())
			all.Done()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(time.Minute))
			all.Wait()
			r := bufio.NewReader(c)
			for n := range 4 {
				name := []string{"pod", "alice"}[(i+n)%2]
				if _, err := fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nX-User: %s\r\n\r\n", name); err != nil {
					t.Error(err)
					return
				}
				a, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Error(err)
					return
				}
				b, err := io.ReadAll(a.Body)
				if err != nil || !strings.HasPrefix(string(b), name) {
					t.Errorf("%q was answered by %.5q, %v", name, b, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

// One's filter of bodies does not take another's requests away whose bodies are too
// large for it.
func TestFilterOfLargeBodies(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	byBody := &protocol.Filter{Body: &protocol.BodyFilter{Query: "$.user", Matches: "^alice$"}}
	steal(t, in, protocol.Steal{Port: pod.Port(), Filter: byBody}, relayedTo(t, server(t, "alice")))
	steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("bob")}, relayedTo(t, server(t, "bob")))
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 20 * time.Second}
	for body, want := range map[string]string{
		`{"user": "alice"}`: "alice", `{"user": "bob"}`: "bob", `{"user": "alice", "x": "` + strings.Repeat("x", 70<<10) + `"}`: "bob",
	} {
		r, err := http.NewRequest("POST", "http://"+pod.String(), strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		if got, _, _ := strings.Cut(askAs(t, c, r, "bob"), string(sum(body))); got != want {
			t.Errorf("%.20q was answered by %.20q, not %q", body, got, want)
		}
	}
}
