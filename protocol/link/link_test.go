package link

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var quiet = slog.New(slog.DiscardHandler)

// A network hands out connections that break after a random number of bytes.
type network struct {
	accept chan net.Conn
	cut    func() int // bytes until the next connection breaks, <0 for never
	done   chan struct{}
}

func newNetwork(cut func() int) *network {
	return &network{accept: make(chan net.Conn), cut: cut, done: make(chan struct{})}
}

func (n *network) dial(ctx context.Context) (net.Conn, error) {
	a, b := net.Pipe()
	select {
	case n.accept <- b:
	case <-n.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	return &breaking{Conn: a, left: n.cut()}, nil
}

func (n *network) Accept() (net.Conn, error) {
	select {
	case c := <-n.accept:
		return c, nil
	case <-n.done:
		return nil, net.ErrClosed
	}
}

func (n *network) Close() error   { close(n.done); return nil }
func (n *network) Addr() net.Addr { return nil }

type breaking struct {
	net.Conn
	mu   sync.Mutex
	left int
}

func (b *breaking) spend(n int) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.left < 0 {
		return true
	}
	b.left = max(0, b.left-n)
	return b.left > 0
}

func (b *breaking) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	if !b.spend(n) {
		b.Close()
	}
	return n, err
}

func (b *breaking) Write(p []byte) (int, error) {
	if !b.spend(len(p)) {
		n, _ := b.Conn.Write(p[:len(p)/2])
		b.Close()
		return n, io.ErrClosedPipe
	}
	return b.Conn.Write(p)
}

// serve runs a server over n and returns the first client's end.
func serve(t *testing.T, n *network, grace time.Duration) (*Server, <-chan *Conn, func()) {
	s := NewServer(quiet, grace)
	conns := make(chan *Conn, 1)
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error)
	go func() {
		served <- s.Serve(ctx, n, func(_ context.Context, c *Conn, _ ID, _ Channel) {
			conns <- c
			<-c.Done()
		})
	}()
	return s, conns, func() {
		cancel()
		if err := <-served; !errors.Is(err, context.Canceled) {
			t.Errorf("Serve = %v", err)
		}
	}
}

func control(t *testing.T, dial func(context.Context) (net.Conn, error)) (*Client, error) {
	return NewDialer(quiet, NewID(), 20*time.Second, dial).Control(t.Context())
}

// drain reads what comes, as a link's user always does.
func drain(t *testing.T, c *Conn) {
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		io.Copy(io.Discard, c)
	}()
	t.Cleanup(func() { <-gone })
}

func TestCutsLoseNothing(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	data := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	n := newNetwork(func() int { return 64<<10 + random.IntN(1<<20) })
	_, conns, stop := serve(t, n, Grace)
	defer stop()
	var dials int
	client, err := control(t, func(ctx context.Context) (net.Conn, error) {
		dials++
		return n.dial(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	server := <-conns

	var wg sync.WaitGroup
	transfer := func(from, to *Conn) {
		wg.Go(func() {
			for rest := data; len(rest) > 0; {
				k := min(len(rest), 700_000)
				if _, err := from.Write(rest[:k]); err != nil {
					t.Errorf("writing: %v", err)
					return
				}
				rest = rest[k:]
			}
		})
		wg.Go(func() {
			got := make([]byte, len(data))
			if _, err := io.ReadFull(to, got); err != nil {
				t.Errorf("reading: %v", err)
			} else if !bytes.Equal(got, data) {
				t.Error("stream differs from what was written")
			}
			drain(t, to)
		})
	}
	transfer(client.Conn, server)
	transfer(server, client.Conn)
	wg.Wait()
	client.Close()
	client.Wait()
	if dials < 5 {
		t.Errorf("only %d connections: nothing was cut", dials)
	}
}

func TestCloseDeliversAndEnds(t *testing.T) {
	n := newNetwork(func() int { return -1 })
	_, conns, stop := serve(t, n, Grace)
	defer stop()
	client, err := control(t, n.dial)
	if err != nil {
		t.Fatal(err)
	}
	server := <-conns
	drain(t, client.Conn)
	go func() { // who writes sends, and this network holds nothing
		client.Write([]byte("last words"))
		client.Close()
	}()
	got, err := io.ReadAll(server)
	if string(got) != "last words" || err != nil {
		t.Errorf("server read %q, %v", got, err)
	}
	<-server.Done()
	client.Wait()
	if _, err := client.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write after Close = %v", err)
	}
}

func TestUnknownClientFailsFast(t *testing.T) {
	first := newNetwork(func() int { return 100 })
	_, conns, stop := serve(t, first, Grace)
	var second *network
	var mu sync.Mutex
	client, err := control(t, func(ctx context.Context) (net.Conn, error) {
		mu.Lock()
		defer mu.Unlock()
		if second != nil {
			return second.dial(ctx)
		}
		return first.dial(ctx)
	})
	if err != nil {
		t.Fatal(err)
	}
	drain(t, client.Conn)
	drain(t, <-conns)
	// Another agent takes the first one's place and knows nobody.
	mu.Lock()
	second = newNetwork(func() int { return -1 })
	mu.Unlock()
	_, _, stop2 := serve(t, second, Grace)
	defer stop2()
	stop()
	client.Write(make([]byte, 1000))
	client.Wait()
	if err := client.Err(); !errors.Is(err, ErrGone) && !errors.Is(err, io.EOF) {
		t.Errorf("Err = %v", err)
	}
}

func TestSilenceAndGrace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(func() int { return -1 })
		_, conns, stop := serve(t, n, time.Hour)
		blackhole := false
		client, err := control(t, func(ctx context.Context) (net.Conn, error) {
			if blackhole {
				return nil, io.ErrClosedPipe
			}
			return n.dial(ctx)
		})
		if err != nil {
			t.Fatal(err)
		}
		server := <-conns
		server.SetGrace(20 * time.Second)
		drain(t, client.Conn)
		drain(t, server)
		time.Sleep(time.Hour) // keep-alives hold an idle link
		synctest.Wait()
		if client.Err() != nil || server.Err() != nil {
			t.Fatalf("idle link ended: %v, %v", client.Err(), server.Err())
		}
		blackhole = true
		client.drop()
		start := time.Now()
		<-server.Done()
		if !errors.Is(server.Err(), ErrGrace) || time.Since(start) != 20*time.Second {
			t.Errorf("server's end: %v after %v", server.Err(), time.Since(start))
		}
		client.Wait()
		if !errors.Is(client.Err(), ErrGrace) {
			t.Errorf("client's end: %v", client.Err())
		}
		stop()
	})
}

// The control link is dialled first where both are lost, and has a head start.
func TestControlComesFirst(t *testing.T) {
	for takes, want := range map[time.Duration]time.Duration{20 * time.Millisecond: 20 * time.Millisecond, 500 * time.Millisecond: headStart} {
		synctest.Test(t, func(t *testing.T) {
			n := newNetwork(func() int { return -1 })
			_, conns, stop := serve(t, n, time.Hour)
			var mu sync.Mutex
			var dials []time.Time
			d := NewDialer(quiet, NewID(), time.Minute, func(ctx context.Context) (net.Conn, error) {
				mu.Lock()
				dials = append(dials, time.Now())
				mu.Unlock()
				time.Sleep(takes)
				return n.dial(ctx)
			})
			control, err := d.Control(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			bulk := d.Bulk()
			for _, c := range []*Conn{<-conns, <-conns, control.Conn, bulk.Conn} {
				drain(t, c)
			}
			time.Sleep(time.Minute) // both are up
			mu.Lock()
			dials = nil
			mu.Unlock()
			began := time.Now()
			bulk.drop()
			control.drop()
			time.Sleep(time.Minute)
			mu.Lock()
			if len(dials) < 2 || dials[0] != began || dials[1].Sub(began) != want {
				t.Errorf("where a dial takes %v they begin at %v after %v, want one at once, one after %v", takes, dials, began, want)
			}
			mu.Unlock()
			control.Close()
			bulk.Close()
			control.Wait()
			bulk.Wait()
			stop()
		})
	}
}

// A muted connection loses what is written to it.
type muted struct {
	net.Conn
	mute *atomic.Bool
}

func (m muted) Write(b []byte) (int, error) {
	if m.mute.Load() {
		return len(b), nil
	}
	return m.Conn.Write(b)
}

// An idle link hears its peer; one that is silent for longer than it may be, or cut, does not.
func TestHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNetwork(func() int { return -1 })
		_, conns, stop := serve(t, n, time.Minute)
		var mute, gone atomic.Bool
		client, err := control(t, func(ctx context.Context) (net.Conn, error) {
			if gone.Load() {
				return nil, io.ErrClosedPipe
			}
			nc, err := n.dial(ctx)
			return muted{nc, &mute}, err
		})
		if err != nil {
			t.Fatal(err)
		}
		server := <-conns
		drain(t, client.Conn)
		drain(t, server)
		hears := func(after time.Duration, want bool) {
			t.Helper()
			time.Sleep(after)
			synctest.Wait()
			if got := server.Hears(); got != want {
				t.Errorf("Hears = %v", got)
			}
		}
		for range 100 {
			hears(keepAlive/8, true)
		}
		mute.Store(true)
		hears(keepAlive/2, true)
		hears(keepAlive, false)
		mute.Store(false)
		hears(keepAlive, true)
		gone.Store(true)
		client.drop()
		hears(0, false)
		gone.Store(false)
		hears(keepAlive, true)
		client.Close()
		client.Wait()
		<-server.Done()
		hears(0, false)
		stop()
	})
}

func FuzzReadOpening(f *testing.F) {
	f.Add(opening{id: ID{1, 2}, channel: Bulk, attempt: 5, received: 77}.append(nil))
	f.Add([]byte("mrl1"))
	f.Fuzz(func(t *testing.T, in []byte) {
		o, err := readOpening(bytes.NewReader(in))
		if err != nil {
			return
		}
		if out := o.append(nil); !bytes.Equal(out, in[:openingSize]) {
			t.Errorf("%x became %x", in, out)
		}
	})
}

// A backlog has what was added and is not given up, where it was, and no more memory than
// that takes.
func TestBacklog(t *testing.T) {
	l := backlog{max: 3 << 20}
	of := func(off uint64) byte { return byte(off * 7 / 3) }
	r := rand.New(rand.NewPCG(1, 2))
	for range 3000 {
		more := make([]byte, min(r.IntN(300<<10), l.max-l.used()))
		for i := range more {
			more[i] = of(l.end + uint64(i))
		}
		l.append(more)
		for off := l.start; off < l.end; {
			part := l.at(off)
			if len(part) == 0 || part[0] != of(off) || part[len(part)-1] != of(off+uint64(len(part))-1) {
				t.Fatalf("at %d of [%d,%d) are %d other bytes", off, l.start, l.end, len(part))
			}
			off += uint64(len(part))
		}
		if r.IntN(2) == 0 {
			l.forget(l.start + r.Uint64N(uint64(l.used())+1))
		}
		if r.IntN(20) == 0 {
			l.forget(l.end)
		}
	}
	if n := len(l.blocks) + len(l.free); n > l.max/blockSize+1 {
		t.Errorf("there are %d blocks", n)
	}
}

// A link that has moved much and then nothing gives its buffer back, but none
// that still holds something, and goes on as before.
func TestRest(t *testing.T) {
	c := newConn(quiet, Bulk)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.out.append(make([]byte, muchMoved/2))
	c.out.forget(c.out.end)
	c.out.append(make([]byte, muchMoved/2+100))
	grown := len(c.out.blocks)
	c.rest()
	if c.rest(); len(c.out.blocks) != grown {
		t.Fatal("what is not acknowledged was given back")
	}
	c.out.forget(c.out.end)
	if c.rest(); len(c.out.blocks)+len(c.out.free) != 0 {
		t.Errorf("%d blocks are in use, and %d free", len(c.out.blocks), len(c.out.free))
	}
	want := []byte("goes on")
	at := c.out.end
	c.out.append(want)
	if got := c.out.at(at); !bytes.Equal(got, want) {
		t.Errorf("%q was kept as %q", want, got)
	}
	for range 2 {
		c.out.forget(c.out.end)
		if c.rest(); c.rests.freed != c.out.end-uint64(len(want)) {
			t.Error("memory was given back for little")
		}
	}
}

// The end of a stream goes with what is written next. Alone it goes a while later.
func TestEndsLinger(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newConn(quiet, Control)
		near, far := net.Pipe()
		w, err := c.attach(near, 0)
		if err != nil {
			t.Fatal(err)
		}
		served, packets := make(chan struct{}), make(chan int)
		go func() {
			defer close(served)
			_ = c.serve(w)
		}()
		go func() {
			defer close(packets)
			b := make([]byte, 1<<10)
			for n, err := far.Read(b); err == nil; n, err = far.Read(b) {
				packets <- n
			}
		}()
		goes := func(waits time.Duration, want int, writes ...[]byte) {
			t.Helper()
			began := time.Now()
			for _, b := range writes {
				if _, err := c.Write(b); err != nil {
					t.Fatal(err)
				}
			}
			if n := <-packets; n != frameHead+want || time.Since(began) != waits {
				t.Errorf("%d bytes went after %v, want %d after %v", n, time.Since(began), frameHead+want, waits)
			}
		}
		end, head, data := []byte{0, 1, 0, 4, 0, 0, 0, 1, 0, 0, 0, 0}, []byte{0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 4}, []byte("data")
		goes(0, 12+12+4, end, head, data)
		goes(linger, 12+12, end, end)
		goes(0, 12+4, head, data)
		goes(linger, 12, end)
		goes(linger, 12+4, head, []byte(lastEnd))
		goes(linger, 12+4+12, head, []byte(lastEnd), end)
		goes(0, 12+4+12+4, head, []byte(lastEnd), head, data)
		if _, err := c.Write(end); err != nil {
			t.Fatal(err)
		}
		time.Sleep(linger - linger/10) // what comes then does not put the first off
		goes(linger/10, 12+12+4, head, []byte(lastEnd))
		c.fail(io.EOF)
		near.Close()
		<-served
		<-packets
	})
}
