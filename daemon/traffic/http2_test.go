package traffic

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"mirrord/protocol/ide"
)

// Many requests at once on one connection.
func TestHTTP2(t *testing.T) {
	w := serve(t, echo)
	c := w.client(true)
	w.do(c, "GET", "/first", nil, "Authorization", "Bearer secret", "X-Large", strings.Repeat("x", 100<<10))
	big := strings.Repeat("0123456789", 30_000)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			if got := w.do(c, "POST", fmt.Sprint("/", i, "?chunked"), strings.NewReader(big[:i*len(big)/20]+" x"), "X-Again", "and again"); len(got) != i*len(big)/20+2 {
				t.Errorf("%d bytes", len(got))
			}
		})
	}
	wg.Wait()
	list := w.answers(21)
	peers := map[string]bool{}
	for _, r := range list {
		peers[r.Peer] = true
		want := 0
		if r.Path != "/first" {
			var i int
			fmt.Sscanf(r.Path, "/%d", &i)
			want = i*len(big)/20 + 2
			if r.Status != 201 || r.Method != "POST" {
				t.Errorf("%+v %+v", r.Asked, r.Answered)
			}
		}
		if r.Proto != "HTTP/2" || r.Host != w.addr || r.GRPC || r.Error != "" || r.RequestBytes != int64(want) || r.ResponseBytes != int64(want) {
			t.Errorf("%+v %+v, want %d bytes", r.Asked, r.Answered, want)
		}
		got, ok := w.source.Request(r.ID, false)
		if !ok || string(got.Request.Body) != string(got.Response.Body) || len(got.Request.Body) != min(want, maxBody) || got.Request.Truncated != (want > maxBody) {
			t.Errorf("%s: %d and %d bytes are kept", r.Path, len(got.Request.Body), len(got.Response.Body))
		}
		if r.Path == "/first" {
			if field(got.Request.Headers, "authorization") != masked || len(field(got.Request.Headers, "x-large")) != 100<<10 || field(got.Response.Headers, "set-cookie") != masked {
				t.Errorf("%v %v", got.Request.Headers, got.Response.Headers)
			}
		} else if field(got.Request.Headers, "x-again") != "and again" || field(got.Response.Trailers, "x-sum") != "42" {
			t.Errorf("%v %v", got.Request.Headers, got.Response.Trailers)
		}
	}
	if len(peers) != 1 {
		t.Errorf("they came on %d connections", len(peers))
	}
}

// What a gRPC server says: its status is a trailer, or a header where there is
// nothing else.
func TestGRPC(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", "application/grpc+proto")
		if r.URL.Path == "/shop.Inventory/Missing" {
			w.Header().Set("Grpc-Status", "5")
			return
		}
		w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
		w.Write([]byte("\x00\x00\x00\x00\x02ok"))
		w.Header().Set("Grpc-Status", "0")
	})
	c := w.client(true)
	w.do(c, "POST", "/shop.Inventory/Get", strings.NewReader("\x00\x00\x00\x00\x01x"), "Content-Type", "application/grpc", "Te", "trailers")
	w.do(c, "POST", "/shop.Inventory/Missing", strings.NewReader("\x00\x00\x00\x00\x01x"), "Content-Type", "application/grpc+proto")
	for i, r := range w.answers(2) {
		if !r.GRPC || r.Status != 200 || r.GRPCStatus == nil || *r.GRPCStatus != []int{0, 5}[i] || r.RequestBytes != 6 || r.ResponseBytes != []int64{7, 0}[i] {
			t.Errorf("%+v %+v", r.Asked, r.Answered)
		}
	}
}

// A client that gives up a request, and a server that breaks down.
func TestHTTP2Reset(t *testing.T) {
	w := serve(t, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/panic" {
			w.Write([]byte("some"))
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
		<-r.Context().Done()
	})
	c := w.client(true)
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, "GET", "http://"+w.addr+"/wait", nil)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		w.until(ide.EventRequest, 1)
		cancel()
	}()
	if resp, err := c.Do(r); !errors.Is(err, context.Canceled) {
		t.Errorf("%v, %v", resp, err)
	}
	resp, err := c.Get("http://" + w.addr + "/panic")
	if err != nil {
		t.Fatal(err)
	}
	io.Copy(io.Discard, resp.Body)
	resp.Body.Close()
	list := w.answers(2)
	if list[0].Error != "its stream was reset: CANCEL" || list[0].Status != 0 {
		t.Errorf("%+v", list[0].Answered)
	}
	if list[1].Error != "its stream was reset: INTERNAL_ERROR" || list[1].Status != 0 || list[1].ResponseBytes != 4 {
		t.Errorf("%+v", list[1].Answered)
	}
}

// A talk is one that a test feeds by itself.
type talk struct {
	*world
	flow *flow
}

func newTalk(t *testing.T, midway bool) *talk {
	w := newSource(t)
	k := newWatcher(w.source)
	f := &flow{w: k}
	f.talk = newConversation(f, w.source.Incoming(port, false, k.peer()), midway)
	k.flows[f] = true
	return &talk{w, f}
}

// feed says b in pieces.
func (k *talk) feed(d direction, b []byte, piece int) {
	for part := range slices.Chunk(b, piece) {
		k.flow.add(d, part, k.flow.talk.offset[d])
		k.flow.look()
	}
}

func (k *talk) end(err error) {
	k.flow.ends(client)
	k.flow.ends(server)
	k.flow.push(record{kind: ended, err: err})
	k.flow.look()
}

// What the framing allows and Go does not say: padding, priorities, blocks in
// parts, pushes, frames of unknown kinds.
func TestHTTP2Frames(t *testing.T) {
	var said [2]bytes.Buffer
	var block bytes.Buffer
	encode := [2]*hpack.Encoder{hpack.NewEncoder(&block), hpack.NewEncoder(&block)}
	headers := func(d direction, fields ...string) []byte {
		block.Reset()
		for i := 0; i < len(fields); i += 2 {
			if err := encode[d].WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]}); err != nil {
				t.Fatal(err)
			}
		}
		return bytes.Clone(block.Bytes())
	}
	said[client].WriteString(preface)
	to, from := http2.NewFramer(&said[client], nil), http2.NewFramer(&said[server], nil)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(to.WriteSettings(http2.Setting{ID: http2.SettingHeaderTableSize, Val: 1 << 16}))
	must(from.WriteSettings())
	must(from.WriteSettingsAck())
	must(to.WriteRawFrame(0xbe, 0xff, 1, []byte("of another kind")))
	b := headers(client, ":method", "POST", ":scheme", "http", ":path", "/padded", ":authority", "shop", "cookie", "a=b")
	must(to.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: b[:3], PadLength: 9, Priority: http2.PriorityParam{StreamDep: 3, Weight: 7}}))
	must(to.WriteContinuation(1, false, b[3:7]))
	must(to.WriteContinuation(1, true, b[7:]))
	must(to.WriteDataPadded(1, false, []byte("hello "), make([]byte, 200)))
	must(to.WriteDataPadded(1, false, nil, make([]byte, 3)))
	must(to.WriteData(1, false, []byte("world")))
	must(to.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(client, "x-sum", "1"), EndHeaders: true, EndStream: true}))
	encode[server].SetMaxDynamicTableSizeLimit(1 << 16)
	encode[server].SetMaxDynamicTableSize(1 << 16)
	must(from.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(server, ":status", "103", "link", "x"), EndHeaders: true}))
	must(from.WritePushPromise(http2.PushPromiseParam{StreamID: 1, PromiseID: 2, BlockFragment: headers(server, ":method", "GET", ":path", "/pushed"), EndHeaders: true, PadLength: 4}))
	must(from.WriteHeaders(http2.HeadersFrameParam{StreamID: 2, BlockFragment: headers(server, ":status", "200"), EndHeaders: true, EndStream: true}))
	must(from.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: headers(server, ":status", "206", "x-long", strings.Repeat("y", 5000)), EndHeaders: true}))
	must(from.WritePing(false, [8]byte{}))
	must(from.WriteWindowUpdate(0, 100))
	must(from.WriteData(1, true, []byte("ok")))
	must(from.WriteGoAway(1, http2.ErrCodeNo, []byte("bye")))
	for _, piece := range []int{1, 7, 1 << 20} {
		k := newTalk(t, false)
		k.feed(client, said[client].Bytes(), piece)
		k.feed(server, said[server].Bytes(), piece)
		k.end(nil)
		list := k.answers(1)
		if len(list) != 1 || list[0].Method != "POST" || list[0].Path != "/padded" || list[0].Host != "shop" || list[0].Status != 206 ||
			list[0].Error != "" || list[0].RequestBytes != 11 || list[0].ResponseBytes != 2 {
			t.Errorf("in pieces of %d: %s", piece, k.all())
		}
		x := k.flow.w.store.get(list[0].ID)
		got := x.result(0, false)
		if string(got.Request.Body) != "hello world" || field(got.Request.Headers, "cookie") != masked || field(got.Request.Trailers, "x-sum") != "1" ||
			len(field(got.Response.Headers, "x-long")) != 5000 || string(got.Response.Body) != "ok" {
			t.Errorf("in pieces of %d: %+v", piece, got)
		}
		if k.flow.w.heads != 0 {
			t.Errorf("%d bytes of heads are kept", k.flow.w.heads)
		}
	}
}

// Frames that no HTTP/2 has end what is told of the connection.
func TestHTTP2Nonsense(t *testing.T) {
	head := preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00"
	for name, said := range map[string]string{
		"padding longer than its frame": "\x00\x00\x01\x00\x08\x00\x00\x00\x01\x05",
		"a block of no table":           "\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff",
		"a continuation of nothing":     "\x00\x00\x01\x09\x04\x00\x00\x00\x01\x82",
		"something within a block":      "\x00\x00\x01\x01\x00\x00\x00\x00\x01\x82\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"a block without its padding":   "\x00\x00\x00\x01\x0c\x00\x00\x00\x01",
		"a long reset":                  "\x00\x00\x05\x03\x00\x00\x00\x00\x01xxxxx",
	} {
		k := newTalk(t, false)
		k.feed(client, []byte(head+said), 5)
		if !k.flow.talk.opaque || k.flow.needless[server].Load() != forever {
			t.Errorf("%s is listened to", name)
		}
		k.end(nil)
		if diff := cmp.Diff([]ide.SessionEvent(nil), k.events); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
