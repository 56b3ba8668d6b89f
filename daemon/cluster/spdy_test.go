package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/moby/spdystream"
	"github.com/moby/spdystream/spdy"
)

// server is the far end as kubelet has it: spdystream, handing out the streams
// in the order of their opening.
func server(t *testing.T) (*spdyConn, chan *spdystream.Stream) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	s, err := spdystream.NewConnection(far, true)
	if err != nil {
		t.Fatal(err)
	}
	streams := make(chan *spdystream.Stream, 2)
	go s.Serve(func(st *spdystream.Stream) {
		st.SendReply(http.Header{}, false)
		streams <- st
	})
	c, err := newSPDYConn(near, near, 7000, "test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		far.Close()
		<-s.CloseChan()
	})
	return c, streams
}

// both waits for the error and the data stream.
func both(t *testing.T, streams chan *spdystream.Stream) (reason, data *spdystream.Stream) {
	t.Helper()
	for range 2 {
		s := <-streams
		if got := s.Headers().Get("port"); got != "7000" {
			t.Errorf("port = %q", got)
		}
		switch kind := s.Headers().Get("streamType"); kind {
		case "error":
			reason = s
		case "data":
			data = s
		default:
			t.Fatalf("stream type %q", kind)
		}
	}
	return reason, data
}

func TestSPDYEcho(t *testing.T) {
	c, streams := server(t)
	_, data := both(t, streams)
	go io.Copy(data, data)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 20_000) // several frames
	go c.Write(sent)
	got := make([]byte, len(sent))
	if _, err := io.ReadFull(c, got); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, sent) {
		t.Error("what came back is not what was sent")
	}
}

func TestSPDYEnds(t *testing.T) {
	for name, test := range map[string]struct {
		end  func(reason, data *spdystream.Stream, c *spdyConn)
		want string
	}{
		"end": {func(reason, data *spdystream.Stream, _ *spdyConn) {
			data.Close()
			reason.Close()
		}, "EOF"},
		"end, error stream left open": {func(_, data *spdystream.Stream, _ *spdyConn) { data.Close() }, "EOF"},
		"reason before end": {func(reason, data *spdystream.Stream, _ *spdyConn) {
			io.WriteString(reason, "refused")
			reason.Close()
			data.Close()
		}, "refused"},
		"reason after end": {func(reason, data *spdystream.Stream, _ *spdyConn) {
			data.Close()
			io.WriteString(reason, "refused")
			reason.Close()
		}, "refused"},
		"long reason": {func(reason, data *spdystream.Stream, _ *spdyConn) {
			io.WriteString(reason, strings.Repeat("x", 3*maxReason))
			data.Close()
			reason.Close()
		}, strings.Repeat("x", maxReason)},
		"reset":        {func(_, data *spdystream.Stream, _ *spdyConn) { data.Reset() }, "the cluster reset the port-forward (status 5)"},
		"closed by us": {func(_, _ *spdystream.Stream, c *spdyConn) { c.Close() }, "use of closed network connection"},
	} {
		t.Run(name, func(t *testing.T) {
			c, streams := server(t)
			reason, data := both(t, streams)
			io.WriteString(data, "last words")
			got := make([]byte, len("last words"))
			if _, err := io.ReadFull(c, got); err != nil || string(got) != "last words" {
				t.Fatalf("read %q, %v", got, err)
			}
			test.end(reason, data, c)
			for range 2 { // it stays
				if n, err := c.Read(got); n != 0 || err == nil || !strings.Contains(err.Error(), test.want) {
					t.Errorf("Read = %d, %v; want %q", n, err, test.want)
				}
			}
		})
	}
}

// A connection that goes without the stream's end is a cut, not an EOF.
func TestSPDYCut(t *testing.T) {
	near, far := net.Pipe()
	go io.Copy(io.Discard, far)
	c, err := newSPDYConn(near, near, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	far.Close()
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read = %v", err)
	}
}

// A deadline that strikes anywhere in a frame loses no byte.
func TestSPDYDeadline(t *testing.T) { synctest.Test(t, testSPDYDeadline) }

func testSPDYDeadline(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	defer near.Close()
	go io.Copy(io.Discard, far)
	c, err := newSPDYConn(near, near, 1, "test")
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, dataStream), 3), "abc"...)
	var got []byte
	for i := range frame {
		wrote := make(chan struct{})
		go func() {
			defer close(wrote)
			far.Write(frame[i : i+1])
		}()
		c.SetReadDeadline(time.Now().Add(time.Millisecond)) // strikes when both wait
		p := make([]byte, 8)
		n, err := c.Read(p)
		got = append(got, p[:n]...)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
		<-wrote
	}
	if string(got) != "abc" {
		t.Errorf("read %q", got)
	}
}

// script is a connection that says what it was given.
type script struct {
	net.Conn
	io.Reader
}

func (s script) Read(p []byte) (int, error)      { return s.Reader.Read(p) }
func (s script) Write(p []byte) (int, error)     { return len(p), nil }
func (s script) Close() error                    { return nil }
func (s script) SetReadDeadline(time.Time) error { return nil }

// Whatever the far end says, reading ends, and gives no more than its data
// frames hold: what spdystream reads from the same bytes.
func FuzzSPDYRead(f *testing.F) {
	var b bytes.Buffer
	w := must(spdy.NewFramer(&b, nil))
	for _, frame := range []spdy.Frame{
		&spdy.DataFrame{StreamId: dataStream, Data: []byte("hello")},
		&spdy.PingFrame{Id: 2},
		&spdy.DataFrame{StreamId: errorStream, Data: []byte("refused")},
		&spdy.RstStreamFrame{StreamId: errorStream, Status: spdy.Cancel},
		&spdy.DataFrame{StreamId: dataStream, Flags: spdy.DataFlagFin, Data: []byte("world")},
	} {
		if err := w.WriteFrame(frame); err != nil {
			f.Fatal(err)
		}
	}
	f.Add(b.Bytes())
	f.Fuzz(func(t *testing.T, in []byte) {
		s := script{Reader: bytes.NewReader(in)}
		c, err := newSPDYConn(s, s, 1, "fuzz")
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(c)
		if len(got) > len(in) || len(c.reason) > maxReason {
			t.Errorf("%d bytes became %d", len(in), len(got))
		}
		if err == nil && !c.ended {
			t.Error("EOF without the stream's end")
		}
	})
}
