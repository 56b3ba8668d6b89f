package httpfilter

import (
	"bytes"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"

	"mirrord/protocol/filter"
)

// However a body comes in pieces, it has the same end; and what collects it
// never gets more than there is.
func FuzzFraming(f *testing.F) {
	f.Add([]byte("5;a=b\r\nwords\r\n0\r\nX: y\r\n\r\nrest"), 7, true)
	f.Add([]byte("words and more"), 3, false)
	f.Fuzz(func(t *testing.T, in []byte, piece int, chunks bool) {
		start := framing{kind: length, left: 9}
		if chunks {
			start = framing{kind: chunked}
		}
		whole, part := start, start
		var data []byte
		part.data = &data
		n, done, err := whole.take(in)
		total, ended := 0, false
		var failed error
		for rest := in; len(rest) > 0 && !ended && failed == nil; {
			m := 0
			m, ended, failed = part.take(rest[:min(len(rest), max(piece, 1))])
			total += m
			rest = rest[m:]
		}
		if total != n || ended != done && len(in) > 0 || (failed == nil) != (err == nil) {
			t.Errorf("%d %v %v in pieces, %d %v %v as a whole", total, ended, failed, n, done, err)
		}
		if len(data) > n || n > len(in) {
			t.Errorf("%d of %d bytes hold %d", n, len(in), len(data))
		}
	})
}

// A head that is understood is understood by its bytes alone, not by what comes
// before they are all there; and says its length once at most.
func FuzzHead(f *testing.F) {
	f.Add([]byte(plain+stolen), 5)
	f.Add([]byte("POST / HTTP/1.1\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n"), 60)
	f.Add([]byte(ok), 30)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		n = min(max(n, 0), len(in))
		for _, parse := range []func(*head, []byte) error{
			(*head).request, func(h *head, b []byte) error { return h.answer(b, "GET") },
		} {
			var h head
			early := parse(&h, in[:n])
			late := parse(&h, in)
			if early == errForeign && late == nil || early == nil && late != nil {
				t.Errorf("%v, then %v", early, late)
			}
			if late != nil {
				continue
			}
			text := strings.ToLower(string(in[:h.size]))
			if strings.Count(text, "\n") != strings.Count(text, "\r\n") || strings.Contains(text, "\n ") ||
				strings.Count(text, "\ncontent-length:")+strings.Count(text, "\ntransfer-encoding:") > 1 {
				t.Errorf("%q was understood", text)
			}
		}
	})
}

// Where nobody holds anything, the pod gets what the client says and the
// client what the pod says, whatever it is.
func FuzzPassing(f *testing.F) {
	f.Add([]byte(plain+stolen), []byte(ok+mine))
	f.Add([]byte("\x16\x03\x01"), []byte("x"))
	f.Add([]byte("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nwords\r\n0\r\n\r\n"+plain), []byte("HTTP/1.0 200 OK\r\n\r\n"+ok))
	f.Add([]byte("GET / HTTP/1.1\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\nwords"), []byte("HTTP/1.1 101 Go on\r\n\r\nwords"))
	f.Fuzz(func(t *testing.T, said, answer []byte) {
		heard := make(chan []byte, 1)
		pod := &place{name: "pod", serve: func(c *duplex) {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(2 * time.Second))
			wrote := make(chan struct{})
			go func() {
				defer close(wrote)
				_, _ = c.Write(answer)
				_ = c.CloseWrite()
			}()
			b, _ := io.ReadAll(c)
			heard <- b
			<-wrote
		}}
		w := &world{pod: pod}
		w.first.Store(true) // so that nothing waits
		c := w.client(t)
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		go func() {
			_, _ = c.Write(said)
			_ = c.CloseWrite()
		}()
		b, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(b, answer) {
			t.Errorf("the client got %q, %v of %q", b, err, answer)
		}
		if _, err := c.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("the client's connection does not end: %v", err)
		}
		if b := <-heard; !bytes.HasPrefix(said, b) {
			t.Errorf("the pod got %q of %q", b, said)
		}
	})
}

// Whatever frames come from either side, the connection ends with its client.
func FuzzFrames(f *testing.F) {
	var said bytes.Buffer
	w := http2.NewFramer(&said, nil)
	_ = w.WriteSettings()
	settings := said.Len()
	block := []byte{0x82, 0x86, 0x84} // GET http /
	_ = w.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block, EndHeaders: true})
	_ = w.WriteData(1, true, []byte("words"))
	_ = w.WriteWindowUpdate(0, 9)
	_ = w.WriteRSTStream(1, 3)
	f.Add(said.Bytes(), said.Bytes()[:settings])
	f.Add(said.Bytes()[:settings+9+3], append(bytes.Clone(said.Bytes()[:settings]), 0, 0, 1, 1, 5, 0, 0, 0, 1, 0x88)) // 200
	f.Fuzz(func(t *testing.T, said, answer []byte) {
		pod := &place{name: "pod", serve: func(c *duplex) {
			defer c.Close()
			go io.Copy(io.Discard, c)
			_, _ = c.Write(answer)
			_ = c.CloseWrite()
		}}
		c := (&world{pod: pod}).client(t)
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(2 * time.Second))
		go func() {
			_, _ = io.WriteString(c, http2.ClientPreface)
			_, _ = c.Write(said)
			_ = c.CloseWrite()
		}()
		if _, err := io.Copy(io.Discard, c); err != nil {
			t.Errorf("the connection does not end: %v", err)
		}
	})
}

// A request without its offer to go on in HTTP/2 is the same but for that.
func FuzzOffer(f *testing.F) {
	f.Add([]byte("GET / HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings, x\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAAP__\r\nX: y\r\n\r\n"))
	f.Add([]byte("GET / HTTP/1.1\r\nconnection:upgrade\r\nUpgrade: h2c\r\nHTTP2-Settings: \r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var h, other head
		if h.request(in) != nil || offers(&h) == nil {
			return
		}
		out := withoutOffer(in[:h.size])
		if err := other.request(out); err != nil || len(out) > h.size {
			t.Fatalf("%q became %q: %v", in[:h.size], out, err)
		}
		same := func(f filter.Field) bool {
			return !slices.Contains([]string{"connection", "upgrade", "http2-settings"}, strings.ToLower(f.Name))
		}
		var want, got []filter.Field
		for _, f := range h.fields {
			if same(f) {
				want = append(want, f)
			}
		}
		for _, f := range other.fields {
			if same(f) {
				got = append(got, f)
			}
		}
		if offers(&other) != nil || !slices.Equal(got, want) || other.method != h.method || other.target != h.target || other.keeps() != h.keeps() {
			t.Errorf("%q became %q", in[:h.size], out)
		}
	})
}
