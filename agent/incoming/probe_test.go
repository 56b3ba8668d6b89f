package incoming

import (
	"bytes"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// request is an HTTP/2 client's first request, in frames of at most size bytes
// of its header block.
func request(size int, fields ...string) []byte {
	var block, out bytes.Buffer
	e := hpack.NewEncoder(&block)
	for i := 0; i < len(fields); i += 2 {
		e.WriteField(hpack.HeaderField{Name: fields[i], Value: fields[i+1]})
	}
	w := http2.NewFramer(&out, nil)
	b := block.Bytes()
	first := b[:min(size, len(b))]
	w.WriteHeaders(http2.HeadersFrameParam{
		StreamID: 1, BlockFragment: first, EndHeaders: len(first) == len(b), PadLength: 7,
		Priority: http2.PriorityParam{Weight: 3},
	})
	for b = b[len(first):]; len(b) > 0; {
		next := b[:min(size, len(b))]
		b = b[len(next):]
		w.WriteContinuation(1, len(b) == 0, next)
	}
	return out.Bytes()
}

// settings begins an HTTP/2 client's words.
func settings() []byte {
	out := bytes.NewBufferString(http2.ClientPreface)
	w := http2.NewFramer(out, nil)
	w.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: 1 << 16})
	w.WriteWindowUpdate(0, 1<<16)
	return out.Bytes()
}

var (
	kubelet = []string{":method", "POST", ":scheme", "http", ":path", "/x", "user-agent", "kube-probe/1.34 grpc-go/1.75.1"}
	health  = []string{":method", "POST", ":scheme", "http", ":path", healthCheck, "user-agent", "grpc-java-netty/1.60"}
	someone = []string{":method", "POST", ":scheme", "http", ":path", "/x", "user-agent", "curl/8.0"}
)

func join(parts ...[]byte) string { return string(bytes.Join(parts, nil)) }

func TestLook(t *testing.T) {
	for in, want := range map[string]sight{
		"":       unsure,
		"GE":     unsure,
		"GET /r": unsure,
		"GET /ready HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34\r\n":    prober,
		"GET /ready HTTP/1.1\r\nHost: a\r\nUser-Agent: kube-probe/1.34":        unsure,
		"GET /ready HTTP/1.1\r\nhost: a\r\nuser-agent:kube-probe/1.34\r\n\r\n": prober,
		"GET /ready HTTP/1.1\r\nUser-Agent: curl/8.0 kube-probe/\r\n":          other,
		"GET /kube-probe/ HTTP/1.1\r\nX: User-Agent: kube-probe/1.34\r\n\r\n":  other,
		"GET /ready HTTP/1.1\r\n\r\nUser-Agent: kube-probe/1.34\r\n":           other,
		"POST / HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r\n":               other,
		"\x16\x03\x01\x02\x00":              other, // TLS
		"PRI * HTT":                         unsure,
		"PRI * HTTP/2.0\r\n\r\nXX":          other,
		preface:                             unsure,
		join(settings()):                    waits,
		join(settings(), request(4096)[:9]): waits,
		join(settings(), request(4096, kubelet...)):                            prober,
		join(settings(), request(10, kubelet...)):                              prober,
		join(settings(), request(10, kubelet...)[:60]):                         unsure,
		join(settings(), request(4096, health...)):                             prober,
		join(settings(), request(4096, someone...)):                            other,
		join(settings(), request(4096, someone...), request(4096, kubelet...)): other,
		join([]byte(preface), request(4096, kubelet...)):                       prober,
		preface + "\x00\x00\x01\x00\x00\x00\x00\x00\x01x":                      other, // data before settings
		preface + "\x00\x00\x01\x01\x04\x00\x00\x00\x01\xff":                   other, // no header block
		preface + "\x00\x00\x01\x01\x0c\x00\x00\x00\x01\x09":                   other, // padding beyond the frame
	} {
		if got := look([]byte(in)); got != want {
			t.Errorf("%q: %d, want %d", in, got, want)
		}
	}
}

func TestWithoutAck(t *testing.T) {
	ack := []byte{0, 0, 0, typeSettings, flagAck, 0, 0, 0, 0}
	before, after := settings(), request(4096, someone...)
	b := []byte(join(before, ack, after))
	got, end, ok := withoutAck(b)
	if !ok || string(got) != string(before) || string(b[end:]) != string(after) {
		t.Errorf("%q, %q, %v", got, b[end:], ok)
	}
	if _, _, ok := withoutAck([]byte(join(before, after))); ok {
		t.Error("an acknowledgement was seen where there is none")
	}
}

// What has been decided stays so, whatever follows.
func FuzzLook(f *testing.F) {
	f.Add([]byte("GET /ready HTTP/1.1\r\nUser-Agent: kube-probe/1.34\r\n\r\n"), 9)
	f.Add([]byte(join(settings(), request(10, kubelet...))), 30)
	f.Add([]byte(join(settings(), request(4096, someone...))), 70)
	f.Fuzz(func(t *testing.T, in []byte, n int) {
		if n < 0 || n > len(in) {
			return
		}
		early := look(in[:n])
		if late := look(in); (early == other || early == prober) && late != early {
			t.Errorf("%q: %d, then %d", in, early, late)
		}
		if begins(in, preface) {
			withoutAck(in)
		}
	})
}
