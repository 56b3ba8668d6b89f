package httpfilter

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
)

func TestWithClose(t *testing.T) {
	for in, want := range map[string]string{
		"HTTP/1.1 200 OK\r\n\r\n":                                            "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\n\r\n":                       "HTTP/1.1 200 OK\r\ncontent-LENGTH: 2\r\nConnection: close\r\n\r\n",
		"HTTP/1.0 200 OK\r\nconnection: Keep-Alive\r\nA: b\r\n\r\n":          "HTTP/1.0 200 OK\r\nA: b\r\nConnection: close\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: x-a, keep-alive\r\nX-A: 1\r\n\r\n":   "HTTP/1.1 200 OK\r\nX-A: 1\r\nConnection: close, x-a\r\n\r\n",
		"HTTP/1.1 200 OK\r\nConnection: x-a\r\nConnection: x-b\r\n\r\n":      "HTTP/1.1 200 OK\r\nConnection: close, x-a, x-b\r\n\r\n",
		"HTTP/1.1 200 OK\r\nX-Connection: keep-alive\r\nConnection:\r\n\r\n": "HTTP/1.1 200 OK\r\nX-Connection: keep-alive\r\nConnection: close\r\n\r\n",
	} {
		if got := string(withClose([]byte(in))); got != want {
			t.Errorf("%q became %q, not %q", in, got, want)
		}
	}
}

// When the port is nobody's any more a connection ends with an answer that says
// so, from wherever it comes; no request is lost.
func TestDrain(t *testing.T) {
	for _, name := range []string{"pod", "alice"} {
		synctest.Test(t, func(t *testing.T) {
			ctx, over := context.WithCancel(t.Context())
			held := make(chan struct{})
			slow := func(name, wants string) *place {
				return &place{name: name, wants: wants, serve: serving(t, &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
					if r.URL.Path == "/wait" {
						<-held
					}
					_, _ = io.WriteString(w, name)
				})})}
			}
			w := &world{over: ctx, pod: slow("pod", ""), holders: []*place{slow("alice", "alice")}}
			c := w.client(t)
			r := bufio.NewReader(c)
			answer := func() *http.Response {
				t.Helper()
				a, err := http.ReadResponse(r, nil)
				if err != nil {
					t.Fatal(err)
				}
				if b, err := io.ReadAll(a.Body); err != nil || string(b) != name {
					t.Errorf("%q, %v", b, err)
				}
				return a
			}
			say(t, c, "GET / HTTP/1.1\r\nHost: x\r\nX-User: "+name+"\r\n\r\n")
			if a := answer(); a.Close {
				t.Error("it ends while the port is held")
			}
			say(t, c, "GET /wait HTTP/1.1\r\nHost: x\r\nX-User: "+name+"\r\n\r\n")
			synctest.Wait()
			over()
			synctest.Wait()
			close(held)
			if a := answer(); !a.Close {
				t.Errorf("it does not end with %v", a.Header)
			}
			if _, err := r.ReadByte(); err != io.EOF {
				t.Errorf("then: %v", err)
			}
			c.Close()
		})
	}
}

// A connection that nothing is asked on ends some time later; a tunnel does not.
func TestDrainIdle(t *testing.T) {
	const upgrade, switched = "GET /ws HTTP/1.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"
	synctest.Test(t, func(t *testing.T) {
		ctx, over := context.WithCancel(t.Context())
		defer over()
		for _, words := range [][2]string{{plain, ok}, {upgrade, switched}} {
			w := &world{over: ctx, pod: &place{name: "pod", serve: func(c *duplex) {
				defer c.Close()
				expect(t, "pod", c, words[0])
				say(t, c, words[1])
				_, _ = io.Copy(c, c)
			}}}
			c := w.client(t)
			_ = c.SetDeadline(time.Time{})
			say(t, c, words[0])
			readTo(t, c, words[1])
			over()
			if words[0] == plain {
				if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
					t.Errorf("%q, %v", b, err)
				}
			} else {
				time.Sleep(2 * drainTime)
				say(t, c, "words")
				readTo(t, c, "words")
			}
			c.Close()
		}
	})
}

// A client of HTTP/2 is told twice: what it has begun before it heard of the end is
// answered, and the end names that as the last.
func TestDrainTellsTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, over := context.WithCancel(t.Context())
		defer over()
		w := &world{over: ctx, pod: web2(t, "pod", "", returns("pod"))}
		c := w.client(t)
		say(t, c, http2.ClientPreface)
		f := http2.NewFramer(c, c)
		frames := make(chan string, 100)
		go func() {
			defer close(frames)
			for {
				frame, err := f.ReadFrame()
				if err != nil {
					return
				}
				switch frame := frame.(type) {
				case *http2.GoAwayFrame:
					frames <- fmt.Sprintf("end %d %v", frame.LastStreamID, frame.ErrCode)
				default:
					if h := frame.Header(); h.StreamID > 0 && h.Flags.Has(http2.FlagHeadersEndStream) {
						frames <- fmt.Sprintf("answer %d", h.StreamID)
					}
				}
			}
		}()
		if err := f.WriteSettings(); err != nil {
			t.Fatal(err)
		}
		for i, want := range []string{"answer 1", "end 2147483647 NO_ERROR", "answer 3", "end 3 NO_ERROR", ""} {
			switch i {
			case 0, 2:
				block := "\x82\x86\x84\x01\x01x" // GET, http, /, authority x
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: uint32(i + 1), BlockFragment: []byte(block), EndHeaders: true, EndStream: true}); err != nil {
					t.Fatal(err)
				}
			case 1:
				over()
			}
			if got := <-frames; got != want {
				t.Errorf("%d: %q, not %q", i, got, want)
			}
		}
		c.Close()
	})
}

// In HTTP/2 what was begun is finished, and a client that has heard of the end makes
// no more requests.
func TestDrainStreams(t *testing.T) {
	ctx, over := context.WithCancel(t.Context())
	begun, held := make(chan struct{}), make(chan struct{})
	w := &world{over: ctx, holders: []*place{web2(t, "alice", "alice", returns("alice"))}, pod: web2(t, "pod", "", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			close(begun)
			<-held
		}
		returns("pod")(w, r)
	})}
	client := w.client2(t)
	ask := func(path, user string) error {
		r, _ := http.NewRequest("POST", "http://shop"+path, strings.NewReader("words"))
		r.Header.Set("X-User", user)
		a, err := client.Do(r)
		if err != nil {
			return err
		}
		defer a.Body.Close()
		_, err = io.Copy(io.Discard, a.Body)
		return err
	}
	waits := make(chan error)
	go func() { waits <- ask("/wait", "") }()
	<-begun
	if err := ask("/", "alice"); err != nil {
		t.Fatal(err)
	}
	over()
	var err error
	for i := 0; err == nil; i++ {
		err = ask("/", []string{"", "alice"}[i%2])
	}
	if !strings.Contains(err.Error(), "client conn not usable") { // it knows, and has not sent it
		t.Errorf("the connection ended by %v", err)
	}
	close(held)
	if err := <-waits; err != nil {
		t.Errorf("what was begun before: %v", err)
	}
}
