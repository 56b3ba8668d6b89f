package incoming

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"mirrord/protocol"
)

// Clients of a port that retry nothing: some connect for each request, others keep
// their connections as long as they are told to.
type clients struct {
	t    *testing.T
	at   netip.AddrPort
	wg   sync.WaitGroup
	stop chan struct{}

	mu    sync.Mutex
	news  sync.Cond      // of what mu guards
	by    map[string]int // answers, by whom; guarded by mu
	fails int            // guarded by mu
}

// pace is between two requests of a client.
const pace = 20 * time.Millisecond

// load has n clients of both kinds ask, and as many as users.
func load(t *testing.T, at netip.AddrPort, n int, users ...string) *clients {
	c := &clients{t: t, at: at, stop: make(chan struct{}), by: map[string]int{}}
	c.news.L = &c.mu
	for i := range n {
		for _, keep := range []bool{false, true} {
			c.wg.Go(func() { c.run(keep, users[i%len(users)]) })
		}
	}
	return c
}

func (c *clients) run(keep bool, user string) {
	tick := time.NewTicker(pace)
	defer tick.Stop()
	var conn net.Conn
	var r *bufio.Reader
	defer func() {
		if conn != nil {
			conn.Close()
		}
	}()
	for {
		select {
		case <-tick.C:
		case <-c.stop:
			return
		}
		var err error
		if conn == nil {
			if conn, err = net.Dial("tcp", c.at.String()); err != nil {
				c.failed("connecting", err)
				continue
			}
			r = bufio.NewReader(conn)
		}
		_ = conn.SetDeadline(time.Now().Add(20 * time.Second))
		_, err = fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\nX-User: %s\r\n\r\n", user)
		var a *http.Response
		if err == nil {
			a, err = http.ReadResponse(r, nil)
		}
		var b []byte
		if err == nil {
			b, err = io.ReadAll(a.Body)
		}
		if err != nil {
			c.failed(fmt.Sprintf("asking as %s, keeping the connection: %v", user, keep), err)
		} else {
			name, _, _ := strings.Cut(string(b), string(sum("")))
			c.note(func() { c.by[name]++ })
		}
		if err != nil || !keep || a.Close {
			conn.Close()
			conn = nil
		}
	}
}

func (c *clients) failed(what string, err error) {
	c.t.Errorf("%s: %v", what, err)
	c.note(func() { c.fails++ })
}

func (c *clients) note(what func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	what()
	c.news.Broadcast()
}

// until waits for n more answers of somebody.
func (c *clients) until(name string, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for before := c.by[name]; c.by[name] < before+n && c.fails == 0; {
		c.news.Wait()
	}
}

func (c *clients) end() {
	close(c.stop)
	c.wg.Wait()
}

// A port is stolen and given back again and again, and no client notices, but by
// who answers.
func TestBeginAndEndUnderLoad(t *testing.T) {
	for name, test := range map[string]struct {
		protocol.Steal
		redirect string
		rounds   int
	}{
		"all":    {protocol.Steal{Flush: protocol.FlushIdle}, SkLookup, 20},
		"filter": {protocol.Steal{Flush: protocol.FlushIdle, Filter: user("alice")}, SkLookup, 20},
		"TPROXY": {protocol.Steal{Flush: protocol.FlushIdle, Filter: user("alice")}, TPROXY, 5},
	} {
		t.Run(name, func(t *testing.T) {
			in, q := newBy(t, test.redirect), test.Steal
			port := startPod(t, podSpeaksHTTP).port
			alice := relayedTo(t, server(t, "alice"))
			q.Port = port
			c := load(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port), 5, "alice", "alice", "bob")
			for range test.rounds {
				c.until("pod", 50)
				s, err := in.Steal(t.Context(), q, alice)
				if err != nil {
					t.Fatal(err)
				}
				c.until("alice", 50)
				s.Release()
			}
			c.until("pod", 50)
			c.end()
			t.Logf("%d answers of the pod, %d of alice", c.by["pod"], c.by["alice"])
		})
	}
}
