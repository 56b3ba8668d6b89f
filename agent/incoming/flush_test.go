package incoming

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// A pod is another process: what is in this one is the agent's. It gives each word
// back but "wait", which it answers with "free" as soon as it may.
const podVariable = "TEST_POD"

// podSpeaksHTTP, as the variable's value: it does that, and answers "pod".
const podSpeaksHTTP = "http"

func servePod() {
	l, err := net.Listen("tcp", ":0")
	if err != nil {
		panic(err)
	}
	fmt.Println(l.Addr().(*net.TCPAddr).Port)
	if os.Getenv(podVariable) == podSpeaksHTTP {
		panic(http.Serve(l, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pod") })))
	}
	var mu sync.Mutex
	var free bool
	var waiting []net.Conn
	go func() {
		for in := bufio.NewScanner(os.Stdin); in.Scan(); {
			mu.Lock()
			free = true
			for _, w := range waiting {
				_, _ = io.WriteString(w, "free")
			}
			mu.Unlock()
		}
	}()
	for {
		c, err := l.Accept()
		if err != nil {
			panic(err)
		}
		go func() {
			b := make([]byte, 4)
			for {
				if _, err := io.ReadFull(c, b); err != nil {
					c.Close()
					return
				}
				mu.Lock()
				switch {
				case string(b) != "wait":
					_, _ = c.Write(b)
				case free:
					_, _ = io.WriteString(c, "free")
				default:
					waiting = append(waiting, c)
				}
				mu.Unlock()
			}
		}()
	}
}

func newPod(t *testing.T) (port uint16, free func()) {
	pod := startPod(t, "words")
	return pod.port, pod.free
}

type podProcess struct {
	port uint16
	free func()
	*os.Process
}

func startPod(t *testing.T, speaks string) (pod podProcess) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), podVariable+"="+speaks)
	cmd.Stderr = t.Output()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if _, err := fmt.Fscan(out, &pod.port); err != nil {
		t.Fatal(err)
	}
	pod.Process = cmd.Process
	pod.free = func() {
		if _, err := io.WriteString(in, "\n"); err != nil {
			t.Error(err)
		}
	}
	return pod
}

// visit connects, and says a word.
func visit(t *testing.T, host string, port uint16, word string) *net.TCPConn {
	t.Helper()
	c := dial(t, netip.AddrPortFrom(netip.MustParseAddr(host), port))
	if _, err := io.WriteString(c, word); err != nil {
		t.Fatal(err)
	}
	return c
}

func hears(t *testing.T, c net.Conn, word string) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	b := make([]byte, len(word))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != word {
		t.Errorf("%q, %v", b, err)
	}
}

// cut waits for the connection's reset.
func cut(t *testing.T, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
	if _, err := c.Read(make([]byte, 1)); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("it is not cut: %v", err)
	}
}

// Of connections that were there before, those are cut that are idle, or become so.
func TestFlushIdle(t *testing.T) {
	in := newTest(t)
	port, free := newPod(t)
	hosts := []string{"127.0.0.1", "::1"}
	var idle, waiting []net.Conn
	for _, host := range hosts {
		c := visit(t, host, port, "word")
		hears(t, c, "word")
		idle, waiting = append(idle, c), append(waiting, visit(t, host, port, "wait"))
	}
	steal(t, in, protocol.Steal{Port: port, Flush: protocol.FlushOff}, newDebuggee(t)).Release()
	steal(t, in, protocol.Steal{Port: port, Flush: protocol.FlushIdle}, newDebuggee(t))
	for _, c := range idle {
		cut(t, c)
	}
	free() // these wait for as long as the others were idle
	for _, c := range waiting {
		hears(t, c, "free")
		cut(t, c)
	}
	for _, host := range hosts {
		if got, err := answered(host, port); got != debuggeeSays+harmless || err != nil {
			t.Errorf("%s: %q, %v", host, got, err)
		}
	}
}

// Those too that the pod accepts only later.
func TestFlushUnaccepted(t *testing.T) {
	for _, flush := range []string{protocol.FlushIdle, protocol.FlushAll} {
		t.Run(flush, func(t *testing.T) {
			in := newTest(t)
			pod := startPod(t, "words")
			if err := pod.Signal(unix.SIGSTOP); err != nil {
				t.Fatal(err)
			}
			c := visit(t, "127.0.0.1", pod.port, "word")
			steal(t, in, protocol.Steal{Port: pod.port, Flush: flush}, newDebuggee(t))
			if err := pod.Signal(unix.SIGCONT); err != nil {
				t.Fatal(err)
			}
			_ = c.SetReadDeadline(time.Now().Add(20 * time.Second))
			if said, err := io.ReadAll(c); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("it is not cut: %q, %v", said, err)
			}
		})
	}
}

// All are cut where that is wanted, whatever they wait for.
func TestFlushAll(t *testing.T) {
	in := newTest(t)
	port, _ := newPod(t)
	c, other := visit(t, "127.0.0.1", port, "wait"), visit(t, "::1", port, "word")
	hears(t, other, "word")
	steal(t, in, protocol.Steal{Port: port, Flush: protocol.FlushAll}, newDebuggee(t))
	cut(t, c)
	cut(t, other)
}

// What the pod has got during a pause is let come to its end.
func TestFlushAllAtTheBeginning(t *testing.T) {
	in := newTest(t)
	port, free := newPod(t)
	s := steal(t, in, protocol.Steal{Port: port, Flush: protocol.FlushAll}, newDebuggee(t))
	s.Suspend(Paused)
	busy, idle := visit(t, "127.0.0.1", port, "wait"), visit(t, "127.0.0.1", port, "word")
	hears(t, idle, "word")
	if err := s.Resume(Paused); err != nil {
		t.Fatal(err)
	}
	<-s.flushed
	free()
	hears(t, busy, "free")
	cut(t, idle)
}

// Connections that the agent itself has, with clients and with the pod, are none
// of them.
func TestFlushSparesOurs(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		port := startPod(t, podSpeaksHTTP).port // another process: its end of a connection is not one of this one's sockets
		pod := netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port)
		alices, bobs := relayedTo(t, server(t, "alice")), relayedTo(t, server(t, "bob"))
		steal(t, in, protocol.Steal{Port: port, Filter: user("alice"), Flush: protocol.FlushAll}, alices)
		c := dial(t, pod)
		r := bufio.NewReader(c)
		ask := func(user, want string) {
			t.Helper()
			fmt.Fprintf(c, "GET / HTTP/1.1\r\nHost: x\r\nX-User: %s\r\n\r\n", user)
			a, err := http.ReadResponse(r, nil)
			if err != nil {
				t.Fatal(err)
			}
			b, err := io.ReadAll(a.Body)
			if err != nil || !strings.HasPrefix(string(b), want) {
				t.Errorf("%s was answered by %.6q, %v", user, b, err)
			}
		}
		ask("alice", "alice")
		ask("nobody", "pod")
		steal(t, in, protocol.Steal{Port: port, Filter: user("bob"), Flush: protocol.FlushAll}, bobs)
		ask("bob", "bob")
		ask("alice", "alice")
		ask("nobody", "pod")
	})
}

// What a listener has not completed is told of, too: its client thinks that it is open.
func TestDumpOfRequests(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	raw, err := l.(*net.TCPListener).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	if err := raw.Control(func(fd uintptr) {
		if err := unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_DEFER_ACCEPT, 30); err != nil {
			t.Error(err)
		}
	}); err != nil {
		t.Fatal(err)
	}
	at := addrOf(l.Addr())
	c := dial(t, at)
	var found []netip.AddrPort
	if err := dump(at.Port(), otherStates, func(e *established) {
		found = append(found, e.remote())
		if e.local() != at {
			t.Errorf("local %v, not %v", e.local(), at)
		}
	}); err != nil {
		t.Fatal(err)
	}
	if want := []netip.AddrPort{addrOf(c.LocalAddr())}; !slices.Equal(found, want) {
		t.Errorf("found %v, want %v", found, want)
	}
}
