package incoming

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// relayedTo is a holder whose debuggee listens at addr.
func relayedTo(t *testing.T, addr string) Client {
	own := newGoroutines(t)
	return holder(func() (net.Conn, error) {
		theirs, ours := newStream()
		own.Go(func() {
			defer theirs.Close()
			if _, err := protocol.ReadFrame(theirs); err != nil ||
				protocol.WriteMessage(theirs, protocol.KindIncoming, protocol.IncomingReply{}, nil) != nil {
				return
			}
			c, err := net.Dial("tcp", addr)
			if err != nil {
				t.Error(err)
				return
			}
			_ = protocol.Relay(c.(*net.TCPConn), theirs)
		})
		return ours, nil
	})
}

// server answers HTTP/1 and HTTP/2 without TLS, always with its name.
func server(t *testing.T, name string) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		if _, err := io.Copy(sum, r.Body); err != nil {
			t.Errorf("%s: reading request: %v", name, err)
		}
		w.Write(append([]byte(name), sum.Sum(nil)...))
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	return l.Addr().String()
}

// probed steals the port of an HTTP server for another one.
func probed(t *testing.T) netip.AddrPort {
	t.Helper()
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	steal(t, in, protocol.Steal{Port: pod.Port(), Probed: true}, relayedTo(t, server(t, "debuggee")))
	return pod
}

func get(t *testing.T, addr netip.AddrPort, agent string, body []byte, protocols func(*http.Protocols)) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
	protocols(tr.Protocols)
	defer tr.CloseIdleConnections()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	method := http.MethodGet
	if body != nil {
		method = http.MethodPost
	}
	req, err := http.NewRequestWithContext(ctx, method, "http://"+addr.String()+"/", bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("User-Agent", agent)
	resp, err := tr.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(body)
	who, ok := strings.CutSuffix(string(b), string(sum[:]))
	if !ok {
		t.Errorf("%d bytes arrived as others", len(body))
	}
	return who
}

func TestProbeRequests(t *testing.T) {
	addr := probed(t)
	upload := make([]byte, 3<<20)
	rand.NewChaCha8([32]byte{}).Read(upload)
	for name, protocols := range map[string]func(*http.Protocols){
		"HTTP/1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		for agent, want := range map[string]string{"kube-probe/1.34": "pod", "curl/8.0": "debuggee"} {
			if who := get(t, addr, agent, nil, protocols); who != want {
				t.Errorf("%s, %s: %q answered", name, agent, who)
			}
		}
		if who := get(t, addr, "curl/8.0", upload, protocols); who != "debuggee" {
			t.Errorf("%s upload: %q answered", name, who)
		}
	}
}

// A tcpSocket probe says nothing: its connection is the pod's.
func TestProbeConnects(t *testing.T) {
	in, port := newTest(t), echo(t)
	steal(t, in, protocol.Steal{Port: port, Probed: true}, holder(func() (net.Conn, error) {
		t.Error("a probe was offered to the holder")
		return refusing()
	}))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// Not all networks have kubelet at the pod's gateway.
func TestProbeFromElsewhere(t *testing.T) {
	in, port := newTest(t), echo(t)
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "inside"}, PeerName: "outside"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatal(err)
	}
	defer netlink.LinkDel(veth)
	addr, err := netlink.ParseAddr("10.9.0.2/24")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(veth, addr), netlink.LinkSetUp(veth),
		netlink.RouteAdd(&netlink.Route{LinkIndex: veth.Index, Gw: net.IPv4(10, 9, 0, 1)})); err != nil {
		t.Fatal(err)
	}
	steal(t, in, protocol.Steal{Port: port, Probed: true}, holder(func() (net.Conn, error) {
		t.Error("a probe was offered to the holder")
		return refusing()
	}))
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 0, 2)}}
	c, err := d.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
}

// Who says nothing is stolen a while later.
func TestProbeSilent(t *testing.T) {
	in, port := newTest(t), echo(t)
	steal(t, in, protocol.Steal{Port: port, Probed: true}, newDebuggee(t))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("::1"), port))
	b := make([]byte, len(debuggeeSays))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != debuggeeSays {
		t.Errorf("%q, %v", b, err)
	}
}

// The release of a port does not wait for a silent client, who becomes the pod's.
func TestProbeReleased(t *testing.T) {
	in, port := newTest(t), echo(t)
	s := steal(t, in, protocol.Steal{Port: port, Probed: true}, newDebuggee(t))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	s.Release()
	if _, err := io.WriteString(c, "words"); err != nil {
		t.Fatal(err)
	}
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "words" {
		t.Errorf("%q, %v", b, err)
	}
}

// A client of gRPC, as grpc-go is one: it says nothing of itself before it has
// its server's settings. Go's server ends a connection with one
// acknowledgement too many.
func TestProbeWaitingClient(t *testing.T) {
	addr := probed(t)
	for _, test := range []struct {
		fields []string
		want   string
	}{{kubelet, "pod"}, {health, "pod"}, {someone, "debuggee"}, {nil, "debuggee"}} {
		c := dial(t, addr)
		_ = c.SetDeadline(time.Now().Add(10 * time.Second))
		if _, err := c.Write(settings()); err != nil {
			t.Fatal(err)
		}
		fr := http2.NewFramer(c, c)
		fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
		if f, err := fr.ReadFrame(); err != nil || f.Header().Type != http2.FrameSettings {
			t.Fatalf("first frame: %v, %v", f, err)
		}
		if err := fr.WriteSettingsAck(); err != nil {
			t.Fatal(err)
		}
		fields := test.fields
		if fields == nil { // a request only after the server's own settings, long after
			for acks := 0; acks < 2; acks++ { // its settings, and that it has ours
				f, err := fr.ReadFrame()
				if err != nil {
					t.Fatal(err)
				}
				if s, ok := f.(*http2.SettingsFrame); ok && !s.IsAck() {
					fr.WriteSettingsAck()
				}
			}
			fields = someone
		}
		if _, err := c.Write(request(10, fields...)); err != nil {
			t.Fatal(err)
		}
		if err := fr.WriteData(1, true, []byte("body")); err != nil {
			t.Fatal(err)
		}
		for heard := ""; !strings.HasPrefix(heard, test.want); {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("%v: %v", test, err)
			}
			switch f := f.(type) {
			case *http2.SettingsFrame:
				if !f.IsAck() && test.fields != nil {
					fr.WriteSettingsAck()
				}
			case *http2.DataFrame:
				heard = string(f.Data())
				if !strings.HasPrefix(heard, test.want) {
					t.Errorf("%v: answered %q", test, heard)
					heard = test.want
				}
			case *http2.GoAwayFrame:
				t.Fatalf("%v: server goes away: %v", test, f.ErrCode)
			}
		}
		// A ping shows that the server still likes its client.
		if err := fr.WritePing(false, [8]byte{1}); err != nil {
			t.Fatal(err)
		}
		for {
			f, err := fr.ReadFrame()
			if err != nil {
				t.Fatalf("%v: after the answer: %v", test, err)
			}
			if _, ok := f.(*http2.PingFrame); ok {
				break
			}
			if g, ok := f.(*http2.GoAwayFrame); ok {
				t.Fatalf("%v: server goes away: %v", test, g.ErrCode)
			}
		}
	}
}
