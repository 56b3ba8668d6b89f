package tunnel

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"testing"

	"github.com/hashicorp/yamux"
	"go.uber.org/goleak"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// far is the other end of a tunnel: it answers as answer says. The agent's own
// answers are tested beside it, and both together on the cluster.
func far(t testing.TB, answer answerer) (dial func(context.Context) (net.Conn, error)) {
	addr := agent(t, answer)
	return func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "tcp", addr) }
}

type answerer func(mux *yamux.Session, s net.Conn, f protocol.Frame)

func agent(t testing.TB, answer answerer) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() {
		served <- link.NewServer(quiet, link.Grace).Serve(ctx, l, func(_ context.Context, c *link.Conn, _ link.ID, _ link.Channel) {
			mux, err := yamux.Server(c, c.Mux())
			if err != nil {
				t.Error(err)
				return
			}
			for {
				s, err := mux.Accept()
				if err != nil {
					return
				}
				go func() {
					defer s.Close()
					f, err := protocol.ReadFrame(s)
					if err == nil {
						answer(mux, s, f)
					}
				}()
			}
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v", err)
		}
	})
	return l.Addr().String()
}

func hello(s net.Conn, f protocol.Frame, version int) bool {
	if f.Kind == protocol.KindHello {
		protocol.WriteMessage(s, f.Kind, protocol.HelloReply{Version: version}, nil)
	}
	return f.Kind == protocol.KindHello
}

func open(t testing.TB, dial func(context.Context) (net.Conn, error)) *Tunnel {
	t.Helper()
	tun, err := Open(t.Context(), quiet, protocol.Client{}, link.NewID(), link.Grace, dial)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(tun.Close)
	return tun
}

func TestOpenRefusesAnotherVersion(t *testing.T) {
	dial := far(t, func(_ *yamux.Session, s net.Conn, f protocol.Frame) { hello(s, f, protocol.Version+1) })
	if _, err := Open(t.Context(), quiet, protocol.Client{}, link.NewID(), link.Grace, dial); !errors.Is(err, ErrBuild) {
		t.Errorf("Open = %v", err)
	}
}

func TestCallIsAbandonedWithItsContext(t *testing.T) {
	asked := make(chan bool, 1)
	dial := far(t, func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if !hello(s, f, protocol.Version) {
			asked <- true
			io.Copy(io.Discard, s) // no answer
		}
	})
	tun := open(t, dial)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error)
	go func() {
		_, err := tun.Call(ctx, protocol.KindStat, protocol.Stat{Path: "/"}, new(protocol.StatReply))
		ended <- err
	}()
	<-asked
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("Call = %v", err)
	}
}

func TestStolenConnectionsReachThePortsHandler(t *testing.T) {
	offer := make(chan uint64) // the ids of steals
	answers := make(chan error)
	dial := far(t, func(mux *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		var q protocol.Steal
		json.Unmarshal(f.Header, &q)
		protocol.WriteMessage(s, f.Kind, protocol.StealReply{Redirect: "sk_lookup"}, nil)
		for id := range offer {
			in, err := mux.Open()
			if err != nil {
				answers <- err
				return
			}
			_, err = protocol.Call(in, protocol.KindIncoming, protocol.Incoming{ID: id, Port: 8080}, new(protocol.IncomingReply))
			answers <- err
			in.Close()
		}
	})
	tun := open(t, dial)
	got := make(chan uint64, 1)
	take := func(_ context.Context, s net.Conn, in protocol.Incoming) {
		got <- in.ID
		protocol.WriteMessage(s, protocol.KindIncoming, protocol.IncomingReply{}, nil)
		s.Close()
	}
	held, err := tun.Steal(t.Context(), protocol.Steal{Port: 8080}, take, func() {}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	offer <- 1
	if err := <-answers; err != nil || <-got != 1 {
		t.Errorf("stolen connection: %v", err)
	}
	offer <- 7
	if err := <-answers; err == nil {
		t.Error("a connection of no steal was taken")
	}
	held.Release()
	close(offer)
}

func TestConnectKeepsTheErrno(t *testing.T) {
	dial := far(t, func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if !hello(s, f, protocol.Version) {
			protocol.WriteMessage(s, protocol.KindError, protocol.Error{Op: "connect", Errno: 111, Msg: "connection refused"}, nil)
		}
	})
	_, _, err := open(t, dial).Connect(t.Context(), netip.MustParseAddrPort("10.96.0.1:9"))
	if e, ok := errors.AsType[*protocol.Error](err); !ok || e.Errno != 111 {
		t.Errorf("Connect = %v", err)
	}
}
