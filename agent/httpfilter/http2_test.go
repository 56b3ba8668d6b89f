package httpfilter

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// web2 is a place with a real server of HTTP/2.
func web2(t *testing.T, name, wants string, h http.HandlerFunc) *place {
	srv := &http.Server{Handler: h, Protocols: new(http.Protocols)}
	srv.Protocols.SetUnencryptedHTTP2(true)
	return &place{name: name, wants: wants, serve: serving(t, srv)}
}

// returns gives each body back while it comes, its name in a field and a trailer.
func returns(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Name", name)
		w.Header().Set("Trailer", "X-End")
		w.(http.Flusher).Flush()
		_, _ = io.Copy(flushing{w}, r.Body)
		w.Header().Set("X-End", name+r.Trailer.Get("X-End"))
	}
}

type flushing struct{ http.ResponseWriter }

func (f flushing) Write(b []byte) (int, error) {
	n, err := f.ResponseWriter.Write(b)
	f.ResponseWriter.(http.Flusher).Flush()
	return n, err
}

// client2 is a client of HTTP/2 with one connection.
func (w *world) client2(t *testing.T) *http.Client {
	c := w.client(t)
	_ = c.SetDeadline(time.Time{})
	tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) {
		return c, nil
	}}
	tr.Protocols.SetUnencryptedHTTP2(true)
	conn, err := tr.NewClientConn(t.Context(), "http", "shop:80")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &http.Client{Transport: conn, Timeout: 60 * time.Second}
}

// Streams of one connection go to three places at once, whatever their size.
func TestStreams(t *testing.T) {
	w := &world{
		pod:     web2(t, "pod", "", returns("pod")),
		holders: []*place{web2(t, "alice's", "alice", returns("alice's")), web2(t, "bob's", "bob", returns("bob's"))},
	}
	client := w.client2(t)
	names := map[string]string{"alice": "alice's", "bob": "bob's", "": "pod", "carol": "pod"}
	var wg sync.WaitGroup
	for i := range 60 {
		wg.Go(func() {
			user := []string{"alice", "", "bob", "carol"}[i%4]
			size := []int64{0, 100, 300 << 10, 2 << 20}[i/4%4]
			sent, got := sha256.New(), sha256.New()
			body := io.LimitReader(rand.NewChaCha8([32]byte{byte(i)}), size)
			r, _ := http.NewRequest("POST", "http://shop/", io.TeeReader(body, sent))
			r.Header.Set("X-User", user)
			r.Trailer = http.Header{"X-End": {user}}
			a, err := client.Do(r)
			if err != nil {
				t.Errorf("request %d: %v", i, err)
				return
			}
			defer a.Body.Close()
			n, err := io.Copy(got, a.Body)
			if n != size || err != nil || !bytes.Equal(sent.Sum(nil), got.Sum(nil)) || a.Header.Get("X-Name") != names[user] || a.Trailer.Get("X-End") != names[user]+user {
				t.Errorf("request %d of %q: %d of %d bytes, %v, %v, %v", i, user, n, size, err, a.Header, a.Trailer)
			}
		})
	}
	wg.Wait()
	for _, p := range append(w.holders, w.pod) {
		// Of a client that is slow to speak the pod was asked first, in HTTP/1.
		if n := p.taken.Load(); n != 1 && (p != w.pod || n != 2) {
			t.Errorf("%s has %d connections", p.name, n)
		}
	}
}

// Client and server talk on one stream, as gRPC does, and either may end it.
func TestStreaming(t *testing.T) {
	ended := make(chan string, 1)
	alice := web2(t, "alice's", "alice", func(w http.ResponseWriter, r *http.Request) {
		returns("alice's")(w, r)
		<-r.Context().Done()
		ended <- "canceled"
	})
	w := &world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{alice}}
	client := w.client2(t)
	for _, user := range []string{"alice", ""} {
		ctx, cancel := context.WithCancel(t.Context())
		out, in := io.Pipe()
		r, _ := http.NewRequestWithContext(ctx, "POST", "http://shop/", out)
		r.Header.Set("X-User", user)
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		for i := range 100 {
			words := fmt.Sprintf("message %d", i)
			go io.WriteString(in, words)
			b := make([]byte, len(words))
			if _, err := io.ReadFull(a.Body, b); err != nil || string(b) != words {
				t.Fatalf("%q, %v, not %q", b, err, words)
			}
		}
		if user == "" {
			in.Close()
			if b, err := io.ReadAll(a.Body); err != nil || len(b) > 0 {
				t.Errorf("%q, %v", b, err)
			}
		}
		cancel()
		a.Body.Close()
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the debuggee was not told that the client has given up")
	}
}

// What is not taken is the pod's; what is taken and not answered is told.
func TestStreamsRefused(t *testing.T) {
	breaks := &place{name: "bob", wants: "bob", serve: func(c *duplex) {
		f := http2.NewFramer(io.Discard, c)
		_, _ = io.ReadFull(c, make([]byte, len(http2.ClientPreface)))
		for {
			fr, err := f.ReadFrame()
			if _, ok := fr.(*http2.HeadersFrame); ok || err != nil {
				c.Close()
				return
			}
		}
	}}
	w := &world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{{name: "alice", wants: "alice", no: errors.New("gone")}, breaks}}
	client := w.client2(t)
	for i, user := range []string{"alice", "bob", "bob", "alice", ""} {
		r, _ := http.NewRequest("GET", "http://shop/", nil)
		r.Header.Set("X-User", user)
		if i == 2 {
			r.Header.Set("Content-Type", "application/grpc")
		}
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		switch {
		case i == 2:
			if a.StatusCode != 200 || a.Header.Get("Grpc-Status") != "14" || !strings.Contains(a.Header.Get("Grpc-Message"), "bob") {
				t.Errorf("%s, %v", a.Status, a.Header)
			}
		case user == "bob":
			if a.StatusCode != 502 || !strings.Contains(string(b), "the debuggee of bob") {
				t.Errorf("%s, %q", a.Status, b)
			}
		case a.Header.Get("X-Name") != "pod":
			t.Errorf("%q was answered by %v, %q", user, a.Header, b)
		}
	}
	// What went along is as if it had not: no window of the client's gets narrower or wider.
	for i := range 60 {
		body := bytes.Repeat([]byte("words"), []int{2000, 3000, 60_000}[i%3])
		r, _ := http.NewRequest("POST", "http://shop/", bytes.NewReader(body))
		r.Header.Set("X-User", "alice")
		a, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(a.Body)
		a.Body.Close()
		if err != nil || !bytes.Equal(b, body) || a.Header.Get("X-Name") != "pod" {
			t.Fatalf("request %d, of %d bytes, was answered by %d, %v, %v", i, len(body), len(b), a.Header, err)
		}
	}
	if n := keptByAll.Load(); n != 0 {
		t.Errorf("%d bytes are kept", n)
	}
}

// Where nobody listens in the pod its streams are refused, and a holder's go on; with
// none of those the connection ends.
func TestStreamsOfNoPod(t *testing.T) {
	stopped, taken := make(chan struct{}), make(chan struct{})
	w := &world{pod: &place{name: "pod", no: errors.New("connection refused")}, holders: []*place{web2(t, "alice's", "alice", func(w http.ResponseWriter, r *http.Request) {
		close(taken)
		<-stopped
		returns("alice's")(w, r)
	})}}
	c := w.client(t)
	say(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	ask := func(id uint32, user string) {
		fields := block([2]string{":method", "GET"}, [2]string{":scheme", "http"}, [2]string{":path", "/"}, [2]string{"x-user", user})
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: fields, EndHeaders: true, EndStream: true}); err != nil {
			t.Error(err)
		}
	}
	var done sync.WaitGroup
	done.Go(func() {
		_ = f.WriteSettings()
		ask(1, "alice")
		<-taken
		ask(3, "")
		ask(5, "")
	})
	for refused := 0; ; {
		frame, err := f.ReadFrame()
		if err == io.EOF && refused >= 3 { // there is alice's no more; of the last one it may not be told
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		switch frame := frame.(type) {
		case *http2.RSTStreamFrame:
			if frame.StreamID == 1 || frame.ErrCode != http2.ErrCodeRefusedStream {
				t.Fatal(frame)
			}
			if refused++; refused == 2 {
				close(stopped)
			}
		case *http2.MetaHeadersFrame:
			if frame.StreamEnded() { // her trailer
				done.Wait()
				done.Go(func() { ask(7, "") })
				refused++
			}
		}
	}
}

// A body decides where it must.
func TestStreamBodyDecides(t *testing.T) {
	w := &world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{web2(t, "mine", "", returns("mine"))}}
	client := w.client2(t)
	for body, want := range map[string]string{"debug": "mine", "other": "pod", "": "pod", strings.Repeat("debug", 20000): "pod"} {
		a, err := client.Post("http://shop/", "text/plain", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if a.Header.Get("X-Name") != want || string(b) != body {
			t.Errorf("%.20q went to %v", body, a.Header)
		}
	}
}

// A stream whose body will never be known is no holder's that chooses by it, but
// another's that knows it otherwise, and at once where that is plain.
func TestStreamBodyNotKnown(t *testing.T) {
	for name, header := range map[string][2]string{
		"gRPC":      {"Content-Type", "application/grpc+proto"},
		"too large": {"Content-Length", "65537"},
		"asked for": {"Expect", "100-continue"},
		"chunks":    {},
		"slow":      {},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := &world{
					pod:     web2(t, "pod", "", returns("pod")),
					holders: []*place{web2(t, "alice's", "", returns("alice's")), web2(t, "bob's", "bob", returns("bob's"))},
				}
				c := w.client(t)
				say(t, c, http2.ClientPreface)
				f := http2.NewFramer(c, c)
				f.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
				fields := [][2]string{{":method", "POST"}, {":scheme", "http"}, {":authority", "shop"}, {":path", "/"}, {"x-user", "bob"}}
				if header[0] != "" {
					fields = append(fields, [2]string{strings.ToLower(header[0]), header[1]})
				}
				began := time.Now()
				go func() {
					_ = f.WriteSettings()
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block(fields...), EndHeaders: true})
					if name == "chunks" {
						for range maxBody/initialFrame + 1 {
							_ = f.WriteData(1, false, make([]byte, initialFrame))
						}
					}
				}()
				for {
					frame, err := f.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if h, ok := frame.(*http2.MetaHeadersFrame); ok {
						took := time.Since(began)
						want := alongTime
						if name == "slow" {
							want = bodyTime
						}
						if !slices.Contains(h.Fields, hpack.HeaderField{Name: "x-name", Value: "bob's"}) || took != want {
							t.Errorf("%v after %v, not %v", h.Fields, took, want)
						}
						break
					}
				}
				go func() { _, _ = io.Copy(io.Discard, c) }()
				c.Close()
				synctest.Wait()
			})
		})
	}
}

// The body of a stream that comes at once, if not with its fields, goes along with them.
func TestStreamAlong(t *testing.T) {
	for name, pause := range map[string]time.Duration{"at once": 0, "soon": alongTime / 2, "late": 2 * alongTime} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				alice := web2(t, "alice's", "alice", returns("alice's"))
				w := &world{pod: web2(t, "pod", "", returns("pod")), holders: []*place{alice}}
				c := w.client(t)
				say(t, c, http2.ClientPreface)
				f := http2.NewFramer(c, c)
				go func() {
					_ = f.WriteSettings()
					fields := block([2]string{":method", "POST"}, [2]string{":scheme", "http"}, [2]string{":path", "/"}, [2]string{"x-user", "alice"})
					_ = f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: fields, EndHeaders: true})
					time.Sleep(pause)
					_ = f.WriteData(1, true, []byte("words"))
				}()
				body := ""
				for body != "words" {
					frame, err := f.ReadFrame()
					if err != nil {
						t.Fatal(err)
					}
					if d, ok := frame.(*http2.DataFrame); ok {
						body += string(d.Data())
					}
				}
				if first := alice.first.Load().(string); strings.Contains(first, "words") != (name != "late") {
					t.Errorf("%q went along", first)
				}
				go func() { _, _ = io.Copy(io.Discard, c) }()
				c.Close()
				synctest.Wait()
			})
		})
	}
}

// block is fields as a client's first request has them.
func block(fields ...[2]string) []byte {
	var b bytes.Buffer
	e := hpack.NewEncoder(&b)
	for _, f := range fields {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	return b.Bytes()
}

// Floods end the connection, and are bounded before.
func TestFloods(t *testing.T) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, f := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "shop"}, {":path", "/"}} {
		_ = e.WriteField(hpack.HeaderField{Name: f[0], Value: f[1]})
	}
	for name, flood := range map[string]func(f *http2.Framer, id *uint32) error{
		"rapid reset": func(f *http2.Framer, id *uint32) error {
			*id += 2
			return errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}), f.WriteRSTStream(*id, http2.ErrCodeCancel))
		},
		"made resets": func(f *http2.Framer, id *uint32) error {
			*id += 2
			return errors.Join(f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes(), EndHeaders: true}), f.WriteWindowUpdate(*id, 1<<31-1))
		},
		"malformed streams": func(f *http2.Framer, id *uint32) error {
			*id += 2
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes()[:2], EndHeaders: true}) // no path
		},
		"too many streams": func(f *http2.Framer, id *uint32) error {
			*id += 2
			return f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes(), EndHeaders: true})
		},
		"data of ended streams": func(f *http2.Framer, id *uint32) error {
			if *id == 1 {
				*id += 2
				if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
					return err
				}
			}
			return f.WriteData(*id, false, []byte("x"))
		},
		"priorities": func(f *http2.Framer, id *uint32) error { return f.WritePriority(3, http2.PriorityParam{StreamDep: 3}) },
		"settings": func(f *http2.Framer, id *uint32) error {
			return f.WriteSettings(http2.Setting{ID: http2.SettingMaxFrameSize, Val: 1 << 15})
		},
		"pings": func(f *http2.Framer, id *uint32) error { return f.WritePing(false, [8]byte{1}) },
		"continuation": func(f *http2.Framer, id *uint32) error {
			if *id == 1 {
				*id += 2
				return f.WriteHeaders(http2.HeadersFrameParam{StreamID: *id, BlockFragment: block.Bytes()})
			}
			b := append([]byte{0, 1, 'x', 0x7f, 0x80, 0x7f}, bytes.Repeat([]byte{'y'}, 16<<10-1)...)
			return f.WriteContinuation(*id, false, b)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := &world{pod: web2(t, "pod", "", returns("pod"))}
			c := w.client(t)
			say(t, c, http2.ClientPreface)
			f := http2.NewFramer(c, nil)
			if name == "rapid reset" || name == "made resets" { // the others read nothing
				go io.Copy(io.Discard, c)
			}
			id := uint32(1)
			err := f.WriteSettings()
			for n := 0; err == nil && n < 200_000; n++ {
				err = flood(f, &id)
			}
			if err == nil || errors.Is(err, context.DeadlineExceeded) {
				t.Error(err)
			}
			c.Close()
		})
	}
}
