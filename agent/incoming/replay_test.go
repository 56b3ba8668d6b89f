package incoming

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// hearing is a server that tells of each request's path and body.
func hearing(t *testing.T) (addr string, heard <-chan string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	told := make(chan string, 1000)
	srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sum := sha256.New()
		n, err := io.Copy(sum, r.Body)
		_, _ = io.WriteString(w, strings.Repeat("an answer that nobody hears", 10_000))
		told <- fmt.Sprintf("%s %d %x %v", r.URL.Path, n, sum.Sum(nil)[:4], err)
	})}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	return l.Addr().String(), told
}

// Of a mirrored port a filter's holder hears the requests that it chooses, and
// their clients the pod's answers to all.
func TestMirrorByFilter(t *testing.T) {
	for name, speak := range map[string]func(*http.Protocols){
		"HTTP/1": func(p *http.Protocols) { p.SetHTTP1(true) }, "HTTP/2": func(p *http.Protocols) { p.SetUnencryptedHTTP2(true) },
	} {
		t.Run(name, func(t *testing.T) {
			in := newTest(t)
			pod := netip.MustParseAddrPort(server(t, "pod"))
			addr, heard := hearing(t)
			s := steal(t, in, protocol.Steal{Port: pod.Port(), Mirror: true, Filter: user("alice")}, relayedTo(t, addr))
			if s.Redirect() != "packet" {
				t.Errorf("redirect %q", s.Redirect())
			}
			tr := &http.Transport{Protocols: new(http.Protocols), MaxConnsPerHost: 1}
			speak(tr.Protocols)
			t.Cleanup(tr.CloseIdleConnections)
			var want []string
			for i := range 100 {
				who := []string{"alice", "bob", "", "alice"}[i%4]
				words := strings.Repeat("words ", []int{0, 1, 1000, 20_000}[i%3])
				r, _ := http.NewRequestWithContext(t.Context(), "POST", fmt.Sprintf("http://%s/%s/%d", pod, who, i), strings.NewReader(words))
				r.Header.Set("X-User", who)
				a, err := tr.RoundTrip(r)
				if err != nil {
					t.Fatal(err)
				}
				b, err := io.ReadAll(a.Body)
				a.Body.Close()
				if err != nil || string(b) != "pod"+string(sum(words)) {
					t.Errorf("request %d was answered by %.5q, %v", i, b, err)
				}
				if who == "alice" {
					want = append(want, fmt.Sprintf("/alice/%d %d %x <nil>", i, len(words), sum(words)[:4]))
				}
			}
			got := map[string]bool{}
			for range want {
				select {
				case h := <-heard:
					got[h] = true
				case <-time.After(20 * time.Second):
					t.Fatalf("heard %d requests, not %d", len(got), len(want))
				}
			}
			for _, w := range want {
				if !got[w] {
					t.Errorf("not heard: %s", w)
				}
			}
			tr.CloseIdleConnections()
			s.Release()
			if len(heard) > 0 {
				t.Errorf("also heard: %s", <-heard)
			}
		})
	}
}

// What is not HTTP, and what is reset, is nobody's, and leaves nothing.
func TestMirrorByFilterOfOthers(t *testing.T) {
	in, port := newTest(t), echo(t)
	addr, heard := hearing(t)
	s := steal(t, in, protocol.Steal{Port: port, Mirror: true, Filter: &protocol.Filter{Path: "."}}, relayedTo(t, addr))
	talk(t, "127.0.0.1", port, []byte("no HTTP\r\n\r\nGET / HTTP/1.1\r\n\r\n"))
	talk(t, "127.0.0.1", port, nil)
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if _, err := io.WriteString(c, "GET /half HTTP/1.1\r\nHost:"); err != nil {
		t.Fatal(err)
	}
	reset(c)
	talk(t, "::1", port, []byte("GET /whole HTTP/1.1\r\nHost: x\r\n\r\n"))
	if got := <-heard; !strings.HasPrefix(got, "/whole 0") {
		t.Errorf("heard %s", got)
	}
	s.Release()
	if _, err := in.Steal(context.Background(), protocol.Steal{Port: port, Mirror: true, Once: true}, holder(refusing)); err == nil || !strings.Contains(err.Error(), unix.EOPNOTSUPP.Error()) {
		t.Errorf("mirroring once: %v", err)
	}
}
