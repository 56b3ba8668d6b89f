package mirrord_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/testdata/apps/mover/words"
)

// inNetwork does something in a thread that is in the network of a pod.
func inNetwork(t *testing.T, namespace, pod string, do func() error) error {
	t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", processOf(t, namespace, pod)))
	if err != nil {
		return err
	}
	defer ns.Close()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with its namespace
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("entering the network of pod %s: %w", pod, err)
			return
		}
		done <- do()
	}()
	return <-done
}

// A depot is the server of a mover, in a pod's network.
//
// Goroutines: one accepts, one serves each connection; the test's end waits for all.
type depot struct {
	addr string
	size int64
	wg   sync.WaitGroup

	mu    sync.Mutex
	moved int64                   // guarded by mu; bytes, of all connections
	marks map[int64]chan struct{} // guarded by mu; closed when so many are moved
}

func newDepot(t *testing.T, namespace, pod string, size int64) *depot {
	t.Helper()
	var l net.Listener
	err := inNetwork(t, namespace, pod, func() (err error) {
		l, err = net.Listen("tcp", ":0")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d := &depot{addr: net.JoinHostPort(podIP(t, namespace, pod), port), size: size, marks: map[int64]chan struct{}{}}
	ctx, cancel := context.WithCancel(context.Background())
	d.wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return // closed
			}
			d.wg.Go(func() {
				defer c.Close()
				defer context.AfterFunc(ctx, func() { c.Close() })()
				if err := d.serve(c); err != nil && ctx.Err() == nil {
					t.Errorf("serving the mover: %v", err)
				}
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		cancel()
		d.wg.Wait()
	})
	return d
}

func (d *depot) serve(c net.Conn) error {
	what := make([]byte, 1)
	if _, err := io.ReadFull(c, what); err != nil {
		return err
	}
	if what[0] == 's' {
		_, err := io.CopyN(io.MultiWriter(c, d), new(words.Source), d.size)
		return err
	}
	n, err := io.Copy(io.MultiWriter(new(words.Sink), d), c)
	if err != nil || n != d.size {
		return fmt.Errorf("%d bytes came: %v", n, err)
	}
	_, err = c.Write(what)
	return err
}

// Write counts what is moved.
func (d *depot) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.moved += int64(len(p))
	for at, reached := range d.marks {
		if d.moved >= at {
			close(reached)
			delete(d.marks, at)
		}
	}
	return len(p), nil
}

// reached is closed when a quarter, or more of them, is moved.
func (d *depot) reached(quarters int64) <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	c := make(chan struct{})
	d.marks[2*d.size*quarters/4] = c
	return c
}

// A question is a small operation of a mover.
type question struct{ began, ended time.Time }

// startMover builds and runs one; the channel gets its questions when it has ended.
func startMover(t *testing.T, config, namespace string, d *depot) (*debuggee, <-chan []question) {
	t.Helper()
	bin := built(t, "./testdata/apps/mover")
	m := started(t, mirrord(t, "exec", "--kubeconfig", config, "-n", namespace, "-t", "pod/web", "--", bin, d.addr, fmt.Sprint(d.size)), nil)
	asked := make(chan []question, 1)
	go func() {
		var all []question
		for line := range m.lines {
			var began, ended int64
			if n, _ := fmt.Sscanf(line, "asked %d %d", &began, &ended); n == 2 {
				all = append(all, question{time.Unix(0, began), time.Unix(0, ended)})
			} else if !strings.HasSuffix(line, ": whole") {
				t.Errorf("the mover says %q", line)
			}
		}
		asked <- all
	}()
	return m, asked
}

// A linkCut is a way to cut the link.
type linkCut struct {
	name, died, back string
	cuts             int64
	cut              func(*testing.T, *relay)
	silence          time.Duration // in which nothing can be answered
}

// What cuts the link while much is moved loses nothing, and makes no small
// operation fail.
func TestLinkCut(t *testing.T) {
	t.Parallel()
	for _, c := range []linkCut{
		{"reset", "link reset, three times", "the reset", 3, func(_ *testing.T, r *relay) { r.reset() }, 0},
		{"silent", "link silent, new connections pass", "the silence began", 1, func(_ *testing.T, r *relay) { r.mute() }, time.Second},
		{"deaf", "link silent, new connections too, for 4 dials", "the silence ended", 1, func(_ *testing.T, r *relay) { r.deafen(4) }, time.Second},
	} {
		t.Run(c.name, c.test)
	}
}

func (c linkCut) test(t *testing.T) {
	const size = 256 << 20
	namespace, _ := ownShop(t)
	config, r := throughRelay(t)
	d := newDepot(t, namespace, "client", size)
	ownDaemon(t)
	var marks []<-chan struct{}
	for i := range c.cuts {
		marks = append(marks, d.reached(i+1))
	}
	m, asked := startMover(t, config, namespace, d)
	timer := time.AfterFunc(3*patience, func() { m.cmd.Process.Kill() })
	defer timer.Stop()
	var cuts, backs []time.Time
	for _, reached := range marks {
		select {
		case <-reached:
		case <-time.After(patience):
			t.Fatal("too little is moved")
		}
		cuts = append(cuts, time.Now())
		c.cut(t, r)
		backs = append(backs, time.Now())
	}
	all := <-asked
	if code := m.wait(); code != 0 {
		t.Errorf("the mover's exit code is %d", code)
	}
	var longest time.Duration
	for _, q := range all {
		longest = max(longest, q.ended.Sub(q.began))
	}
	if longest < c.silence {
		t.Errorf("the longest operation took %v: the cut was none, or nobody was asked", longest)
	}
	var resumed []string
	for i, back := range backs {
		resumed = append(resumed, answered(t, all, cuts[i], back))
	}
	report(t, c.died, "2 × 256 MiB arrive whole, every small operation beside them succeeds",
		"small operations work %s %s; the longest of %d took %v", strings.Join(resumed, ", "), c.back, len(all), round(longest))
}

// answered tells when the question was answered that the cut kept waiting,
// beside the time when the link was back.
func answered(t *testing.T, all []question, cut, back time.Time) string {
	t.Helper()
	var waited question
	for _, q := range all {
		if waited != (question{}) && q.began.After(back) {
			break
		}
		if q.ended.After(cut) && q.ended.Sub(q.began) > waited.ended.Sub(waited.began) {
			waited = q
		}
	}
	took := waited.ended.Sub(back)
	switch {
	case waited == question{}:
		t.Error("nothing was asked after the cut")
		return "never"
	case took < 0:
		return round(-took).String() + " before"
	}
	return round(took).String() + " after"
}

// Where nothing else moves a reset costs no more than dialling anew.
func TestLinkResetIdle(t *testing.T) {
	t.Parallel()
	namespace, _ := ownShop(t)
	config, r := throughRelay(t)
	ownDaemon(t)
	w := startWorker(t, "exec", "--kubeconfig", config, "-n", namespace, "-t", "pod/web")
	w.wants("100", "open /shop")
	const resets = 20
	var all []time.Duration
	for i := range resets {
		r.reset()
		began := time.Now()
		w.wants("ENOENT", "read /unasked-%d", i)
		all = append(all, time.Since(began))
	}
	w.wants("4096", "more 5000000")
	w.finish()
	slices.Sort(all)
	report(t, fmt.Sprintf("link reset while idle, %d times", resets), "everything",
		"a small operation takes %v after the reset, the median; the longest %v", round(all[resets/2]), round(all[resets-1]))
}
