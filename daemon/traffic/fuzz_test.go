package traffic

import (
	"io"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mirrord/protocol/ide"
)

// listened feeds two sides in pieces and returns what is told, without what
// depends on the pieces.
func listened(t *testing.T, asks, answers []byte, piece int) []ide.SessionEvent {
	k := newTalk(t, false)
	k.feed(client, asks, piece)
	k.feed(server, answers, piece)
	k.end(io.EOF)
	open := map[uint64]bool{}
	for _, e := range k.events {
		switch e.Kind {
		case ide.EventRequest:
			open[e.Request.ID] = true
		case ide.EventResponse:
			if !open[e.Request.ID] {
				t.Errorf("request %d is answered, but not open", e.Request.ID)
			}
			delete(open, e.Request.ID)
			e.Request.MS = 0
		case ide.EventConnection:
			e.Connection.MS = 0
			if e.Connection.Open {
				e.Connection.BytesIn, e.Connection.BytesOut = 0, 0
			}
		}
	}
	if len(open) > 0 {
		t.Errorf("never answered: %v", open)
	}
	w := k.flow.w
	sum := 0
	for _, x := range w.store.last {
		sum += x.size
		if len(x.request.body) > maxBody || len(x.response.body) > maxBody {
			t.Errorf("bodies of %d and %d bytes are kept", len(x.request.body), len(x.response.body))
		}
		x.result(0, false)
	}
	if w.heads != 0 || w.queued.Load() != 0 || sum != w.store.size || sum > maxStored || len(w.store.last) > maxExchanges {
		t.Errorf("%d bytes of heads, %d queued, %d stored, counted %d, of %d requests", w.heads, w.queued.Load(), sum, w.store.size, len(w.store.last))
	}
	return k.events
}

// What is told does not depend on the pieces that it comes in, every request
// is answered once, and what is kept is counted.
func FuzzConversation(f *testing.F) {
	for _, s := range [][2]string{
		{"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nx"},
		{"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3;a\r\nabc\r\n0\r\nX: y\r\n\r\nHEAD /2 HTTP/1.0\r\n\r\n", "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"},
		{"GET /ws HTTP/1.1\r\nUpgrade: x\r\n\r\n", "HTTP/1.1 101 Switching\r\n\r\nxyz"},
		{"*1\r\n$4\r\nPING\r\n", "+PONG\r\n"},
		{"", "SSH-2.0\r\n"},
		{
			preface + "\x00\x00\x00\x04\x00\x00\x00\x00\x00" + "\x00\x00\x03\x01\x04\x00\x00\x00\x01\x82\x84\x86" + "\x00\x00\x02\x00\x01\x00\x00\x00\x01ok" + "\x00\x00\x04\x03\x00\x00\x00\x00\x03\x00\x00\x00\x08",
			"\x00\x00\x00\x04\x01\x00\x00\x00\x00" + "\x00\x00\x01\x01\x04\x00\x00\x00\x01\x88" + "\x00\x00\x04\x00\x09\x00\x00\x00\x01\x02x\x00\x00",
		},
	} {
		f.Add([]byte(s[0]), []byte(s[1]), byte(3))
	}
	f.Fuzz(func(t *testing.T, asks, answers []byte, piece byte) {
		whole := listened(t, asks, answers, 1<<20)
		parts := listened(t, asks, answers, int(piece)+1)
		if diff := cmp.Diff(whole, parts); diff != "" {
			t.Errorf("in pieces of %d: %s", int(piece)+1, diff)
		}
	})
}

// A resolver's answer may be anything.
func FuzzNames(f *testing.F) {
	f.Add([]byte("\x00\x01\x80\x00\x00\x01\x00\x01\x00\x00\x00\x00\x01a\x00\x00\x01\x00\x01\x01a\x00\x00\x01\x00\x01\x00\x00\x00\x01\x00\x04\x0a\x00\x00\x01"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var n names
		n.learn(b)
		for a, name := range n.by {
			if !a.IsValid() || len(name) > 255 {
				t.Errorf("%v is %q", a, name)
			}
		}
	})
}
