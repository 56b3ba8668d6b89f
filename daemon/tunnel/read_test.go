package tunnel

import (
	"encoding/json"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
)

// reader is an agent that answers at most so many reads in a stream, with bytes
// that are the file's handle, and those at an odd offset with an error. It counts
// the streams, and tells how those end that wait for a request.
func reader(most int, streams *atomic.Int32, ended chan<- error) answerer {
	return func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		streams.Add(1)
		var err error
		for range most {
			var q protocol.Read
			if err := json.Unmarshal(f.Header, &q); err != nil || q.Offset%2 != 0 {
				protocol.WriteError(s, "read", syscall.EINVAL)
				return
			}
			content := make([]byte, q.Len)
			for i := range content {
				content[i] = byte(q.Handle)
			}
			protocol.WriteMessage(s, f.Kind, protocol.ReadReply{}, content)
			if f, err = protocol.ReadFrame(s); err != nil {
				ended <- err
				return
			}
		}
	}
}

func readOne(t *testing.T, tun *Tunnel, handle byte, size int) {
	t.Helper()
	p := make([]byte, size)
	n, err := tun.Read(t.Context(), uint64(handle), 0, p)
	if n != size || err != nil || p[0] != handle || p[size-1] != handle {
		t.Errorf("%d bytes of %d for %d are %d and %d, %v", n, size, handle, p[0], p[size-1], err)
	}
}

// Reads that follow each other share a stream, until they rest.
func TestReadsShareStreams(t *testing.T) {
	var streams atomic.Int32
	ended := make(chan error, 1)
	tun := open(t, far(t, reader(1000, &streams, ended)))
	tun.readers.rest = time.Hour
	for i := range byte(20) {
		readOne(t, tun, i, 1<<20-int(i)*1000)
	}
	if got := streams.Load(); got != 1 {
		t.Errorf("20 reads took %d streams", got)
	}
	tun.readers.rest = time.Millisecond
	readOne(t, tun, 3, 10)
	if err := <-ended; err != io.EOF {
		t.Errorf("the stream ended with %v", err)
	}
}

// An agent may close a stream after any answer.
func TestReadAfterClose(t *testing.T) {
	var streams atomic.Int32
	tun := open(t, far(t, reader(1, &streams, make(chan error, 10))))
	for i := range byte(10) {
		readOne(t, tun, i, 100)
	}
}

// What fails is told once, and is no other read's failure.
func TestReadFails(t *testing.T) {
	var streams atomic.Int32
	tun := open(t, far(t, reader(1000, &streams, make(chan error, 10))))
	tun.readers.rest = time.Hour
	for i := range byte(5) {
		readOne(t, tun, i, 100)
		if _, err := tun.Read(t.Context(), 1, 1, make([]byte, 10)); !errors.Is(err, syscall.EINVAL) {
			t.Errorf("Read = %v", err)
		}
	}
	if got := streams.Load(); got != 5 {
		t.Errorf("5 failures took %d streams", got)
	}
}

// Reads at one time have streams of their own.
func TestReadsAtOnce(t *testing.T) {
	var streams atomic.Int32
	tun := open(t, far(t, reader(1000, &streams, make(chan error, 100))))
	var wg sync.WaitGroup
	for i := range byte(3 * mostReaders) {
		wg.Go(func() {
			for range 10 {
				readOne(t, tun, i, 300_000)
			}
		})
	}
	wg.Wait()
}
