package capture

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"testing"
	"time"

	"mirrord/agent/agenttest"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

// words are bytes whose place can be told.
func words(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

// A receiver has each byte once, whatever became of its segments on the way.
func TestAssembly(t *testing.T) {
	sent := words(200_000)
	const start = 1<<32 - 70_000 // sequence numbers start over on the way
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		var list []Segment
		for at := 0; at < len(sent); {
			n := min(1+r.IntN(9000), len(sent)-at)
			list = append(list, Segment{Seq: uint32(start + 1 + at), Payload: sent[at : at+n]})
			if r.IntN(3) == 0 { // sent again, otherwise cut
				from := max(0, at-r.IntN(5000))
				list = append(list, Segment{Seq: uint32(start + 1 + from), Payload: sent[from:min(len(sent), from+r.IntN(9000))]})
			}
			at += n
		}
		list = append(list, Segment{Seq: uint32(start + 1 + len(sent)), flags: flagFIN | flagACK})
		for i := range list { // disorder
			j := min(len(list)-1, i+r.IntN(8))
			list[i], list[j] = list[j], list[i]
		}
		a := NewAssembly(Segment{Seq: start, flags: flagSYN})
		var got []byte
		done := false
		for _, s := range list {
			var err error
			if done, err = a.Add(s, time.Now(), func(b []byte) { got = append(got, b...) }); err != nil {
				t.Fatal(err)
			}
		}
		if !done || !bytes.Equal(got, sent) {
			t.Fatalf("%d of %d bytes, done: %v", len(got), len(sent), done)
		}
	}
}

func TestAssemblyGap(t *testing.T) {
	now := time.Now()
	a := NewAssembly(Segment{Seq: 9, flags: flagSYN})
	none := func(b []byte) { t.Errorf("%d bytes after a gap", len(b)) }
	if _, err := a.Add(Segment{Seq: 11, Payload: []byte("x")}, now, none); err != nil || a.Stale(now) || !a.Stale(now.Add(earlyAllowed+1)) {
		t.Errorf("%v, stale %v, later %v", err, a.Stale(now), a.Stale(now.Add(time.Minute)))
	}
	var err error
	for seq := uint32(100); err == nil && seq < 4<<20; seq += 1000 {
		_, err = a.Add(Segment{Seq: seq, Payload: make([]byte, 1000)}, now, none)
	}
	if !errors.Is(err, ErrGap) {
		t.Errorf("too much after a gap: %v", err)
	}
}

func TestMultipath(t *testing.T) {
	for options, want := range map[string][2]bool{
		"": {}, "\x02\x04\x05\xb4\x01\x01\x04\x02": {},
		"\x02\x04\x05\xb4\x1e\x04\x01\x01": {true, false},
		"\x01\x1e\x0c\x10\x00abcdefgh":     {false, true},
		"\x00\x1e\x04\x01\x01":             {},
		"\x1e":                             {}, "\x1e\x00": {}, "\x1e\x09\x10": {}, "\x1e\x02\x10": {},
	} {
		makes, joins := Segment{options: []byte(options)}.Multipath()
		if got := [2]bool{makes, joins}; got != want {
			t.Errorf("%q: %v, want %v", options, got, want)
		}
	}
}

// What a segment's payload is lies within its packet.
func FuzzParse(f *testing.F) {
	v4 := append([]byte{0x45, 0, 0, 44, 0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2}, make([]byte, 24)...)
	v4[32] = 5 << 4
	f.Add(v4)
	f.Add(append([]byte{0x60, 0, 0, 0, 0, 24, 6, 64}, make([]byte, 56)...))
	f.Fuzz(func(t *testing.T, in []byte) {
		s, ok := parse(in)
		if ok && (len(s.Payload) > len(in)-40 || !s.From.IsValid() || !s.To.IsValid()) {
			t.Errorf("%x: %+v", in, s)
		}
		s.Multipath()
	})
}

// The ring brings what comes to its ports, on both families, once.
func TestRing(t *testing.T) {
	agenttest.Namespace(t)
	r, err := Open()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	for _, host := range []string{"127.0.0.1", "::1"} {
		watched, other := listen(t, host), listen(t, host)
		port := watched.Addr().(*net.TCPAddr).AddrPort().Port()
		ports := []uint16{port}
		for p := range uint16(MaxPorts - 1) {
			ports = append(ports, 1+p) // of no client
		}
		slices.Reverse(ports) // ours is the last
		if err := r.Watch(ports); err != nil {
			t.Fatal(err)
		}
		sent := words(1 << 20)
		upload(t, other, sent[:100])
		upload(t, watched, sent)
		var a *Assembly
		var got []byte
		for done := false; !done; {
			err := r.Read(time.Now().Add(5*time.Second), func(s Segment) {
				if s.To.Addr().Is4() != (host == "127.0.0.1") {
					return // the last acknowledgements of the other family's
				}
				if s.To.Port() != port || s.Outgoing {
					t.Errorf("captured %v → %v", s.From, s.To)
				}
				if s.Begins() {
					a = NewAssembly(s)
				}
				var err error
				if done, err = a.Add(s, time.Now(), func(b []byte) { got = append(got, b...) }); err != nil {
					t.Error(err)
				}
			})
			if err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.Equal(got, sent) {
			t.Errorf("%s: %d of %d bytes", host, len(got), len(sent))
		}
	}
	for range 20 { // whatever acknowledgements are left
		if err = r.Read(time.Now().Add(50*time.Millisecond), func(Segment) {}); err != nil {
			break
		}
	}
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("without packets: %v", err)
	}
	if n, err := r.Drops(); n != 0 || err != nil {
		t.Errorf("%d dropped, %v", n, err)
	}
	r.Interrupt()
	if err := r.Read(time.Now().Add(time.Hour), nil); !errors.Is(err, os.ErrClosed) {
		t.Errorf("interrupted: %v", err)
	}
}

func listen(t *testing.T, host string) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// upload sends bytes to a listener and waits until they are there.
func upload(t *testing.T, l net.Listener, b []byte) {
	t.Helper()
	done := make(chan error, 1)
	go func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err == nil {
			_, err = c.Write(b)
			c.Close()
		}
		done <- err
	}()
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if n, err := io.Copy(io.Discard, c); err != nil || n != int64(len(b)) {
		t.Errorf("%d bytes, %v", n, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}
