package tunnel

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
)

// reader is an agent that answers reads in any order, with bytes that are the
// file's handle, and those at an odd offset with an error. It counts the streams,
// and tells how those end.
func reader(streams *atomic.Int32, ended chan<- error) answerer {
	return func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		streams.Add(1)
		var wg sync.WaitGroup
		defer wg.Wait()
		for {
			var q protocol.Read
			if err := json.Unmarshal(f.Header, &q); err != nil {
				ended <- err
				return
			}
			wg.Go(func() { answerRead(s, q) })
			var err error
			if f, err = protocol.ReadFrame(s); err != nil {
				ended <- err
				return
			}
		}
	}
}

func answerRead(s net.Conn, q protocol.Read) {
	if q.Offset%2 != 0 {
		protocol.WriteMessage(s, protocol.KindError, protocol.Error{Op: "read", Errno: uint32(syscall.EINVAL), ID: q.ID}, nil)
		return
	}
	protocol.WriteMessage(s, protocol.KindRead, protocol.ReadReply{ID: q.ID}, bytes.Repeat([]byte{byte(q.Handle)}, q.Len))
}

func readOne(t *testing.T, tun *Tunnel, handle byte, size int) {
	t.Helper()
	p := make([]byte, size)
	n, err := tun.Read(t.Context(), uint64(handle), 0, p)
	if n != size || err != nil || p[0] != handle || p[size-1] != handle {
		t.Errorf("%d bytes of %d for %d are %d and %d, %v", n, size, handle, p[0], p[size-1], err)
	}
}

// Reads of about a size share a stream, until they rest.
func TestReadsShareStreams(t *testing.T) {
	var streams atomic.Int32
	ended := make(chan error, 10)
	tun := open(t, far(t, reader(&streams, ended)))
	tun.lanes.rest = time.Hour
	for i := range byte(5) {
		readOne(t, tun, i, 1<<20-int(i)*1000)
	}
	if got := streams.Load(); got != 1 {
		t.Errorf("5 reads took %d streams", got)
	}
	tun.lanes.rest = time.Millisecond
	readOne(t, tun, 3, 10)
	if err := <-ended; err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
	readOne(t, tun, 4, 10)
}

// What fails is told once, and is no other read's failure.
func TestReadFails(t *testing.T) {
	var streams atomic.Int32
	tun := open(t, far(t, reader(&streams, make(chan error, 10))))
	tun.lanes.rest = time.Hour
	for i := range byte(5) {
		readOne(t, tun, i, 100)
		if _, err := tun.Read(t.Context(), 1, 1, make([]byte, 10)); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Read = %v", err)
		}
	}
	if got := streams.Load(); got != 1 {
		t.Errorf("5 failures took %d streams", got)
	}
}

// Reads at one time get each their own answer.
func TestReadsAtOnce(t *testing.T) {
	var streams atomic.Int32
	tun := open(t, far(t, reader(&streams, make(chan error, 100))))
	var wg sync.WaitGroup
	for i := range byte(24) {
		wg.Go(func() {
			for range 5 {
				readOne(t, tun, i, 1000+int(i)*20_000)
			}
		})
	}
	wg.Wait()
}

// A stream that ends is the failure of its reads, and not the end of their file.
func TestReadStreamEnds(t *testing.T) {
	var streams atomic.Int32
	answers := reader(&streams, make(chan error, 10))
	first := true
	tun := open(t, far(t, func(mux *yamux.Session, s net.Conn, f protocol.Frame) {
		if f.Kind == protocol.KindRead && first {
			first = false
			return
		}
		answers(mux, s, f)
	}))
	if _, err := tun.Read(t.Context(), 1, 0, make([]byte, 10)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("Read = %v", err)
	}
	readOne(t, tun, 1, 10)
}

// Who gives a read up has its memory for himself again at once, whether nothing of
// the answer has come or some of it; others of the same stream are read all the same.
func TestReadGivenUp(t *testing.T) {
	for name, begun := range map[string]bool{"no answer yet": false, "half an answer": true} {
		t.Run(name, func(t *testing.T) {
			var streams atomic.Int32
			answers := reader(&streams, make(chan error, 10))
			asked, first := make(chan net.Conn, 1), true
			tun := open(t, far(t, func(mux *yamux.Session, s net.Conn, f protocol.Frame) {
				if f.Kind != protocol.KindRead || !first {
					answers(mux, s, f)
					return
				}
				first = false
				if begun {
					s.Write(protocol.AppendHead(nil, protocol.KindRead, []byte(`{"id":1}`), 10))
					s.Write([]byte{1, 1, 1})
				}
				other, err := protocol.ReadFrame(s)
				if err != nil {
					t.Error(err)
				}
				asked <- s
				if !begun {
					answers(mux, s, other)
					return
				}
				if _, err := protocol.ReadFrame(s); err != io.EOF {
					t.Errorf("the stream goes on: %v", err)
				}
			}))
			ctx, cancel := context.WithCancel(t.Context())
			var wg sync.WaitGroup
			wg.Go(func() {
				if _, err := tun.Read(ctx, 1, 0, make([]byte, 10)); !errors.Is(err, context.Canceled) {
					t.Errorf("Read = %v", err)
				}
			})
			for { // the first one has asked, and is filled
				tun.lanes.mu.Lock()
				l := tun.lanes.open[0]
				ready := l != nil && l.under[1] != nil && !l.under[1].asking && l.under[1].filled == begun
				tun.lanes.mu.Unlock()
				if ready {
					break
				}
				runtime.Gosched()
			}
			wg.Go(func() { readOne(t, tun, 2, 10) })
			<-asked
			cancel()
			wg.Wait()
			readOne(t, tun, 3, 10)
		})
	}
}
