package incoming

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// goroutines are a holder's. Once the test is over none begins: the agent may
// still be opening streams to it.
type goroutines struct {
	mu   sync.Mutex
	over bool // guarded by mu
	wg   sync.WaitGroup
}

func newGoroutines(t *testing.T) *goroutines {
	c := new(goroutines)
	t.Cleanup(func() {
		c.mu.Lock()
		c.over = true
		c.mu.Unlock()
		c.wg.Wait()
	})
	return c
}

func (c *goroutines) Go(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.over {
		c.wg.Go(f)
	}
}

// A debuggee is a holder that takes every connection and echoes it, with its
// own name before.
type debuggee struct {
	*goroutines
}

const debuggeeSays = "debuggee:"

func newDebuggee(t *testing.T) *debuggee { return &debuggee{newGoroutines(t)} }

func (*debuggee) Name() string { return "client test" }

func (*debuggee) Hears() bool { return true }

func (*debuggee) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

func (d *debuggee) Open() (net.Conn, error) {
	theirs, ours := newStream()
	d.Go(func() {
		defer theirs.Close()
		if agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming)) != nil ||
			protocol.WriteMessage(theirs, protocol.KindIncoming, protocol.IncomingReply{}, nil) != nil ||
			protocol.WriteDatagram(theirs, []byte(debuggeeSays)) != nil {
			return
		}
		buf := make([]byte, protocol.MaxDatagram)
		for {
			n, err := protocol.ReadDatagram(theirs, buf)
			if err != nil || protocol.WriteDatagram(theirs, buf[:n]) != nil || n == 0 {
				return
			}
		}
	})
	return ours, nil
}

// harmless is what a client says that may be said twice: the pod's where the debuggee may
// have had it, too.
const harmless = "GET / HTTP/1.1\r\n\r\n"

// answered asks a port of the pod and reports what came.
func answered(host string, port uint16) (string, error) {
	c, err := net.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
	if err != nil {
		return "", err
	}
	defer c.Close()
	if _, err := io.WriteString(c, harmless); err != nil {
		return "", err
	}
	if err := c.(*net.TCPConn).CloseWrite(); err != nil {
		return "", err
	}
	b, err := io.ReadAll(c)
	return string(b), err
}

func steal(t *testing.T, in *Incoming, q protocol.Steal, c Client) *Steal {
	t.Helper()
	s, err := in.Steal(t.Context(), q, c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Release)
	return s
}

// While a steal is suspended and resumed, every client is answered by one or
// the other, and each state holds for whoever comes after its call returned.
func TestSuspendUnderLoad(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		port := echo(t)
		s := steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
		var byPod, byDebuggee atomic.Int64
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for i := range 4 {
			host := []string{"127.0.0.1", "::1"}[i%2]
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					switch got, err := answered(host, port); {
					case err != nil:
						t.Errorf("%s: %v", host, err)
						return
					case got == harmless:
						byPod.Add(1)
					case got == debuggeeSays+harmless:
						byDebuggee.Add(1)
					default:
						t.Errorf("%s answered %q", host, got)
						return
					}
				}
			})
		}
		expect := func(want string) {
			t.Helper()
			for _, host := range []string{"127.0.0.1", "::1"} {
				if got, err := answered(host, port); got != want || err != nil {
					t.Errorf("%s answered %q, %v; want %q", host, got, err, want)
				}
			}
		}
		for range 100 {
			s.Suspend(Absent)
			expect(harmless)
			if err := s.Resume(Absent); err != nil {
				t.Fatal(err)
			}
			expect(debuggeeSays + harmless)
		}
		close(stop)
		wg.Wait()
		t.Logf("%d answered by the pod, %d by the debuggee", byPod.Load(), byDebuggee.Load())
	})
}

// A suspended port is still its holder's, and so are the connections he took.
func TestSuspendKeeps(t *testing.T) {
	in, port := newTest(t), echo(t)
	s := steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
	taken := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	hears := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(taken, b); err != nil || string(b) != want {
			t.Fatalf("%q, %v", b, err)
		}
	}
	hears(debuggeeSays)
	s.Suspend(Absent)
	s.Suspend(Absent)
	if _, err := in.Steal(t.Context(), protocol.Steal{Port: port}, newDebuggee(t)); !errors.Is(err, unix.EADDRINUSE) {
		t.Errorf("stealing a suspended port: %v", err)
	}
	if _, err := io.WriteString(taken, "still"); err != nil {
		t.Fatal(err)
	}
	hears("still")
	for range 2 {
		if err := s.Resume(Absent); err != nil {
			t.Error(err)
		}
	}
	s.Release()
	s.Release()
	s.Suspend(Absent)
	if err := s.Resume(Absent); !errors.Is(err, unix.EBADF) || !strings.Contains(err.Error(), fmt.Sprint(port)) {
		t.Errorf("resuming a released port: %v", err)
	}
	echoed(t, port)
}

// What waits for the holder's answer when he is suspended goes to the pod.
func TestSuspendUnanswered(t *testing.T) {
	in, port := newTest(t), echo(t)
	asked := make(chan struct{})
	s := steal(t, in, protocol.Steal{Port: port}, holder(func() (net.Conn, error) {
		theirs, ours := newStream()
		t.Cleanup(func() { theirs.Close() })
		go func() {
			_ = agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming))
			close(asked)
		}()
		return ours, nil
	}))
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	<-asked
	s.Suspend(Absent)
	_, _ = io.WriteString(c, "words")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "words" {
		t.Errorf("%q, %v", b, err)
	}
}

func TestSuspendRaces(t *testing.T) {
	in, port := newTest(t), echo(t)
	s := steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 200 {
				s.Suspend(Absent)
				_ = s.Resume(Absent)
			}
			s.Release()
		})
	}
	wg.Wait()
	echoed(t, port)
}
