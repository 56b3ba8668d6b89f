package httpfilter

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// A breakpoint is no matter of who has requests on the same connection, whatever waits
// for it, and what waits comes whole.
func TestUploadsToBreakpoint(t *testing.T) {
	const uploads, size, seen = 60, 128 << 10, 64 << 10
	goOn := make(chan struct{})
	alice := web2(t, "alice's", "alice", func(w http.ResponseWriter, r *http.Request) {
		<-goOn
		n, _ := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n)
	})
	w := &world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{alice}}
	client := w.client2(t)
	var wg sync.WaitGroup
	reached := make(chan bool, uploads)
	for range uploads {
		wg.Go(func() {
			body := io.MultiReader(strings.NewReader(strings.Repeat("x", seen)), told{reached}, strings.NewReader(strings.Repeat("x", size-seen)))
			r, _ := http.NewRequest("POST", "http://shop/", body)
			r.Header.Set("X-User", "alice")
			a, err := client.Do(r)
			if err != nil {
				t.Error(err)
				return
			}
			defer a.Body.Close()
			if b, err := io.ReadAll(a.Body); string(b) != fmt.Sprint(size) || err != nil {
				t.Errorf("%q, %v", b, err)
			}
		})
	}
	late := time.After(30 * time.Second)
	for n := range uploads {
		select {
		case <-reached:
		case <-late:
			t.Errorf("of %d uploads %d go on", uploads, n)
			close(goOn)
			wg.Wait()
			return
		}
	}
	a, err := client.Post("http://shop/", "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(a.Body); string(b) != "hello" || a.Header.Get("X-Name") != "pod" || err != nil {
		t.Errorf("%q, %v, %v", b, a.Header, err)
	}
	a.Body.Close()
	close(goOn)
	wg.Wait()
}

// told tells that it was read to its end.
type told struct{ reached chan<- bool }

func (t told) Read([]byte) (int, error) {
	t.reached <- true
	return 0, io.EOF
}

// A raw is a client that says what it likes.
type raw struct {
	*http2.Framer
	t    *testing.T
	from chan heard
	id   uint32 // of the latest stream

	mu      sync.Mutex
	streams uint32 // that it may have, as it was told; guarded by mu
	window  int    // guarded by mu
}

// A heard is what a raw wants to know of a frame.
type heard struct {
	kind http2.FrameType
	id   uint32
	code http2.ErrCode
}

func (w *world) raw(t *testing.T) *raw {
	t.Helper()
	c := w.client(t)
	t.Cleanup(func() { c.Close() })
	say(t, c, http2.ClientPreface)
	r := &raw{Framer: http2.NewFramer(c, c), t: t, from: make(chan heard, 10_000), window: initialWindow}
	r.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	go r.read()
	if err := r.WriteSettings(); err != nil {
		t.Fatal(err)
	}
	r.until(settings)
	if err := r.WriteSettingsAck(); err != nil {
		t.Fatal(err)
	}
	return r
}

func settings(h heard) bool { return h.kind == http2.FrameSettings }

func (r *raw) read() {
	defer close(r.from)
	for {
		f, err := r.ReadFrame()
		if err != nil {
			return
		}
		h := heard{kind: f.Header().Type, id: f.Header().StreamID}
		r.mu.Lock()
		switch f := f.(type) {
		case *http2.SettingsFrame:
			if f.IsAck() {
				r.mu.Unlock()
				continue
			}
			if n, ok := f.Value(http2.SettingMaxConcurrentStreams); ok {
				r.streams = n
			}
		case *http2.WindowUpdateFrame:
			if f.StreamID == 0 {
				r.window += int(f.Increment)
			}
		case *http2.RSTStreamFrame:
			h.code = f.ErrCode
		}
		r.mu.Unlock()
		r.from <- h
	}
}

// ask begins a request of a user.
func (r *raw) ask(user string, end bool, more ...[2]string) {
	r.t.Helper()
	fields := block(append([][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/"}, {"x-user", user}}, more...)...)
	r.id = (r.id + 2) | 1
	if err := r.WriteHeaders(http2.HeadersFrameParam{StreamID: r.id, BlockFragment: fields, EndHeaders: true, EndStream: end}); err != nil {
		r.t.Fatal(err)
	}
}

// until waits for the first frame that is wanted.
func (r *raw) until(wanted func(heard) bool) {
	r.t.Helper()
	late := time.After(30 * time.Second)
	for {
		select {
		case h, ok := <-r.from:
			if !ok {
				r.t.Fatal("the connection has ended")
			}
			if wanted(h) {
				return
			}
		case <-late:
			r.t.Fatal("nothing comes")
		}
	}
}

// sync waits until all that it said was heard, and returns its window.
func (r *raw) sync() int {
	r.t.Helper()
	if err := r.WritePing(false, [8]byte{}); err != nil {
		r.t.Fatal(err)
	}
	r.until(func(h heard) bool { return h.kind == http2.FramePing })
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.window
}

// Requests that wait at a breakpoint leave as many to others as there would be without,
// and have bounds of their own.
func TestRequestsAtBreakpoint(t *testing.T) {
	for name, test := range map[string]struct{ size, held, others int }{
		"many":  {1, maxHeld + 1, maxStreams},
		"large": {12 << 10, maxStreams + maxHeads/(12<<10) + 1, 100},
	} {
		t.Run(name, func(t *testing.T) {
			stopped := &place{name: "alice's", wants: "alice", serve: func(c *duplex) { _, _ = io.Copy(io.Discard, c) }}
			c := (&world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{stopped}}).raw(t)
			refused := 0
			answered := func(h heard) bool {
				if h.kind == http2.FrameRSTStream {
					refused++
					if h.code != http2.ErrCodeRefusedStream {
						t.Error(h)
					}
				}
				return h.kind == http2.FrameHeaders && h.id == c.id
			}
			for i := range test.held {
				c.ask("alice", true, [2]string{"x-more", strings.Repeat("x", test.size)})
				if i == 0 || name == "many" && i%maxStreams == 0 && i < maxHeld { // it may have more
					c.until(settings)
					if err := c.WriteSettingsAck(); err != nil {
						t.Fatal(err)
					}
				}
			}
			for range test.others {
				c.ask("", false)
			}
			c.until(answered)
			if name == "many" && refused != 1 || refused == 0 {
				t.Errorf("%d were refused", refused)
			}
			if c.sync(); name == "many" && c.streams != maxHeld+maxStreams {
				t.Errorf("it may have %d", c.streams)
			}
		})
	}
}

// What is kept for a debuggee that takes nothing is bounded, for a connection and for
// all of an agent. Requests without a body go through meanwhile.
func TestKeptIsBounded(t *testing.T) {
	for name, test := range map[string]struct{ others, most int64 }{
		"of a connection": {0, maxKept},
		"of an agent":     {maxKeptByAll - 1<<20, 1 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			keptByAll.Add(test.others)
			t.Cleanup(func() { // after the connection's end
				if n := keptByAll.Add(-test.others); n != 0 {
					t.Errorf("%d bytes are kept for ever", n)
				}
			})
			alice := &place{name: "alice's", wants: "alice", serve: func(*duplex) {}}
			c := (&world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{alice}}).raw(t)
			sent := int64(0)
			for window := c.sync(); window >= initialFrame; window = c.sync() {
				c.ask("alice", false)
				for left := firstWindow; left > 0 && window >= initialFrame; left -= initialFrame {
					if err := c.WriteData(c.id, false, make([]byte, initialFrame)); err != nil {
						t.Fatal(err)
					}
					c.mu.Lock()
					c.window -= initialFrame
					c.mu.Unlock()
					window -= initialFrame
					sent += initialFrame
				}
			}
			if sent < test.most || sent > test.most+clientWindow {
				t.Errorf("%d bytes are kept, where %d may be and %d of a window", sent, test.most, clientWindow)
			}
			c.ask("", true)
			c.until(func(h heard) bool { return h.kind == http2.FrameHeaders && h.id == c.id })
		})
	}
}

// Where no more may be kept bodies pass as far as a window goes.
func TestNothingMoreIsKept(t *testing.T) {
	keptByAll.Add(maxKeptByAll)
	t.Cleanup(func() {
		if n := keptByAll.Add(-maxKeptByAll); n != 0 {
			t.Errorf("%d bytes are kept for ever", n)
		}
	})
	client := (&world{pod: web2(t, "pod", "", returns("pod"))}).client2(t)
	const size = 2 << 20
	a, err := client.Post("http://shop/", "text/plain", io.LimitReader(zeros{}, size))
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	if n, err := io.Copy(io.Discard, a.Body); n != size || err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
