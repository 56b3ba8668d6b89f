package conformance

import (
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"testing"
	"time"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming"
	"mirrord/protocol"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

// A debuggee is an address that stolen connections are brought to, as a session's
// daemon does. All goroutines end with their connections.
type debuggee string

func (debuggee) Hears() bool { return true }

func (debuggee) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (debuggee) Name() string { return "test" }

func (d debuggee) Open() (net.Conn, error) {
	theirs, ours := net.Pipe()
	go func() {
		defer theirs.Close()
		if _, err := protocol.ReadFrame(theirs); err != nil ||
			protocol.WriteMessage(theirs, protocol.KindIncoming, protocol.IncomingReply{}, nil) != nil {
			return
		}
		if c, err := net.Dial("tcp", string(d)); err == nil {
			_ = protocol.Relay(c.(*net.TCPConn), theirs)
		}
	}()
	return ours, nil
}

// agent is an agent's side of incoming connections in the test's namespace.
func agent(t *testing.T) *incoming.Incoming {
	t.Helper()
	agenttest.Namespace(t)
	in := incoming.New(slog.New(slog.DiscardHandler), "")
	if err := in.Disabled(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// filtered steals from the port of pod the requests that a filter chooses.
func filtered(t *testing.T, in *incoming.Incoming, pod netip.AddrPort, f protocol.Filter, to netip.AddrPort) {
	t.Helper()
	s, err := in.Steal(t.Context(), protocol.Steal{Port: pod.Port(), Filter: &f}, debuggee(to.String()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func addr(l net.Listener) netip.AddrPort { return l.Addr().(*net.TCPAddr).AddrPort() }

// web serves HTTP/2 until the test's end.
func web(t *testing.T, h http.HandlerFunc) netip.AddrPort {
	t.Helper()
	l := listen(t)
	srv := &http.Server{
		Handler: h, Protocols: new(http.Protocols), ErrorLog: log.New(io.Discard, "", 0),
		// Else what waits for a body outlives a connection with an error, and an idle
		// one would end as if it had one.
		ReadTimeout: 2 * time.Second, IdleTimeout: time.Minute,
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	return addr(l)
}
