package mirrord_test

import (
	"net"
	"net/url"
	"os"
	"sync"
	"testing"
)

// A relay passes TCP connections on to the API server, until the test cuts them.
//
// Goroutines: one accepts, one dials for each connection and then two pass its
// bytes; the test's end waits for all.
type relay struct {
	net.Listener
	to string
	wg sync.WaitGroup

	mu     sync.Mutex
	deaf   chan struct{}  // guarded by mu; gets the new connections, which are muted; nil: they are not
	lines  map[*line]bool // guarded by mu; all that are open
	closed bool           // guarded by mu
}

// A line is one connection.
type line struct {
	near, far net.Conn
	muted     bool // guarded by relay.mu
}

// throughRelay is a kubeconfig whose API server is reached through a relay.
func throughRelay(t *testing.T) (config string, r *relay) {
	t.Helper()
	view := func(field string) string {
		return kubectl(t, "config", "view", "-o", "jsonpath={.clusters[0]."+field+"}")
	}
	server, err := url.Parse(view("cluster.server"))
	if err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r = &relay{Listener: l, to: server.Host, lines: map[*line]bool{}}
	r.wg.Go(r.accept)
	t.Cleanup(r.close)
	config = file(t, "kubeconfig", string(content))
	kubectl(t, "--kubeconfig", config, "config", "set-cluster", view("name"),
		"--server=https://"+l.Addr().String(), "--tls-server-name="+server.Hostname())
	return config, r
}

func (r *relay) accept() {
	for {
		near, err := r.Accept()
		if err != nil {
			return // closed
		}
		r.wg.Go(func() {
			far, err := net.Dial("tcp", r.to)
			if err != nil {
				near.Close()
				return
			}
			r.serve(&line{near: near, far: far})
		})
	}
}

func (r *relay) serve(l *line) {
	r.mu.Lock()
	r.lines[l] = true
	if r.deaf != nil {
		l.muted = true
		r.deaf <- struct{}{}
	}
	if r.closed {
		l.reset()
	}
	r.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { r.pass(l, l.far, l.near) })
	both.Go(func() { r.pass(l, l.near, l.far) })
	both.Wait()
	r.mu.Lock()
	delete(r.lines, l)
	r.mu.Unlock()
}

// pass ends with from. An end is passed on as that of both directions, as HTTP's
// ends are; a muted one is not.
func (r *relay) pass(l *line, to, from net.Conn) {
	defer from.Close()
	buf := make([]byte, 64<<10)
	for {
		n, err := from.Read(buf)
		r.mu.Lock()
		muted := l.muted
		r.mu.Unlock()
		if n > 0 && !muted {
			_, werr := to.Write(buf[:n])
			if err == nil {
				err = werr
			}
		}
		if err != nil {
			if !muted {
				to.Close()
			}
			return
		}
	}
}

func (l *line) reset() {
	for _, c := range []net.Conn{l.near, l.far} {
		c.(*net.TCPConn).SetLinger(0) //nolint:errcheck // closed then
		c.Close()
	}
}

// reset resets all connections; new ones pass.
func (r *relay) reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.lines {
		l.reset()
	}
}

// mute swallows what comes on all connections, ends too; new ones pass.
func (r *relay) mute() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for l := range r.lines {
		l.muted = true
	}
}

// deafen mutes new connections, too, until n have come.
func (r *relay) deafen(n int) {
	came := make(chan struct{}, 1000)
	set := func(to chan struct{}) {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.deaf = to
	}
	set(came)
	r.mute()
	for range n {
		<-came
	}
	set(nil)
}

// silence mutes all connections, new ones too, until it is ended.
func (r *relay) silence(on bool) {
	r.mu.Lock()
	r.deaf = nil
	if on {
		r.deaf = make(chan struct{}, 1000)
	}
	r.mu.Unlock()
	if on {
		r.mute()
	} else {
		r.reset()
	}
}

func (r *relay) close() {
	r.Listener.Close()
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.reset()
	r.wg.Wait()
}
