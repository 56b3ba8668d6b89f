package incoming

import (
	"bytes"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming/capture"
	"mirrord/protocol"
)

// A recorder is a holder that keeps what each connection brings.
type recorder struct {
	t *testing.T
	*goroutines
	read chan struct{} // nil, or closed when it begins to read
	more chan int      // bytes that came; nil: nobody counts
	got  chan recording
}

type recording struct {
	protocol.Incoming
	bytes []byte
	err   error // nil: the orderly end
}

func newRecorder(t *testing.T) *recorder {
	return &recorder{t: t, goroutines: newGoroutines(t), got: make(chan recording, 4096)}
}

func (*recorder) Name() string { return "client test" }

func (*recorder) Hears() bool { return true }

func (*recorder) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (r *recorder) Open() (net.Conn, error) {
	theirs, ours := net.Pipe()
	r.Go(func() {
		defer theirs.Close()
		var rec recording
		defer func() { r.got <- rec }()
		if rec.err = agenttest.ReadRequest(theirs, protocol.KindIncoming, &rec.Incoming); rec.err != nil {
			return
		}
		if rec.err = protocol.WriteMessage(theirs, protocol.KindIncoming, protocol.IncomingReply{}, nil); rec.err != nil {
			return
		}
		if r.read != nil {
			<-r.read
		}
		r.Go(func() { _ = protocol.WriteDatagram(theirs, []byte("an answer that nobody hears")) })
		buf := make([]byte, protocol.MaxDatagram)
		for {
			n, err := protocol.ReadDatagram(theirs, buf)
			if err != nil || n == 0 {
				rec.err = err
				return
			}
			rec.bytes = append(rec.bytes, buf[:n]...)
			if r.more != nil {
				r.more <- n
			}
		}
	})
	return ours, nil
}

func (r *recorder) next() recording {
	r.t.Helper()
	select {
	case rec := <-r.got:
		return rec
	case <-time.After(20 * time.Second):
		r.t.Fatal("nothing was mirrored")
	}
	return recording{}
}

// none checks that nothing was mirrored before a connection that is.
func (r *recorder) none(port uint16) {
	r.t.Helper()
	marker := fmt.Sprintf("marker %d", rand.Int())
	talk(r.t, "127.0.0.1", port, []byte(marker))
	if rec := r.next(); string(rec.bytes) != marker {
		r.t.Errorf("%d bytes of %v were mirrored", len(rec.bytes), rec.Client)
	}
}

// talk has the pod echo words, and reports the connection's client.
// After each step it waits for the recorders to have it, lest they be too slow.
func talk(t *testing.T, host string, port uint16, words []byte, pace ...*recorder) netip.AddrPort {
	t.Helper()
	c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
	if err != nil {
		t.Error(err)
		return netip.AddrPort{}
	}
	defer c.Close()
	const step = 1 << 20
	for at := 0; at < len(words); at += step {
		part := words[at:min(len(words), at+step)]
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := c.Write(part); err != nil {
				t.Error(err)
			}
		})
		b := make([]byte, len(part))
		_, err := io.ReadFull(c, b)
		wg.Wait()
		if err != nil || !bytes.Equal(b, part) {
			t.Errorf("%s echoed other bytes, %v", host, err)
		}
		for _, r := range pace {
			for n := 0; n < len(part); {
				select {
				case m := <-r.more:
					n += m
				case <-time.After(20 * time.Second):
					t.Fatalf("%s: %d of %d bytes were mirrored", host, at+n, len(words))
				}
			}
		}
	}
	_ = c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%s echoed %d bytes too many, %v", host, len(b), err)
	}
	return addrOf(c.LocalAddr())
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{2}).Read(b)
	return b
}

// Each mirror has every byte; the pod's client notices nothing.
func TestMirror(t *testing.T) {
	in, port := newTest(t), echo(t)
	early := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	one, two := newRecorder(t), newRecorder(t)
	one.more, two.more = make(chan int, 1<<20), make(chan int, 1<<20)
	s := steal(t, in, protocol.Steal{Port: port, Mirror: true}, one)
	if s.Redirect() != "packet" {
		t.Errorf("redirect %q", s.Redirect())
	}
	steal(t, in, protocol.Steal{Port: port, Mirror: true}, two)
	if _, err := io.WriteString(early, "of before"); err != nil {
		t.Fatal(err)
	}
	for _, host := range []string{"127.0.0.1", "::1"} {
		for _, size := range []int{0, 1, 100, 24 << 20} {
			words := random(size)
			client := talk(t, host, port, words, one, two)
			for _, r := range []*recorder{one, two} {
				rec := r.next()
				if rec.err != nil || !bytes.Equal(rec.bytes, words) {
					t.Errorf("%s: %d of %d bytes, %v", host, len(rec.bytes), size, rec.err)
				}
				want := protocol.Incoming{Port: port, Client: client, Local: netip.AddrPortFrom(netip.MustParseAddr(host), port)}
				if rec.Incoming != want {
					t.Errorf("offered %+v, want %+v", rec.Incoming, want)
				}
			}
		}
	}
	s.Suspend(Absent)
	talk(t, "127.0.0.1", port, []byte("of the time between"))
	two.next() // what came is read
	if err := s.Resume(Absent); err != nil {
		t.Fatal(err)
	}
	one.none(port)
	two.next()
	s.Release()
	if n := in.mirrors.buffered.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
}

func TestMirrorManyConnections(t *testing.T) {
	in, port := newTest(t), echo(t)
	r := newRecorder(t)
	steal(t, in, protocol.Steal{Port: port, Mirror: true}, r)
	const workers, each = 4, 250
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for i := range each {
				talk(t, []string{"127.0.0.1", "::1"}[w%2], port, fmt.Appendf(nil, "%d of %d", i, w))
			}
		})
	}
	seen := map[string]bool{}
	for range workers * each {
		rec := r.next()
		if rec.err != nil || seen[string(rec.bytes)] {
			t.Errorf("%q from %v, %v", rec.bytes, rec.Client, rec.err)
		}
		seen[string(rec.bytes)] = true
	}
	wg.Wait()
	if len(seen) != workers*each {
		t.Errorf("%d connections were mirrored", len(seen))
	}
}

// cutsOf are the reasons that a mirror's holder is told.
func cutsOf(s *Steal) <-chan error {
	told := make(chan error, 100)
	s.OnCut(func(why error) { told <- why })
	return told
}

// wantCut checks that a reason is told, and none beside it.
func wantCut(t *testing.T, told <-chan error, want error) {
	t.Helper()
	select {
	case got := <-told:
		if got != want || len(told) > 0 {
			t.Errorf("told %v, and %d more; want %v", got, len(told), want)
		}
	case <-time.After(30 * time.Second):
		t.Errorf("nothing is told, want %v", want)
	}
}

// A debuggee that does not read loses the copy, and is told why, once; the pod's
// client has all.
func TestMirrorSlowDebuggee(t *testing.T) {
	in, port := newTest(t), echo(t)
	r := newRecorder(t)
	r.read = make(chan struct{})
	told := cutsOf(steal(t, in, protocol.Steal{Port: port, Mirror: true}, r))
	for range 2 {
		talk(t, "127.0.0.1", port, random(2*maxOutlet))
	}
	close(r.read)
	for range 2 {
		if rec := r.next(); rec.err == nil || len(rec.bytes) > 2*maxOutlet {
			t.Errorf("the copy of %d bytes ended with %v", len(rec.bytes), rec.err)
		}
	}
	wantCut(t, told, errSlow)
	if n := in.mirrors.buffered.Load(); n != 0 {
		t.Errorf("%d bytes are still counted", n)
	}
	r.none(port)
}

// Copies are counted until their holders are done with them.
func TestMirrorManyCopies(t *testing.T) {
	in, port, other := newTest(t), echo(t), echo(t)
	one, two, marker := newRecorder(t), newRecorder(t), newRecorder(t)
	one.read, two.read = make(chan struct{}), make(chan struct{})
	told := cutsOf(steal(t, in, protocol.Steal{Port: port, Mirror: true}, one))
	steal(t, in, protocol.Steal{Port: port, Mirror: true}, two)
	steal(t, in, protocol.Steal{Port: other, Mirror: true}, marker)
	const most = 3
	spare := func(add int) int {
		in.mirrors.mu.Lock()
		defer in.mirrors.mu.Unlock()
		in.mirrors.spare += add
		return in.mirrors.spare
	}
	spare(2*most + 1 - maxCopies) // one is the marker's
	for i := range 2 * most {
		talk(t, "127.0.0.1", port, fmt.Append(nil, i))
	}
	talk(t, "127.0.0.1", other, []byte("marker"))
	marker.next() // what came before it is known
	if n := spare(0); n > 1 {
		t.Errorf("%d copies less than there may be", n)
	}
	wantCut(t, told, errMany)
	close(one.read)
	close(two.read)
	for range most {
		for _, r := range []*recorder{one, two} {
			if rec := r.next(); rec.err != nil || string(rec.bytes) >= fmt.Sprint(most) {
				t.Errorf("%q, %v", rec.bytes, rec.err)
			}
		}
	}
	for end := time.Now().Add(10 * time.Second); spare(0) < 2*most+1; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("%d copies of %d are spare", spare(0), 2*most+1)
		}
	}
	one.none(port)
}

// Where packets were missed the copy ends, and not as if that were all: its holder
// is told why.
func TestMirrorGap(t *testing.T) {
	in, port := newTest(t), echo(t)
	r := newRecorder(t)
	told := cutsOf(steal(t, in, protocol.Steal{Port: port, Mirror: true}, r))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	say := func(words string) {
		t.Helper()
		if _, err := io.WriteString(c, words); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(c, make([]byte, len(words))); err != nil {
			t.Fatal(err)
		}
	}
	filter := func(watch func() error) {
		t.Helper()
		in.mirrors.mu.Lock()
		defer in.mirrors.mu.Unlock()
		if err := watch(); err != nil {
			t.Fatal(err)
		}
	}
	say("heard")
	for range 2 { // the tick may set the filter right in between
		filter(func() error { return in.mirrors.ring.Watch(nil) })
		say(" and missed")
	}
	filter(in.mirrors.watch)
	say(" and then")
	if rec := r.next(); rec.err == nil || !bytes.HasPrefix([]byte("heard and missed"), rec.bytes) {
		t.Errorf("%q, %v", rec.bytes, rec.err)
	}
	wantCut(t, told, capture.ErrGap)
}

// So it is where the last packets were missed, and no later one tells of them.
func TestMirrorEndIsMissed(t *testing.T) {
	for _, what := range []string{"bytes", "end"} {
		t.Run(what, func(t *testing.T) {
			in, port := newTest(t), echo(t)
			r := newRecorder(t)
			told := cutsOf(steal(t, in, protocol.Steal{Port: port, Mirror: true}, r))
			c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
			go func() {
				// Nobody reads the ring meanwhile, and it has room for less.
				in.mirrors.mu.Lock()
				defer in.mirrors.mu.Unlock()
				if _, err := c.Write(random(2 * maxOutlet)); err != nil {
					t.Error(err)
				}
				if what == "end" {
					_ = c.CloseWrite()
				}
			}()
			n, err := io.CopyN(io.Discard, c, 2*maxOutlet)
			if err == nil && what == "end" {
				_, err = io.Copy(io.Discard, c)
			}
			if err != nil {
				t.Fatalf("after %d bytes: %v", n, err)
			}
			if rec := r.next(); rec.err == nil || len(rec.bytes) >= 2*maxOutlet {
				t.Errorf("%d bytes, %v", len(rec.bytes), rec.err)
			}
			wantCut(t, told, capture.ErrGap)
		})
	}
}

// A reset of either side is one of the copy.
func TestMirrorReset(t *testing.T) {
	in := newTest(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	r := newRecorder(t)
	told := cutsOf(steal(t, in, protocol.Steal{Port: addr.Port(), Mirror: true}, r))
	for _, who := range []string{"client", "pod"} {
		c := dial(t, addr)
		pod, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(c, "words"); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(pod, make([]byte, 5)); err != nil {
			t.Fatal(err)
		}
		if who == "client" {
			reset(c)
		} else {
			reset(pod.(*net.TCPConn))
		}
		pod.Close()
		if rec := r.next(); rec.err == nil {
			t.Errorf("reset by the %s: %q without an error", who, rec.bytes)
		}
	}
	isGone := netip.AddrPortFrom(addr.Addr(), addr.Port())
	l.Close()
	if c, err := net.Dial("tcp", isGone.String()); err == nil {
		c.Close()
	}
	l, err = net.Listen("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	c := dial(t, addr)
	io.WriteString(c, "after the refused one")
	c.Close()
	if rec := r.next(); string(rec.bytes) != "after the refused one" || rec.err != nil {
		t.Errorf("%q, %v", rec.bytes, rec.err)
	}
	if len(told) > 0 {
		t.Errorf("of resets it is told that %v", <-told)
	}
}

// Beside a steal the mirror sees what comes, and not what the agent passes on.
func TestMirrorBesideSteal(t *testing.T) {
	in, port := newTest(t), echo(t)
	r := newRecorder(t)
	steal(t, in, protocol.Steal{Port: port, Mirror: true}, r)
	s := steal(t, in, protocol.Steal{Port: port}, holder(refusing))
	for i := range 20 {
		words := fmt.Sprintf("%d of the pod", i)
		client := talk(t, "127.0.0.1", port, []byte(words))
		if rec := r.next(); rec.err != nil || string(rec.bytes) != words || rec.Client != client {
			t.Errorf("%q of %v, %v", rec.bytes, rec.Client, rec.err)
		}
	}
	s.Release()
	steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
	if got, err := answered("::1", port); err != nil || got != debuggeeSays+harmless {
		t.Errorf("%q, %v", got, err)
	}
	if rec := r.next(); rec.err != nil || string(rec.bytes) != harmless {
		t.Errorf("%q, %v", rec.bytes, rec.err)
	}
}

// The last mirror takes the capture with it.
func TestMirrorReleased(t *testing.T) {
	in, port := newTest(t), echo(t)
	r := newRecorder(t)
	offered := make(chan struct{})
	s := steal(t, in, protocol.Steal{Port: port, Mirror: true}, holder(func() (net.Conn, error) {
		close(offered)
		return r.Open()
	}))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if _, err := io.WriteString(c, "words"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
	<-offered // the copy is on its way
	taken := func() bool {
		in.mirrors.mu.Lock()
		defer in.mirrors.mu.Unlock()
		return in.mirrors.ring != nil
	}
	s.Release()
	_, _ = io.WriteString(c, " and more")
	_ = c.CloseWrite()
	rec := r.next() // taken before or not at all, that is the holder's race
	if rec.err == nil && string(rec.bytes) != "words and more" {
		t.Errorf("%q", rec.bytes)
	}
	for end := time.Now().Add(10 * time.Second); taken(); {
		if time.Now().After(end) {
			t.Fatal("packets are still captured")
		}
		time.Sleep(10 * time.Millisecond)
	}
	s = steal(t, in, protocol.Steal{Port: port, Mirror: true}, r)
	r.none(port)
	s.Release()
	if err := s.Resume(Absent); err == nil {
		t.Error("a released mirror was resumed")
	}
}
