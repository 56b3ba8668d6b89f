package httpfilter

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mirrord/protocol/filter"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

// A duplex is one end of a connection in memory, of which each side ends its
// own direction.
type duplex struct {
	net.Conn          // read from
	out      net.Conn // written to
}

func newDuplex() (a, b *duplex) {
	one, other := net.Pipe()
	back, forth := net.Pipe()
	return &duplex{one, back}, &duplex{forth, other}
}

// A pipe shows its reader an empty write, which no socket does.
func (d *duplex) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return d.out.Write(b)
}

func (d *duplex) CloseWrite() error { return d.out.Close() }
func (d *duplex) Close() error      { return errors.Join(d.Conn.Close(), d.out.Close()) }

func (d *duplex) SetDeadline(t time.Time) error {
	return errors.Join(d.Conn.SetDeadline(t), d.out.SetDeadline(t))
}

// A place is the pod or a holder: it takes connections, which serve gets the
// other ends of.
type place struct {
	name  string
	serve func(*duplex)
	wants string       // the user, or path, whose requests it gets; "": by body
	no    error        // it takes none
	first atomic.Value // a string: of the latest that was taken, what went along
	taken atomic.Int32
	wg    sync.WaitGroup
}

func (p *place) Name() string { return p.name }

func (p *place) Take(first []byte) (Conn, error) {
	p.first.Store(string(first))
	p.taken.Add(1)
	if p.no != nil {
		return nil, p.no
	}
	ours, theirs := newDuplex()
	p.wg.Go(func() { p.serve(theirs) })
	return ours, nil
}

// A world is a port with its places.
type world struct {
	over    context.Context // nil: never
	deaf    bool
	secure  func(*tls.ClientHelloInfo) *Secured // nil: no TLS is opened
	pod     *place
	holders []*place
	first   atomic.Bool
}

func (w *world) Pod() (Conn, error) { return w.pod.Take(nil) }
func (w *world) Over() context.Context {
	if w.over == nil {
		return context.Background()
	}
	return w.over
}
func (w *world) Deaf() bool { return w.deaf }
func (w *world) Secure(h *tls.ClientHelloInfo) *Secured {
	if w.secure == nil {
		return nil
	}
	return w.secure(h)
}
func (w *world) PodFirst() bool   { return w.first.Load() }
func (w *world) Spoke(first bool) { w.first.Store(first) }

func (w *world) Choose(r *filter.Request) (Holder, filter.Answer) {
	for _, h := range w.holders {
		if h.wants == "" && !r.Whole && !r.Unseen {
			return nil, filter.Unsure
		}
		if h.wants == r.Path {
			return h, filter.Yes
		}
		if h.wants == "" && strings.Contains(string(r.Body), "debug") {
			return h, filter.Yes
		}
		for _, f := range r.Header {
			if strings.EqualFold(f.Name, "x-user") && f.Value == h.wants {
				return h, filter.Yes
			}
		}
	}
	return nil, filter.No
}

// client connects to the world's port.
func (w *world) client(t *testing.T) *duplex {
	t.Helper()
	ours, theirs := newDuplex()
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		defer close(done)
		_ = Serve(ctx, theirs, w)
	}()
	t.Cleanup(func() {
		ours.Close()
		select {
		case <-done:
		case <-time.After(20 * time.Second):
			t.Error("the connection does not end")
			cancel()
			<-done
		}
		cancel()
		w.pod.wg.Wait()
		for _, h := range w.holders {
			h.wg.Wait()
		}
	})
	_ = ours.SetDeadline(time.Now().Add(30 * time.Second))
	return ours
}

// listener makes a net.Listener of what is taken one by one.
type listener struct{ conn chan net.Conn }

func (l listener) Accept() (net.Conn, error) {
	if c, ok := <-l.conn; ok {
		return c, nil
	}
	return nil, io.EOF
}
func (l listener) Close() error   { return nil }
func (l listener) Addr() net.Addr { return &net.TCPAddr{} }

// web is a place with a real HTTP server, which answers with its name.
func web(t *testing.T, name, wants string) *place {
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		w.Header().Set("Trailer", "X-End")
		fmt.Fprintf(w, "%s %s %s", name, r.URL, b)
		w.(http.Flusher).Flush() // so it is chunked
		w.Header().Set("X-End", r.Trailer.Get("X-End"))
	})}
	return &place{name: name, wants: wants, serve: serving(t, srv)}
}

// script is a place that expects words and answers with others, in turn. Words
// of "" are the connection's end.
func script(t *testing.T, name, wants string, words ...string) *place {
	return &place{name: name, wants: wants, serve: func(c *duplex) {
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(20 * time.Second))
		for i, w := range words {
			if i%2 == 1 {
				if _, err := io.WriteString(c, w); err != nil {
					t.Errorf("%s: saying %.300q: %v", name, w, err)
				}
				continue
			}
			expect(t, name, c, w)
		}
	}}
}

func expect(t *testing.T, name string, r io.Reader, want string) {
	t.Helper()
	if want == "" {
		if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
			t.Errorf("%s got %q, %v, not the end", name, b, err)
		}
		return
	}
	b := make([]byte, len(want))
	if n, err := io.ReadFull(r, b); string(b[:n]) != want {
		t.Errorf("%s got\n%.300q, %v, not\n%.300q", name, b[:n], err, want)
	}
}

func say(t *testing.T, c io.Writer, words string) {
	t.Helper()
	if _, err := io.WriteString(c, words); err != nil {
		t.Fatalf("saying %.300q: %v", words, err)
	}
}

// Requests of one connection that is kept go to three places.
func TestKeptConnection(t *testing.T) {
	w := &world{pod: web(t, "pod", ""), holders: []*place{web(t, "alice's", "alice"), web(t, "bob's", "bob")}}
	c := w.client(t)
	in := bufio.NewReader(c)
	for i, user := range []string{"alice", "", "bob", "bob", "alice", "", "", "carol", "bob"} {
		r, _ := http.NewRequest("POST", fmt.Sprintf("http://shop/%d", i), io.MultiReader(strings.NewReader("words"))) // chunked
		r.Header.Set("X-User", user)
		r.Trailer = http.Header{"X-End": {user}}
		go r.Write(c)
		a, err := http.ReadResponse(in, r)
		if err != nil {
			t.Fatalf("request %d: %v", i, err)
		}
		b, err := io.ReadAll(a.Body)
		name := map[string]string{"alice": "alice's", "bob": "bob's"}[user]
		if name == "" {
			name = "pod"
		}
		if want := fmt.Sprintf("%s /%d words", name, i); err != nil || string(b) != want || a.Trailer.Get("X-End") != user {
			t.Errorf("request %d of %q: %q, %v, %v", i, user, b, a.Trailer, err)
		}
	}
	for _, p := range append(w.holders, w.pod) {
		if n := p.taken.Load(); n != 1 {
			t.Errorf("%s has %d connections", p.name, n)
		}
	}
}

// serving has srv serve the connections that a place is given, until the test's end.
func serving(t *testing.T, srv *http.Server) func(*duplex) {
	l := listener{make(chan net.Conn)}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		close(l.conn)
		srv.Close()
		<-done
	})
	return func(c *duplex) { l.conn <- c }
}
