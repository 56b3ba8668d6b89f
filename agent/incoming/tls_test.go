package incoming

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
	"mirrord/protocol/socket"
	"mirrord/protocol/socket/tlstest"
)

// certificate makes one for the names "shop" and "other", in files.
func certificate(t *testing.T, dir string) (protocol.TLS, tls.Certificate) {
	t.Helper()
	pair, cert, key := tlstest.Certificate(t, dir, "shop", "other")
	return protocol.TLS{CertPath: protocol.Path(cert), KeyPath: protocol.Path(key)}, pair
}

// A tlsServer answers with its name, protocol and the body's sum, in TLS.
type tlsServer struct {
	addr netip.AddrPort
	came chan struct{} // once for each connection

	mu   sync.Mutex
	pair tls.Certificate // guarded by mu
}

func newTLSServer(t *testing.T, name string, pair tls.Certificate, config *tls.Config) *tlsServer {
	t.Helper()
	s := &tlsServer{pair: pair, came: make(chan struct{}, 100)}
	config.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		s.mu.Lock()
		defer s.mu.Unlock()
		return &s.pair, nil
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().(*net.TCPAddr).AddrPort()
	srv := &http.Server{
		TLSConfig: config,
		ErrorLog:  nil,
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			sum := sha256.New()
			_, _ = io.Copy(sum, r.Body)
			fmt.Fprintf(w, "%s %s%s", name, r.Proto, sum.Sum(nil))
		}),
		ConnState: func(_ net.Conn, state http.ConnState) {
			if state == http.StateNew {
				s.came <- struct{}{}
			}
		},
	}
	agenttest.Serve(t, func() error { return srv.ServeTLS(l, "", "") }, func() { srv.Close() })
	return s
}

// A tlsVisitor is a client that keeps one connection.
type tlsVisitor struct {
	t    *testing.T
	conn *tls.Conn
	http *http.Client
}

// tlsVisitor connects over raw and trusts one certificate.
func newTLSVisitor(t *testing.T, raw net.Conn, trusted *x509.Certificate, config *tls.Config) *tlsVisitor {
	t.Helper()
	config.RootCAs = x509.NewCertPool()
	config.RootCAs.AddCert(trusted)
	if config.ServerName == "" {
		config.ServerName = "shop"
	}
	v := &tlsVisitor{t: t, conn: tls.Client(raw, config)}
	_ = raw.SetDeadline(time.Now().Add(30 * time.Second))
	if err := v.conn.Handshake(); err != nil {
		t.Fatalf("TLS: %v", err)
	}
	first := true
	tr := &http.Transport{ForceAttemptHTTP2: true, DialTLSContext: func(context.Context, string, string) (net.Conn, error) {
		if !first {
			return nil, errors.New("the connection was not kept")
		}
		first = false
		return v.conn, nil
	}}
	t.Cleanup(tr.CloseIdleConnections)
	v.http = &http.Client{Transport: tr}
	return v
}

func (v *tlsVisitor) expect(user, want string) {
	v.t.Helper()
	r, err := http.NewRequest("POST", "https://shop/", strings.NewReader("words"))
	if err != nil {
		v.t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	a, err := v.http.Do(r)
	if err != nil {
		v.t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if got := string(b); err != nil || !strings.HasPrefix(got, want) {
		v.t.Errorf("%q was answered by %q (%v), not %q", user, got, err, want)
	}
}

// pieces writes byte by byte.
type pieces struct{ *net.TCPConn }

func (p pieces) Write(b []byte) (int, error) {
	for i := range b {
		if _, err := p.TCPConn.Write(b[i : i+1]); err != nil {
			return i, err
		}
	}
	return len(b), nil
}

// Requests within TLS are chosen one by one; the client sees the pod's certificate,
// and speaks what the pod would have agreed to.
func TestTLS(t *testing.T) {
	for _, test := range []struct {
		offered, pods []string
		agreed        string
		slow          bool
	}{
		{nil, nil, "", false},
		{[]string{"http/1.1"}, nil, "http/1.1", false},
		{[]string{"h2", "http/1.1"}, nil, "h2", false},
		{[]string{"h2", "http/1.1"}, []string{"http/1.1"}, "http/1.1", false},
		{[]string{"h2", "http/1.1"}, nil, "h2", true},
	} {
		t.Run(fmt.Sprint(test), func(t *testing.T) {
			in := newTest(t)
			q, pair := certificate(t, t.TempDir())
			pod := newTLSServer(t, "pod", pair, &tls.Config{NextProtos: test.pods})
			alice := &opener{Client: relayedTo(t, server(t, "alice")), told: make(chan protocol.Incoming, 10)}
			steal(t, in, protocol.Steal{Port: pod.addr.Port(), Filter: user("alice"), TLS: &q}, alice)
			c := dial(t, pod.addr)
			var raw net.Conn = c
			if test.slow { // the pod is connected to before the client has said anything, and said it slowly
				<-pod.came
				raw = pieces{c}
			}
			v := newTLSVisitor(t, raw, pair.Leaf, &tls.Config{NextProtos: test.offered})
			if got := v.conn.ConnectionState().NegotiatedProtocol; got != test.agreed {
				t.Errorf("the client speaks %q, not %q", got, test.agreed)
			}
			for range 2 {
				v.expect("alice", "alice")
				v.expect("", "pod")
			}
			told := <-alice.told
			if want := (protocol.Opened{ServerName: "shop", Protocol: test.agreed}); told.TLS == nil || *told.TLS != want {
				t.Errorf("the holder is told of %+v, not %+v", told.TLS, want)
			}
			if len(alice.told) > 0 {
				t.Error("the holder got more than one connection")
			}
			plain, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Get("http://" + pod.addr.String())
			if err != nil {
				t.Fatal(err)
			}
			plain.Body.Close()
			if plain.StatusCode != http.StatusBadRequest { // the server's own word
				t.Errorf("without TLS: %s", plain.Status)
			}
		})
	}
}

// An opener tells what it is told of its connections.
type opener struct {
	Client
	told chan protocol.Incoming
}

func (o *opener) Open() (net.Conn, error) {
	c, err := o.Client.Open()
	if err != nil {
		return nil, err
	}
	return &openedStream{Conn: c, told: o.told}, nil
}

type openedStream struct {
	net.Conn
	told chan protocol.Incoming
	once sync.Once
}

func (s *openedStream) Write(b []byte) (int, error) {
	s.once.Do(func() {
		var in protocol.Incoming
		if _, err := protocol.ReadAnswer(bytes.NewReader(b), protocol.KindIncoming, &in); err == nil {
			s.told <- in
		}
	})
	return s.Conn.Write(b)
}

// What cannot be opened without a difference is the pod's as a whole, from the
// client's very bytes on.
func TestTLSClosed(t *testing.T) {
	in := newTest(t)
	dir := t.TempDir()
	q, pair := certificate(t, dir)
	_, other := certificate(t, t.TempDir())
	for name, test := range map[string]struct {
		pod    tls.Certificate
		config *tls.Config
		client *tls.Config
		tls    *protocol.TLS
	}{
		"no certificate":      {pod: pair},
		"another's":           {pod: other, tls: &q},
		"client's is wanted":  {pod: pair, tls: &q, config: &tls.Config{ClientAuth: tls.RequireAnyClientCert}, client: &tls.Config{Certificates: []tls.Certificate{other}}},
		"in TLS 1.2":          {pod: pair, tls: &q, config: &tls.Config{ClientAuth: tls.RequestClientCert, MaxVersion: tls.VersionTLS12}},
		"another protocol":    {pod: pair, tls: &q, config: &tls.Config{NextProtos: []string{"mine"}}, client: &tls.Config{NextProtos: []string{"mine"}}},
		"a version before":    {pod: pair, tls: &q, config: &tls.Config{MinVersion: tls.VersionTLS10}, client: &tls.Config{MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11}},
		"opened, in contrast": {pod: pair, tls: &q},
	} {
		t.Run(name, func(t *testing.T) {
			config, client := cmp.Or(test.config, new(tls.Config)), cmp.Or(test.client, new(tls.Config))
			pod := newTLSServer(t, "pod", test.pod, config)
			alice := &opener{Client: relayedTo(t, server(t, "alice")), told: make(chan protocol.Incoming, 10)}
			steal(t, in, protocol.Steal{Port: pod.addr.Port(), Filter: user("alice"), TLS: test.tls}, alice)
			want := "pod"
			if strings.HasPrefix(name, "opened") {
				want = "alice"
			}
			for range 2 { // the second time that is known
				v := newTLSVisitor(t, dial(t, pod.addr), test.pod.Leaf, client.Clone())
				v.conn.SetDeadline(time.Now().Add(30 * time.Second))
				if slices.Contains(client.NextProtos, "mine") {
					_, err := io.WriteString(v.conn, "GET / HTTP/1.1\r\nHost: shop\r\nX-User: alice\r\n\r\n")
					if b, _ := io.ReadAll(v.conn); err != nil || v.conn.ConnectionState().NegotiatedProtocol != "mine" {
						t.Errorf("%v, %q", err, b)
					}
					continue
				}
				v.expect("alice", want)
			}
		})
	}
}

// What only begins as TLS does passes as it is.
func TestTLSNot(t *testing.T) {
	in := newTest(t)
	q, _ := certificate(t, t.TempDir())
	port := echo(t)
	steal(t, in, protocol.Steal{Port: port, Filter: user("alice"), TLS: &q}, relayedTo(t, server(t, "alice")))
	record := func(n int, b ...byte) string {
		return string(append([]byte{0x16, 3, 1, byte(n >> 8), byte(n)}, b...))
	}
	for name, said := range map[string]string{
		"a byte":           "\x16",
		"garbage":          "\x16\x03\x01GET / HTTP/1.1\r\nX-User: alice\r\n\r\n",
		"no hello":         record(5, 2, 0, 0, 1, 9),
		"half a hello":     record(200, 1, 0, 0, 196, 3, 3),
		"a huge hello":     record(4, 1, 0xff, 0xff, 0xff) + strings.Repeat("x", 1<<20),
		"many empty":       strings.Repeat(record(0), 1000),
		"a hello of bytes": strings.Repeat(record(1, 1), 100_000),
	} {
		c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		go func() {
			_, _ = io.WriteString(c, said)
			_ = c.CloseWrite()
		}()
		if b, err := io.ReadAll(c); err != nil || string(b) != said {
			t.Errorf("%s: %d bytes came back of %d: %v", name, len(b), len(said), err)
		}
	}
}

// A pod that gets a new certificate is opened by that, as soon as it uses it.
func TestTLSRotates(t *testing.T) {
	in := newTest(t)
	dir := t.TempDir()
	q, old := certificate(t, dir)
	pod := newTLSServer(t, "pod", old, new(tls.Config))
	steal(t, in, protocol.Steal{Port: pod.addr.Port(), Filter: user("alice"), TLS: &q}, relayedTo(t, server(t, "alice")))
	ask := func(pair tls.Certificate) {
		t.Helper()
		newTLSVisitor(t, dial(t, pod.addr), pair.Leaf, new(tls.Config)).expect("alice", "alice")
	}
	ask(old)
	_, pair := certificate(t, dir)
	ask(old)
	pod.mu.Lock()
	pod.pair = pair
	pod.mu.Unlock()
	ask(pair)
}

// By the server's name whole connections are chosen, and their TLS is the holder's.
func TestTLSServerName(t *testing.T) {
	in := newTest(t)
	_, pair := certificate(t, t.TempDir())
	_, hers := certificate(t, t.TempDir())
	pod := newTLSServer(t, "pod", pair, new(tls.Config))
	alice := newTLSServer(t, "alice", hers, new(tls.Config))
	s := steal(t, in, protocol.Steal{Port: pod.addr.Port(), Filter: &protocol.Filter{ServerName: "^shop$"}}, relayedTo(t, alice.addr.String()))
	for range 2 {
		newTLSVisitor(t, dial(t, pod.addr), hers.Leaf, new(tls.Config)).expect("", "alice")
		newTLSVisitor(t, pieces{dial(t, pod.addr)}, pair.Leaf, &tls.Config{ServerName: "other"}).expect("", "pod")
	}
	s.Suspend(Absent)
	newTLSVisitor(t, dial(t, pod.addr), pair.Leaf, new(tls.Config)).expect("", "pod")
}

// Where a holder may have got the hello when its link was cut, the pod gets it, too: no
// more was said.
func TestTLSUnsure(t *testing.T) {
	for name, f := range map[string]*protocol.Filter{"of all": nil, "by name": {ServerName: "^shop$"}} {
		t.Run(name, func(t *testing.T) {
			in := newTest(t)
			_, pair := certificate(t, t.TempDir())
			pod := newTLSServer(t, "pod", pair, new(tls.Config))
			var cutting sync.WaitGroup
			defer cutting.Wait()
			steal(t, in, protocol.Steal{Port: pod.addr.Port(), Filter: f}, holder(func() (net.Conn, error) {
				theirs, ours := newStream()
				cutting.Go(func() {
					if err := agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming)); err != nil {
						t.Error(err)
					}
					if n, err := protocol.ReadDatagram(theirs, make([]byte, maxAhead)); n == 0 || err != nil {
						t.Errorf("with the offer came %d bytes, %v", n, err)
					}
					theirs.Close()
				})
				return ours, nil
			}))
			newTLSVisitor(t, dial(t, pod.addr), pair.Leaf, new(tls.Config)).expect("", "pod")
		})
	}
}

// Who has no pod has a holder.
func TestTLSWithoutPod(t *testing.T) {
	in := newTest(t)
	q, pair := certificate(t, t.TempDir())
	// A socket that has the port and does not listen: else somebody else may.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := socket.Bind(fd, netip.MustParseAddrPort("127.0.0.1:0")); err != nil {
		t.Fatal(err)
	}
	bound, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	addr := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(bound.(*unix.SockaddrInet4).Port))
	steal(t, in, protocol.Steal{Port: addr.Port(), Filter: user("alice"), TLS: &q}, relayedTo(t, server(t, "alice")))
	newTLSVisitor(t, dial(t, addr), pair.Leaf, &tls.Config{NextProtos: []string{"h2"}}).expect("alice", "alice")
}

// What is wrong with a certificate is told with its place.
func TestTLSErrors(t *testing.T) {
	in := newTest(t)
	dir := t.TempDir()
	q, _ := certificate(t, dir)
	other, _ := certificate(t, t.TempDir())
	key, err := os.ReadFile(string(q.KeyPath))
	if err != nil {
		t.Fatal(err)
	}
	for want, test := range map[string]protocol.TLS{
		"certificate " + dir + "/no: open": {CertPath: protocol.Path(dir + "/no"), KeyPath: q.KeyPath},
		"certificate, " + dir + "/no: op":  {CertPath: q.CertPath, KeyPath: protocol.Path(dir + "/no")},
		"key " + string(other.KeyPath):     {CertPath: q.CertPath, KeyPath: other.KeyPath},
		"certificate: tls":                 {Cert: []byte("nothing"), Key: key},
	} {
		_, err := in.Steal(t.Context(), protocol.Steal{Port: 7, Filter: user("alice"), TLS: &test}, holder(refusing))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %q", err, want)
		}
		if errors.Is(err, unix.EADDRINUSE) {
			t.Error(err)
		}
		if said := fmt.Sprintf("%+v %v %#v %v", test, test, test, test.Key); strings.Contains(said, string(key)) || strings.Contains(said, fmt.Sprintf("%d", key)) {
			t.Errorf("the key is printed: %s", said)
		}
	}
}
