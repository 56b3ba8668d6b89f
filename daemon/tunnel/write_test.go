package tunnel

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// writes answers a stream of writes: each with its offset, unless that is odd.
func writes(gate <-chan struct{}, seen *atomic.Int64) answerer {
	return func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		for {
			var q protocol.Write
			if err := json.Unmarshal(f.Header, &q); err != nil || f.Kind != protocol.KindWrite {
				return
			}
			seen.Add(1)
			if gate != nil {
				<-gate
			}
			var err error
			if q.Offset%2 != 0 {
				err = protocol.WriteError(s, "write", unix.ENOSPC)
			} else {
				err = protocol.WriteMessage(s, f.Kind, protocol.WriteReply{Offset: q.Offset, Attr: protocol.Attr{Size: int64(len(f.Payload))}}, nil)
			}
			if err == nil {
				f, err = protocol.ReadFrame(s)
			}
			if err != nil {
				return
			}
		}
	}
}

// Many writes are begun before the first is answered; each gets its own answer,
// in order, and an error is that of one.
func TestWriter(t *testing.T) {
	gate := make(chan struct{})
	var seen atomic.Int64
	w := open(t, far(t, writes(gate, &seen))).Writer()
	defer w.Close()
	const n = 100
	var list []*Writing
	var order []int64
	for i := range int64(n) {
		x, _ := w.Begin(protocol.Write{Handle: 1, Offset: i}, make([]byte, i), func(r protocol.WriteReply, err error) {
			if err != nil {
				r.Offset = i
			}
			order = append(order, r.Offset)
		})
		list = append(list, x)
	}
	select {
	case <-list[0].Done():
		t.Fatal("answered before the agent did")
	default:
	}
	close(gate)
	for _, x := range list {
		<-x.Done()
	}
	for i, x := range list {
		switch {
		case i%2 != 0 && !errors.Is(x.Err, unix.ENOSPC):
			t.Errorf("write %d: %v", i, x.Err)
		case i%2 == 0 && (x.Err != nil || x.Reply.Offset != int64(i) || x.Reply.Attr.Size != int64(i)):
			t.Errorf("write %d: %+v, %v", i, x.Reply, x.Err)
		}
		if order[i] != int64(i) {
			t.Errorf("answer %d came as number %d", order[i], i)
		}
	}
	if seen.Load() != n {
		t.Errorf("agent saw %d writes", seen.Load())
	}
	again, _ := w.Begin(protocol.Write{Offset: 2}, nil, func(protocol.WriteReply, error) {})
	if <-again.Done(); again.Err != nil {
		t.Errorf("after a rest: %v", again.Err)
	}
}

// However often the link is cut, what is written arrives once, and in order.
func TestCutWritesAreDoneOnce(t *testing.T) {
	var mu sync.Mutex
	var file []byte
	n := linktest.New(t, agent(t, func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		for err := error(nil); err == nil; f, err = protocol.ReadFrame(s) {
			mu.Lock()
			file = append(file, f.Payload...)
			mu.Unlock()
			if err := protocol.WriteMessage(s, f.Kind, protocol.WriteReply{}, nil); err != nil {
				return
			}
		}
	}))
	w := open(t, n.Dial).Writer()
	defer w.Close()
	want := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(want)
	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		tick := time.NewTicker(7 * time.Millisecond)
		defer tick.Stop()
		for range 20 {
			select {
			case <-tick.C:
				n.Cut(link.Bulk)
			case <-done:
				return
			}
		}
	})
	var list []*Writing
	for off := 0; off < len(want); off += 64 << 10 {
		x, _ := w.Begin(protocol.Write{}, want[off:][:64<<10], func(protocol.WriteReply, error) {})
		list = append(list, x)
	}
	for _, x := range list {
		if <-x.Done(); x.Err != nil {
			t.Error(x.Err)
		}
	}
	close(done)
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if !bytes.Equal(file, want) {
		t.Errorf("%d bytes arrived of %d, or others", len(file), len(want))
	}
}

// Of small writes many may wait: their frames take little more than they say.
func TestFrames(t *testing.T) {
	for _, n := range []int{0, 1, 100, 4 << 10, smallBlock - 1, smallBlock, bigBlock, bigBlock + 1, protocol.MaxPayload} {
		frame, err := frameOf(protocol.Write{Offset: 1 << 40}, make([]byte, n))
		if err != nil {
			t.Fatal(err)
		}
		if n < smallBlock && cap(*frame) > n+n/2+512 {
			t.Errorf("a frame of %d bytes takes %d", n, cap(*frame))
		}
		sentFrame(frame)
	}
	if _, err := frameOf(protocol.Write{}, make([]byte, protocol.MaxPayload+1)); !errors.Is(err, protocol.ErrFrameSize) {
		t.Errorf("too much: %v", err)
	}
}

// Without the agent everything fails, what is on its way and what comes after;
// nothing is begun that the tunnel's end does not wait for.
func TestWriterWithoutAgent(t *testing.T) {
	gate := make(chan struct{})
	defer close(gate)
	var seen atomic.Int64
	tun := open(t, far(t, writes(gate, &seen)))
	var wg sync.WaitGroup
	for range 20 {
		w := tun.Writer()
		defer w.Close()
		wg.Go(func() {
			for {
				var told atomic.Bool
				x, begun := w.Begin(protocol.Write{}, nil, func(protocol.WriteReply, error) { told.Store(true) })
				if <-x.Done(); x.Err == nil || told.Load() != begun {
					t.Errorf("begun %v, told %v, error %v", begun, told.Load(), x.Err)
				}
				if !begun {
					return
				}
			}
		})
	}
	tun.Close()
	wg.Wait()
}
