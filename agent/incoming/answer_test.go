package incoming

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// paused is a pod that accepts nothing until it goes on.
func paused(t *testing.T) (addr netip.AddrPort, pod *net.TCPListener) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return addrOf(l.Addr()), l.(*net.TCPListener)
}

// untouched checks that nobody has connected to a pod. A queued connection is
// readable at once.
func untouched(t *testing.T, pod *net.TCPListener) {
	t.Helper()
	raw, err := pod.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	_ = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if n, err := unix.Poll(poll, 0); n != 0 || err != nil {
			t.Errorf("somebody has connected to the pod (%v)", err)
		}
	})
}

// asKubelet makes one probe of each kind; all succeed.
func asKubelet(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	for name, protocols := range map[string]func(*http.Protocols){
		"HTTP/1": func(p *http.Protocols) { p.SetHTTP1(true) },
		"HTTP/2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		tr := &http.Transport{DisableKeepAlives: true, Protocols: new(http.Protocols)}
		protocols(tr.Protocols)
		r, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+addr.String()+"/healthz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("User-Agent", "kube-probe/1.34")
		a, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(r)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		a.Body.Close()
		if a.StatusCode != http.StatusOK {
			t.Errorf("%s: %s", name, a.Status)
		}
	}
	c := dial(t, addr) // tcpSocket
	_ = c.CloseWrite()
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if b, err := io.ReadAll(c); len(b) > 0 || err != nil {
		t.Errorf("tcpSocket: %q, %v", b, err)
	}
	checkHealth(t, addr)
}

// checkHealth is kubelet's gRPC: it waits for its server's settings before it asks.
func checkHealth(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	c := dial(t, addr)
	_ = c.SetDeadline(time.Now().Add(30 * time.Second))
	if _, err := c.Write(settings()); err != nil {
		t.Fatal(err)
	}
	fr := http2.NewFramer(c, c)
	fr.ReadMetaHeaders = hpack.NewDecoder(4096, nil)
	var said []string
	asked := false
	for !slices.Contains(said, "grpc-status: 0") {
		f, err := fr.ReadFrame()
		if err != nil {
			t.Fatalf("gRPC: after %q: %v", said, err)
		}
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				continue
			}
			if err := fr.WriteSettingsAck(); err != nil {
				t.Fatal(err)
			}
			if !asked {
				asked = true
				if _, err := c.Write(request(1000, append(slices.Clone(health), "content-type", "application/grpc", "te", "trailers")...)); err != nil {
					t.Fatal(err)
				}
				if err := fr.WriteData(1, true, make([]byte, 5)); err != nil { // HealthCheckRequest{}
					t.Fatal(err)
				}
			}
		case *http2.MetaHeadersFrame:
			for _, h := range f.Fields {
				said = append(said, h.Name+": "+h.Value)
			}
		case *http2.DataFrame:
			said = append(said, string(f.Data()))
		case *http2.GoAwayFrame:
			if f.ErrCode != http2.ErrCodeNo {
				t.Fatalf("gRPC: after %q the server goes away: %v", said, f.ErrCode)
			}
		}
	}
	for _, want := range []string{":status: 200", "content-type: application/grpc", "\x00\x00\x00\x00\x02\x08\x01"} {
		if !slices.Contains(said, want) {
			t.Errorf("gRPC: %q, without %q", said, want)
		}
	}
}

// Whoever has a paused pod's port, if anybody does, kubelet is told that all is well.
func TestAnswerProbes(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		addr, pod := paused(t)
		stop, err := in.Answer([]uint16{addr.Port()})
		if err != nil {
			t.Fatal(err)
		}
		asKubelet(t, addr)
		debuggee := relayedTo(t, server(t, "debuggee"))
		http1 := func(p *http.Protocols) { p.SetHTTP1(true) }
		for _, q := range []protocol.Steal{{Probed: true}, {Probed: true, Filter: &protocol.Filter{Path: "."}}} {
			q.Port = addr.Port()
			s := steal(t, in, q, debuggee)
			asKubelet(t, addr)
			if who := get(t, addr, "curl/8.0", nil, http1); who != "debuggee" {
				t.Errorf("%q answered", who)
			}
			if _, err := in.Steal(t.Context(), protocol.Steal{Port: addr.Port()}, debuggee); !errors.Is(err, unix.EADDRINUSE) {
				t.Errorf("a second steal: %v", err)
			}
			s.Release()
			asKubelet(t, addr)
		}
		untouched(t, pod)

		// The end of a pause leaves what is stolen.
		s := steal(t, in, protocol.Steal{Port: addr.Port(), Probed: true}, debuggee)
		stop()
		if who := get(t, addr, "curl/8.0", nil, http1); who != "debuggee" {
			t.Errorf("%q answered", who)
		}
		untouched(t, pod)
		stop, err = in.Answer([]uint16{addr.Port()})
		if err != nil {
			t.Fatal(err)
		}
		s.Release()
		asKubelet(t, addr)
		untouched(t, pod)

		// Who is not kubelet waits for the pod.
		other := dial(t, addr)
		if _, err := io.WriteString(other, "words"); err != nil {
			t.Fatal(err)
		}
		_ = pod.SetDeadline(time.Now().Add(30 * time.Second))
		c, err := pod.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		words := make([]byte, 5)
		if _, err := io.ReadFull(c, words); err != nil || string(words) != "words" {
			t.Errorf("the pod has got %q, %v", words, err)
		}
		stop()
		again := dial(t, addr)
		direct, err := pod.AcceptTCP()
		if err != nil {
			t.Fatal(err)
		}
		defer direct.Close()
		if direct.RemoteAddr().String() != again.LocalAddr().String() {
			t.Errorf("after the pause the pod's client is %v, not %v", direct.RemoteAddr(), again.LocalAddr())
		}
	})
}

// Another agent is told why it cannot have a port, and may have it after.
func TestAnswerElsewhere(t *testing.T) {
	in, other := newTest(t), newTest(t)
	addr, _ := paused(t)
	stop, err := in.Answer([]uint16{addr.Port()})
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Steal(t.Context(), protocol.Steal{Port: addr.Port()}, newDebuggee(t))
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "probes of a paused pod") {
		t.Errorf("a steal elsewhere: %v", err)
	}
	stop()
	s := steal(t, other, protocol.Steal{Port: addr.Port()}, newDebuggee(t))
	if stop, err := in.Answer([]uint16{addr.Port()}); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("answering where another steals: %v", err)
	} else {
		stop()
	}
	s.Release()
}
