package incoming

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
	"mirrord/protocol/socket"
)

func TestMain(m *testing.M) {
	if os.Getenv(podVariable) != "" {
		servePod()
	}
	agenttest.Main(m)
}

// A holder is a client whose streams a test makes.
type holder func() (net.Conn, error)

func (holder) Name() string              { return "client test" }
func (h holder) Open() (net.Conn, error) { return h() }
func (holder) Hears() bool               { return true }

func (holder) ReadFile(path string) ([]byte, error) { return os.ReadFile(path) }

// newStream is both ends of a stream, which holds some bytes as the tunnel's do.
func newStream() (theirs, ours net.Conn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		panic(err)
	}
	for i, end := range []*net.Conn{&theirs, &ours} {
		f := os.NewFile(uintptr(fds[i]), "stream")
		if *end, err = net.FileConn(f); err != nil {
			panic(err)
		}
		f.Close()
	}
	return theirs, ours
}

func refusing() (net.Conn, error) { return nil, errors.New("no more streams") }

// newTest is the namespace's Incoming, which ends with the test.
func newTest(t *testing.T) *Incoming { return newBy(t, SkLookup) }

func newBy(t *testing.T, redirect string) *Incoming {
	t.Helper()
	agenttest.Namespace(t)
	in := New(slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})), redirect)
	if err := in.Disabled(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := in.Close(); err != nil {
			t.Error(err)
		}
	})
	return in
}

// eachRedirect runs a test of what is to be the same by all of them.
func eachRedirect(t *testing.T, test func(t *testing.T, in *Incoming)) {
	for _, way := range redirects {
		t.Run(way.name, func(t *testing.T) { test(t, newBy(t, way.name)) })
	}
}

// echo is a container's server; it returns its port.
func echo(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { c.Close() })
			wg.Go(func() {
				_, _ = io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// echoed sends words to a port and expects them back from the container.
func echoed(t *testing.T, port uint16) {
	t.Helper()
	for _, host := range []string{"127.0.0.1", "::1"} {
		c := dial(t, netip.AddrPortFrom(netip.MustParseAddr(host), port))
		if _, err := io.WriteString(c, "words"); err != nil {
			t.Fatal(err)
		}
		if err := c.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(c); err != nil || string(b) != "words" {
			t.Errorf("%s: %q, %v", host, b, err)
		}
	}
}

func dial(t *testing.T, addr netip.AddrPort) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// isReset checks that a connection to addr is reset, at once or a moment later.
func isReset(t *testing.T, addr netip.AddrPort) {
	t.Helper()
	c, err := net.Dial("tcp", addr.String())
	if err == nil {
		defer c.Close()
		_, err = c.Read(make([]byte, 1))
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("%v answered with %v", addr, err)
	}
}

func TestHolderWithoutStreams(t *testing.T) {
	in, port := newTest(t), echo(t)
	s, err := in.Steal(t.Context(), protocol.Steal{Port: port}, holder(refusing))
	if err != nil {
		t.Fatal(err)
	}
	echoed(t, port)
	// A source is exempt until its connection is closed, which the client sees
	// a moment earlier.
	key := make([]byte, len(source{}))
	for end := time.Now().Add(10 * time.Second); in.redirect.(*lookup).exempt.NextKey(nil, &key) == nil; runtime.Gosched() {
		if time.Now().After(end) {
			t.Fatalf("source %v is still exempt", key)
		}
	}
	s.Release()
	echoed(t, port)
}

// Whoever finds a port's holder finds a hold, too: connections to a port that
// was stolen before may come at any time.
func TestHeldOnceKnown(t *testing.T) {
	in := newTest(t)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			if s := in.port(7).holder(); s != nil && s.hold() == nil {
				t.Error("a holder without a hold")
				return
			}
		}
	})
	for range 1000 {
		s, err := in.Steal(t.Context(), protocol.Steal{Port: 7}, holder(refusing))
		if err != nil {
			t.Fatal(err)
		}
		s.Release()
	}
	close(stop)
	wg.Wait()
}

// A holder that is stuck is cut off by the end of its hold.
func TestHolderStuck(t *testing.T) {
	in, port := newTest(t), echo(t)
	stuck, let := make(chan struct{}), make(chan struct{})
	s, err := in.Steal(t.Context(), protocol.Steal{Port: port}, holder(func() (net.Conn, error) {
		close(stuck)
		<-let
		return refusing()
	}))
	if err != nil {
		t.Fatal(err)
	}
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	<-stuck
	s.Release()
	_, _ = io.WriteString(c, "words")
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || string(b) != "words" {
		t.Errorf("%q, %v", b, err)
	}
	close(let)
}

// A late answer finds nobody; the stream is closed.
func TestHolderLate(t *testing.T) {
	in, port := newTest(t), echo(t)
	theirs, ours := newStream()
	ctx, cancel := context.WithCancel(t.Context())
	s, err := in.Steal(ctx, protocol.Steal{Port: port}, holder(func() (net.Conn, error) { return ours, nil }))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Release()
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	if err := agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming)); err != nil {
		t.Fatal(err)
	}
	cancel() // the client's end
	_ = c.CloseWrite()
	if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
		t.Errorf("%q, %v", b, err)
	}
	if _, err := theirs.Read(make([]byte, 1)); err != io.EOF { // who would answer now, late, finds nobody
		t.Errorf("the stream ends with %v", err)
	}
}

// Ports that a test chooses itself, each once: the kernel keeps them for a while.
var (
	ownPort  = 1 << 10
	podPorts = 61000 // of our connections to the pod, above those that the kernel chooses
)

// fewPorts leaves the namespace so many ports to choose from, of its own.
func fewPorts(t *testing.T, n int) {
	const name = "/proc/sys/net/ipv4/ip_local_port_range"
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(name, before, 0o644) })
	first := podPorts
	podPorts += n
	if err := os.WriteFile(name, fmt.Appendf(nil, "%d %d", first, podPorts-1), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A connection to the pod is closed, and its port the kernel's to give, before it is
// released.
func TestPodPortNotReleased(t *testing.T) {
	in := newTest(t)
	pod := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), echo(t))
	fewPorts(t, 8) // the kernel prefers the odd ones
	fd, err := socket.Open(pod)
	if err != nil {
		t.Fatal(err)
	}
	from, err := in.sources.Bind(fd, pod.Addr(), false)
	unix.Close(fd)
	if err != nil {
		t.Fatal(err)
	}
	for range 40 {
		c, undo, err := in.dialPod(t.Context(), pod, pod)
		if err != nil {
			t.Fatal(err)
		}
		if c.LocalAddr().String() == from.String() {
			t.Error("a port that is not released was used")
		}
		reset(c)
		undo()
	}
	in.sources.Release(from)
}

// More connections go to the pod than there are ports for them, and none takes
// a port from another that lasts.
func TestPodFewPorts(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		port := echo(t)
		const ports = 50
		fewPorts(t, ports)
		steal(t, in, protocol.Steal{Port: port}, holder(refusing))
		talk := func(c net.Conn) {
			t.Helper()
			if _, err := io.WriteString(c, "words"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(c, make([]byte, len("words"))); err != nil {
				t.Fatal(err)
			}
		}
		connect := func(host string) *net.TCPConn {
			t.Helper()
			ownPort++
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(host), Port: ownPort}}
			c, err := d.Dial("tcp", netip.AddrPortFrom(netip.MustParseAddr(host), port).String())
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			talk(c)
			return c.(*net.TCPConn)
		}
		for _, host := range []string{"127.0.0.1", "::1"} {
			var lasting []net.Conn
			for range 4 * ports {
				if len(lasting) < ports/2 {
					lasting = append(lasting, connect(host))
				}
				c := connect(host)
				_ = c.CloseWrite()
				if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
					t.Fatalf("%s: %q, %v", host, b, err)
				}
			}
			for _, c := range lasting {
				talk(c)
			}
		}
	})
}

func TestPodRefuses(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		l.Close() // and now nobody listens there
		s, err := in.Steal(t.Context(), protocol.Steal{Port: addr.Port()}, holder(refusing))
		if err != nil {
			t.Fatal(err)
		}
		defer s.Release()
		isReset(t, addr)
	})
}

// The redirect's own listeners are nobody's port.
func TestListenerItself(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		if len(in.redirect.Listeners()) != 2 {
			t.Fatalf("%d listeners", len(in.redirect.Listeners()))
		}
		for _, l := range in.redirect.Listeners() {
			isReset(t, l.Addr().(*net.TCPAddr).AddrPort())
		}
	})
}

// A process of the pod may hold the lock's name, and need not talk.
func TestClaimedByStranger(t *testing.T) {
	in := newTest(t)
	l, err := net.Listen("unix", claimName(7))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = in.Steal(t.Context(), protocol.Steal{Port: 7}, holder(refusing))
	if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), fmt.Sprintf("process %d", os.Getpid())) {
		t.Errorf("stealing a claimed port: %v", err)
	}
}

// One who holds a port and does not say who he is holds up no other port.
func TestSlowHolder(t *testing.T) {
	in := newTest(t)
	l, err := net.Listen("unix", claimName(7))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	refused := make(chan error)
	go func() {
		_, err := in.Steal(t.Context(), protocol.Steal{Port: 7}, holder(refusing))
		refused <- err
	}()
	c, err := l.Accept() // he is being asked
	if err != nil {
		t.Fatal(err)
	}
	if in.claims.TryLock() {
		in.claims.Unlock()
	} else {
		t.Error("ports cannot be claimed meanwhile")
	}
	c.Close()
	if err := <-refused; !errors.Is(err, unix.EADDRINUSE) {
		t.Error(err)
	}
}

func TestTooManyPorts(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		for port := range uint16(maxPorts) {
			if _, err := in.Steal(t.Context(), protocol.Steal{Port: port + 1}, holder(refusing)); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := in.Steal(t.Context(), protocol.Steal{Port: maxPorts + 1}, holder(refusing)); !errors.Is(err, unix.E2BIG) {
			t.Errorf("one port too many: %v", err)
		}
		if s := in.port(maxPorts + 1).holder(); s != nil {
			t.Error("the refused port is held")
		}
		for port := range uint16(maxPorts) {
			in.port(port + 1).holder().Release()
		}
	})
}
