package httpfilter

import (
	"bytes"
	"io"
	"net/http"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/h2c" //nolint:staticcheck // of all servers it alone goes on in HTTP/2
	"golang.org/x/net/http2/hpack"
)

const upgrading = "GET /first HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive, Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAA\r\n"

// A client that goes on in HTTP/2, as the pod agrees, has its streams split.
func TestGoesOnInHTTP2(t *testing.T) {
	srv := &http.Server{Handler: h2c.NewHandler(returns("pod"), new(http2.Server))} //nolint:staticcheck // as above
	w := &world{
		pod:     &place{name: "pod", serve: serving(t, srv)},
		holders: []*place{web2(t, "alice's", "alice", returns("alice's"))},
	}
	c := w.client(t)
	say(t, c, upgrading+"\r\n")
	readTo(t, c, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n")
	say(t, c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.ReadMetaHeaders = hpack.NewDecoder(tableSize, nil)
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	ask := func(id uint32, user string) {
		block.Reset()
		for _, h := range [][2]string{{":method", "GET"}, {":scheme", "http"}, {":authority", "shop"}, {":path", "/"}, {"x-user", user}} {
			_ = e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		if err := f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true, EndStream: true}); err != nil {
			t.Error(err)
		}
	}
	go func() {
		_ = f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 10 << 20})
		ask(3, "alice")
		ask(5, "bob")
	}()
	got := map[uint32]string{}
	for ended := 0; ended < 3; {
		frame, err := f.ReadFrame()
		if err != nil {
			t.Fatal(err)
		}
		if h, ok := frame.(*http2.MetaHeadersFrame); ok {
			for _, field := range h.Fields {
				if field.Name == "x-name" {
					got[h.StreamID] = field.Value
				}
			}
		}
		if frame.Header().Flags.Has(http2.FlagDataEndStream) && frame.Header().StreamID != 0 {
			ended++
		}
	}
	if got[1] != "pod" || got[3] != "alice's" || got[5] != "pod" {
		t.Errorf("the streams were answered by %v", got)
	}
}

// A holder is not asked, as it would have the connection's other streams, too.
func TestHolderGoesOn(t *testing.T) {
	const without = "GET /first HTTP/1.1\r\nHost: shop\r\nConnection: keep-alive\r\nX-User: alice\r\n\r\n"
	w := &world{pod: script(t, "pod", "", plain, ok, end), holders: []*place{script(t, "alice", "alice", without, mine, without, mine, end)}}
	c := w.client(t)
	for range 2 {
		say(t, c, upgrading+"X-User: alice\r\n\r\n")
		expect(t, "client", c, mine)
	}
	say(t, c, plain)
	expect(t, "client", c, ok)
	_ = c.CloseWrite()
	_, _ = io.Copy(io.Discard, c)
}
