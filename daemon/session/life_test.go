package session

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// begin starts a session with a configuration, and listens to its events.
func begin(t *testing.T, incoming string) (*Manager, ide.Session, <-chan ide.SessionEvent) {
	t.Helper()
	m := manager(t)
	s := beginAt(t, m, agentAddress(t), incoming)
	return m, s, eventsOf(t, m, s.ID)
}

// beginAt starts one with the agent at an address.
func beginAt(t *testing.T, m *Manager, addr, incoming string) ide.Session {
	t.Helper()
	return beginMode(t, m, addr, "steal", incoming)
}

func beginMode(t *testing.T, m *Manager, addr, mode, incoming string) ide.Session {
	t.Helper()
	return beginWith(t, m, addr, fmt.Sprintf(`{"feature": {"fs": "local", "network": {"incoming": {"mode": %q%s}}}}`, mode, incoming))
}

// beginWith starts one whose configuration is text.
func beginWith(t *testing.T, m *Manager, addr, text string) ide.Session {
	t.Helper()
	dir := t.TempDir()
	file := filepath.Join(dir, "mirrord.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := m.Start(t.Context(), ide.SessionStartParams{
		Client: ide.Client{Dir: dir}, ConfigFile: file, Overrides: ide.Overrides{Agent: addr},
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func eventsOf(t *testing.T, m *Manager, id string) <-chan ide.SessionEvent {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	told, done := make(chan ide.SessionEvent, 100), make(chan error)
	listens := sync.OnceFunc(func() { done <- nil })
	go func() {
		done <- m.Events(ctx, ide.SessionEventsParams{ID: id}, func(e ide.SessionEvent) {
			listens()
			select {
			case told <- e:
			case <-ctx.Done():
			}
		})
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("Events = %v", err)
		}
	})
	return told
}

// until waits for an event of a kind, and returns it.
func until(t *testing.T, told <-chan ide.SessionEvent, kind string) ide.SessionEvent {
	t.Helper()
	var seen []string
	for {
		select {
		case e := <-told:
			if e.Kind == kind {
				return e
			}
			seen = append(seen, e.Kind)
		case <-time.After(time.Minute):
			t.Fatalf("no event %q, but %q", kind, seen)
		}
	}
}

// A server answers each connection with its name.
type server struct {
	net.Listener
	name string
}

func serve(t *testing.T, name string) *server { return serveOn(t, "tcp4", "127.0.0.1:0", name) }

func serveOn(t *testing.T, network, addr, name string) *server {
	t.Helper()
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	s := &server{l, name}
	go s.answer()
	return s
}

func (s *server) answer() {
	for {
		c, err := s.Accept()
		if err != nil {
			return
		}
		fmt.Fprintln(c, s.name)
		c.Close()
	}
}

func (s *server) at() netip.AddrPort { return s.Addr().(*net.TCPAddr).AddrPort() }

// listen steals port for s.
func (c *caller) listen(port uint16, s net.Listener) {
	c.t.Helper()
	c.take(port, s, 0)
}

// mirror copies what comes to port to s.
func (c *caller) mirror(port uint16, s net.Listener) {
	c.t.Helper()
	c.take(port, s, layer.ListenMirror)
}

func (c *caller) take(port uint16, s net.Listener, flags uint32) {
	c.t.Helper()
	if errno, why := c.tries(port, s, flags); errno != 0 {
		c.t.Fatalf("listen: %v: %s", errno, why)
	}
}

// tries takes a port that another may have.
func (c *caller) tries(port uint16, s net.Listener, flags uint32) (errno unix.Errno, why []byte) {
	c.t.Helper()
	raw, err := s.(syscall.Conn).SyscallConn()
	if err != nil {
		c.t.Fatal(err)
	}
	var st unix.Stat_t
	if e := raw.Control(func(fd uintptr) { err = unix.Fstat(int(fd), &st) }); errors.Join(e, err) != nil {
		c.t.Fatal(e, err)
	}
	addr := s.Addr().(*net.TCPAddr).AddrPort()
	reply, _ := c.call(layer.Request{Op: layer.OpListen, Flags: flags, Addr: netip.AddrPortFrom(netip.IPv4Unspecified(), port), Addr2: addr, Node: st.Ino})
	if reply.Errno == uint32(unix.EPERM) || reply.Errno == uint32(unix.EOPNOTSUPP) {
		c.t.Skipf("the agent cannot steal here: %s", reply.Data)
	}
	return unix.Errno(reply.Errno), reply.Data
}

// whoAnswers asks at the pod's port.
func whoAnswers(port uint16) <-chan string { return whoAnswersAt("127.0.0.1", port) }

func whoAnswersAt(host string, port uint16) <-chan string {
	answer := make(chan string, 1)
	go func() {
		c, err := net.DialTimeout("tcp", net.JoinHostPort(host, fmt.Sprint(port)), time.Minute)
		if err != nil {
			answer <- err.Error()
			return
		}
		defer c.Close()
		c.SetDeadline(time.Now().Add(time.Minute))
		line, err := bufio.NewReader(c).ReadString('\n')
		if err != nil {
			line = err.Error()
		}
		answer <- strings.TrimSpace(line)
	}()
	return answer
}

func wantAnswer(t *testing.T, what string, got <-chan string, want string) {
	t.Helper()
	if s := <-got; s != want {
		t.Errorf("%s: answered by %q, want %q", what, s, want)
	}
}

// What comes while a client that holds the session starts another launcher
// waits for its debuggee.
func TestConnectionsWaitForALauncher(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	c.listen(port, first.Listener)
	wantAnswer(t, "before", whoAnswers(port), "first")
	first.Close()
	c.conn.Close()
	if e := until(t, told, ide.EventWaiting); e.Port != port {
		t.Errorf("waits at port %d", e.Port)
	}
	waiting := whoAnswers(port)
	attach(t, m, s.ID).listen(port, second.Listener)
	until(t, told, ide.EventTaken)
	wantAnswer(t, "during the restart", waiting, "second")
	wantAnswer(t, "after it", whoAnswers(port), "second")
}

// They do not where the configuration says so, nor for ever.
func TestConnectionsDoNotWait(t *testing.T) {
	for _, seconds := range []string{"0", "1"} {
		t.Run(seconds, func(t *testing.T) {
			m, s, told := begin(t, `, "while_restarting": `+seconds)
			pod, first := serve(t, "pod"), serve(t, "first")
			c := attach(t, m, s.ID)
			c.listen(pod.at().Port(), first.Listener)
			first.Close()
			c.conn.Close()
			if seconds == "1" {
				until(t, told, ide.EventWaiting)
				wantAnswer(t, "meanwhile", whoAnswers(pod.at().Port()), "pod")
			}
			until(t, told, ide.EventGivenBack)
			wantAnswer(t, "afterwards", whoAnswers(pod.at().Port()), "pod")
		})
	}
}

// Two want all of one port: the second is refused in words that name the first,
// or does without, or takes it over, as its configuration says.
func TestConcurrentSteal(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	c.listen(port, first.Listener)
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	another := func(policy string) (*caller, ide.Session) {
		t.Helper()
		dir := t.TempDir()
		file := filepath.Join(dir, "mirrord.json")
		text := fmt.Sprintf(`{"feature": {"fs": "local", "network": {"incoming": {"mode": "steal", "on_concurrent_steal": %q}}}}`, policy)
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p := own.start
		p.Client.Dir, p.ConfigFile, p.ID = dir, file, ""
		other, err := m.Start(t.Context(), p, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		return attach(t, m, other.ID), other
	}
	ask := func(c *caller) (layer.Reply, string) {
		addr := netip.AddrPortFrom(netip.IPv4Unspecified(), port)
		reply, _ := c.call(layer.Request{Op: layer.OpListen, Addr: addr, Addr2: second.at()})
		return reply, string(reply.Data)
	}
	refused, _ := another("abort")
	if reply, words := ask(refused); unix.Errno(reply.Errno) != unix.EADDRINUSE ||
		!strings.Contains(words, ", session "+s.ID) || !strings.Contains(words, "is stolen already") {
		t.Errorf("abort: %v: %s", unix.Errno(reply.Errno), words)
	}
	without, _ := another("continue")
	if reply, words := ask(without); reply.Errno != 0 {
		t.Errorf("continue: %v: %s", unix.Errno(reply.Errno), words)
	}
	wantAnswer(t, "till here", whoAnswers(port), "first")
	taking, other := another("override")
	taking.listen(port, second.Listener)
	if e := until(t, told, ide.EventGivenBack); e.Port != port || !strings.Contains(e.Message, "session "+other.ID+" has taken it over") {
		t.Errorf("the first is told %+v", e)
	}
	wantAnswer(t, "taken over", whoAnswers(port), "second")
	if list := m.List(); len(list[0].Ports) > 0 {
		t.Errorf("the first still has %v", list[0].Ports)
	}
	if err := m.Stop(t.Context(), other.ID); err != nil {
		t.Fatal(err)
	}
	wantAnswer(t, "in the end", whoAnswers(port), "pod")
}

// traced starts a process that its tracer, which is this thread, has stopped.
func traced(t *testing.T) int {
	t.Helper()
	runtime.LockOSThread() // for good: it is the tracer
	cmd := exec.Command("sleep", "1000")
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	var ws unix.WaitStatus
	if _, err := unix.Wait4(cmd.Process.Pid, &ws, 0, nil); err != nil || !ws.Stopped() {
		t.Fatalf("the process is not stopped: %v, %v", ws, err)
	}
	return cmd.Process.Pid
}

// debug tells of a debuggee.
func (c *caller) debug(pid int) int {
	c.t.Helper()
	if reply, _ := c.call(layer.Request{Op: layer.OpDebuggee, Node: uint64(pid)}); reply.Errno != 0 {
		c.t.Fatalf("telling of process %d: %s", pid, reply.Data)
	}
	return pid
}

// Its debugger stops a debuggee, lets it go on and replaces it: the port's
// connections wait.
func TestDebuggeeIsStoppedAndReplaced(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	pid := c.debug(traced(t))
	c.listen(port, first.Listener)
	for _, kind := range []string{ide.EventDebuggee, ide.EventStopped} {
		if e := until(t, told, kind); e.PID != pid {
			t.Errorf("%s: process %d, not %d", kind, e.PID, pid)
		}
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventContinued)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventExited)
	first.Close()
	c.debug(traced(t)) // its successor, which does not listen yet
	waiting := whoAnswers(port)
	until(t, told, ide.EventWaiting)
	c.listen(port, second.Listener)
	wantAnswer(t, "during the restart", waiting, "second")
}

// A debuggee that only closes its listener is not waited for.
func TestClosedListenerOfADebuggee(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first := serve(t, "pod"), serve(t, "first")
	c := attach(t, m, s.ID)
	c.debug(traced(t))
	c.listen(pod.at().Port(), first.Listener)
	first.Close()
	wantAnswer(t, "afterwards", whoAnswers(pod.at().Port()), "pod")
	until(t, told, ide.EventGivenBack)
}

// Of a debuggee that listens for each family each gets its family's clients; what
// it has closed the other gets, and the pod after both.
func TestListenersOfBothFamilies(t *testing.T) {
	m, s, told := begin(t, "")
	pod, four, six := serveOn(t, "tcp", "[::]:0", "pod"), serve(t, "four"), serveOn(t, "tcp6", "[::1]:0", "six")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	c.listen(port, four.Listener)
	wantAnswer(t, "IPv6, before its listener", whoAnswersAt("::1", port), "four")
	c.listen(port, six.Listener)
	wantAnswer(t, "IPv6", whoAnswersAt("::1", port), "six")
	wantAnswer(t, "IPv4", whoAnswers(port), "four")
	four.Close()
	wantAnswer(t, "IPv4, after its listener's end", whoAnswers(port), "six")
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	again := serve(t, "four again")
	c.listen(port, again.Listener)
	wantAnswer(t, "IPv4, when it listens again", whoAnswers(port), "four again")
	six.Close()
	own.checkListeners()
	wantAnswer(t, "IPv6, after its listener's end", whoAnswersAt("::1", port), "four again")
	again.Close()
	own.checkListeners()
	until(t, told, ide.EventGivenBack)
	wantAnswer(t, "after both", whoAnswers(port), "pod")
	wantAnswer(t, "after both, IPv6", whoAnswersAt("::1", port), "pod")
}

// Who mirrors is told, once, that his debuggee has not got all.
func TestMirrorIsCut(t *testing.T) {
	m := manager(t)
	s := beginMode(t, m, agentAddress(t), "mirror", "")
	told := eventsOf(t, m, s.ID)
	pod, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer pod.Close()
	silent, err := net.Listen("tcp4", "127.0.0.1:0") // never accepts
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	at := pod.Addr().(*net.TCPAddr).AddrPort()
	attach(t, m, s.ID).mirror(at.Port(), silent)
	c, err := net.Dial("tcp4", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	got, err := pod.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer got.Close()
	const more = 48 << 20 // than anybody keeps
	go io.Copy(c, io.LimitReader(zeros{}, more))
	if _, err := io.CopyN(io.Discard, got, more); err != nil {
		t.Fatal(err)
	}
	words := func(why string) string {
		return fmt.Sprintf("port %d: a connection is not mirrored, or not to its end: %s; the debuggee sees a reset, the pod's client nothing of it "+
			"(of others it is not told again)", at.Port(), why)
	}
	// On a busy machine the agent may miss packets, too.
	reasons := []string{"the debuggee reads slower than the pod", "packets were missed"}
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	first := until(t, told, ide.EventMessage).Message
	if first != words(reasons[0]) && first != words(reasons[1]) {
		t.Errorf("told %q, want %q", first, words(reasons[0]))
	}
	for _, why := range reasons { // of another replica, say
		own.cut(at.Port(), why)
		own.cut(at.Port(), why)
	}
	own.cut(at.Port(), "that was all")
	seen := map[string]int{first: 1}
	for last := ""; last != words("that was all"); seen[last]++ {
		last = until(t, told, ide.EventMessage).Message
	}
	for _, why := range reasons {
		if n := seen[words(why)]; n != 1 {
			t.Errorf("%q is told %d times", words(why), n)
		}
	}
}

type zeros struct{}

func (zeros) Read(b []byte) (int, error) { clear(b); return len(b), nil }

// A connection waits for a debuggee that is stopped, and for the next one if that
// takes its place without ever having gone on.
func TestStoppedDebuggeeIsReplaced(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	pid := c.debug(traced(t))
	c.listen(port, first.Listener)
	until(t, told, ide.EventStopped)
	waiting := whoAnswers(port)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first.Close()
	c.debug(traced(t))
	until(t, told, ide.EventWaiting)
	c.listen(port, second.Listener)
	wantAnswer(t, "across the restart", waiting, "second")
}

// A port that a session keeps for its next debuggee is another's whose debuggee listens
// there now.
func TestKeptPortIsYielded(t *testing.T) {
	m, addr := manager(t), agentAddress(t)
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	one := beginAt(t, m, addr, "")
	told := eventsOf(t, m, one.ID)
	c := attach(t, m, one.ID)
	pid := c.debug(traced(t))
	c.listen(port, first.Listener)
	until(t, told, ide.EventStopped)
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	first.Close()
	until(t, told, ide.EventWaiting)
	attach(t, m, beginAt(t, m, addr, "").ID).listen(port, second.Listener)
	wantAnswer(t, "of the other session", whoAnswers(port), "second")
	if e := until(t, told, ide.EventGivenBack); e.Message != "the debuggee of another session listens there" {
		t.Errorf("the first session is told %q", e.Message)
	}
}

// While it waits for its debuggee a connection is nobody's; it is asked for when that
// goes on.
func TestWaitingConnectionIsAskedFor(t *testing.T) {
	m, s, told := begin(t, "")
	port := serve(t, "pod").at().Port()
	c := attach(t, m, s.ID)
	pid := c.debug(traced(t))
	c.listen(port, serve(t, "debuggee").Listener)
	until(t, told, ide.EventStopped)
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	own.mu.Lock()
	l := own.listeners[port]
	own.mu.Unlock()
	stream, agent := net.Pipe()
	agent.SetDeadline(time.Now().Add(time.Minute))
	var delivering sync.WaitGroup
	defer delivering.Wait()
	defer agent.Close()
	delivering.Go(func() {
		own.deliver(stream, l, protocol.Incoming{Port: port, Client: netip.MustParseAddrPort("127.0.0.1:1024")})
	})
	wantReply := func(want protocol.IncomingReply) {
		t.Helper()
		var got protocol.IncomingReply
		if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, &got); err != nil || got != want {
			t.Fatalf("the agent is told %+v, %v, not %+v", got, err, want)
		}
	}
	wantReply(protocol.IncomingReply{Waits: true})
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	wantReply(protocol.IncomingReply{Asks: true})
	if _, err := agent.Write(protocol.Granted()); err != nil {
		t.Fatal(err)
	}
	wantReply(protocol.IncomingReply{})
	b := make([]byte, 100)
	if n, err := protocol.ReadDatagram(agent, b); err != nil || string(b[:n]) != "debuggee\n" {
		t.Errorf("the debuggee says %q, %v", b[:n], err)
	}
}

// What has waited for too long, and what comes then, goes to the pod, until the
// debuggee goes on.
func TestDebuggeeIsStoppedForLong(t *testing.T) {
	m, s, told := begin(t, `, "while_stopped": 1`)
	pod, first := serve(t, "pod"), serve(t, "first")
	port := pod.at().Port()
	c := attach(t, m, s.ID)
	pid := c.debug(traced(t))
	c.listen(port, first.Listener)
	until(t, told, ide.EventStopped)
	wantAnswer(t, "what waited", whoAnswers(port), "pod")
	wantAnswer(t, "what came later", whoAnswers(port), "pod")
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventContinued)
	wantAnswer(t, "after it went on", whoAnswers(port), "first")
}

// Where the pod is to get them, connections do not wait at all, and so it is with
// the next requests of a connection that is kept.
func TestDebuggeeIsPassedBy(t *testing.T) {
	m, s, told := begin(t, `, "while_stopped": "pass", "http_filter": {"header_filter": "^x-user: alice$"}`)
	pod, own := web(t, "pod"), web(t, "debuggee")
	port := uint16(pod.Addr().(*net.TCPAddr).Port)
	c := attach(t, m, s.ID)
	pid := c.debug(traced(t))
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventDebuggee)
	c.listen(port, own)
	ask := alice(t, port)
	if got := ask(); got != "debuggee" {
		t.Errorf("while it runs: %q", got)
	}
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil { // its tracer, which is this thread, need not wait for it
		t.Fatal(err)
	}
	until(t, told, ide.EventStopped)
	if got := ask(); got != "pod" {
		t.Errorf("while it is stopped: %q", got)
	}
	if got := alice(t, port)(); got != "pod" {
		t.Errorf("another connection: %q", got)
	}
	var ws unix.WaitStatus
	if _, err := unix.Wait4(pid, &ws, 0, nil); err != nil || !ws.Stopped() {
		t.Fatalf("the process is not stopped: %v, %v", ws, err)
	}
	if err := unix.PtraceCont(pid, 0); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventContinued)
	if got := ask(); got != "debuggee" {
		t.Errorf("when it goes on: %q", got)
	}
}

// web is an HTTP server that answers with its name.
func web(t *testing.T, name string) net.Listener {
	t.Helper()
	return serveHTTP(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, name) }))
}

func serveHTTP(t *testing.T, h http.Handler) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-served
	})
	return l
}

// alice asks for her name's sake, over one connection.
func alice(t *testing.T, port uint16) func() string {
	tr := &http.Transport{MaxConnsPerHost: 1}
	t.Cleanup(tr.CloseIdleConnections)
	return func() string {
		t.Helper()
		r, err := http.NewRequest("GET", fmt.Sprintf("http://127.0.0.1:%d/", port), nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("X-User", "alice")
		a, err := (&http.Client{Transport: tr, Timeout: time.Minute}).Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer a.Body.Close()
		b, err := io.ReadAll(a.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
}

// A session that steals a single request gets one, whichever of its ports many
// come to, and one more when it is armed; one that could not be delivered does not
// count.
func TestOnlyOneRequest(t *testing.T) {
	m, s, told := begin(t, `, "once": true, "while_restarting": 0, "http_filter": {"header_filter": "^x-user: alice$"}`)
	c := attach(t, m, s.ID)
	var ports []uint16
	var own net.Listener
	for range 2 {
		port := uint16(web(t, "pod").Addr().(*net.TCPAddr).Port)
		own = web(t, "debuggee")
		c.listen(port, own)
		ports = append(ports, port)
	}
	round := func() (stolen int) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range 100 {
			ask := alice(t, ports[i%2])
			wg.Go(func() {
				if ask() == "debuggee" {
					mu.Lock()
					defer mu.Unlock()
					stolen++
				}
			})
		}
		wg.Wait()
		return stolen
	}
	until(t, told, ide.EventArmed)
	for i := range 5 {
		if n := round(); n != 1 {
			t.Errorf("round %d: %d were stolen", i, n)
		}
		if e := until(t, told, ide.EventCaught); e.Port != ports[0] && e.Port != ports[1] {
			t.Errorf("it was stolen at port %d", e.Port)
		}
		if n := round(); n != 0 {
			t.Errorf("round %d: %d were stolen without arming", i, n)
		}
		id := []string{s.ID, ""}[i%2]
		if err := m.Arm(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		until(t, told, ide.EventArmed)
	}
	own.Close()
	if got := alice(t, ports[1])(); got != "pod" {
		t.Errorf("where nobody listens: %q", got)
	}
	until(t, told, ide.EventCaught)
	until(t, told, ide.EventArmed)
	for alice(t, ports[0])() != "debuggee" { // when the agent knows
	}
}

// Arming is for those sessions only.
func TestArmWhatIsNotOnce(t *testing.T) {
	m, s, _ := begin(t, "")
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, mode := range []string{"steal", "mirror"} {
		own.mu.Lock()
		own.config.Incoming.Mode, own.config.Incoming.Once = mode, mode == "mirror"
		own.mu.Unlock()
		for id, words := range map[string]string{s.ID: "session " + s.ID + " does not steal a single", "": "no session steals a single"} {
			if e, ok := errors.AsType[*ide.Error](m.Arm(t.Context(), id)); !ok || e.Code != ide.CodeUsage || !strings.Contains(e.Msg, words) {
				t.Errorf("%s: arming %q: %v", mode, id, e)
			}
		}
	}
}

// A session whose link is cut holds up no other.
func TestArmWithACutLink(t *testing.T) {
	m, addr := manager(t), agentAddress(t)
	n := linktest.New(t, addr)
	away := beginAt(t, m, n.Addr(), `, "once": true`)
	own := serve(t, "debuggee")
	attach(t, m, away.ID).listen(serve(t, "pod").at().Port(), own.Listener)
	told := eventsOf(t, m, beginAt(t, m, addr, `, "once": true`).ID)
	until(t, told, ide.EventArmed)
	n.Set(linktest.Swallows, link.Control)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	armed := make(chan error)
	go func() { armed <- m.Arm(ctx, "") }()
	until(t, told, ide.EventArmed)
	cancel()
	if err := <-armed; err == nil || !strings.Contains(err.Error(), "arming session "+away.ID) {
		t.Errorf("Arm = %v", err)
	}
}

// One debuggee that is stopped does not hold up another's connections.
func TestOnlyTheStoppedDebuggeeWaits(t *testing.T) {
	m, s, told := begin(t, "")
	pod, first := serve(t, "pod"), serve(t, "first")
	stopped, running := attach(t, m, s.ID), attach(t, m, s.ID)
	stopped.debug(traced(t))
	until(t, told, ide.EventStopped)
	running.listen(pod.at().Port(), first.Listener)
	wantAnswer(t, "beside a stopped one", whoAnswers(pod.at().Port()), "first")
}

// Of what happened to the target a client learns whether something is gone for
// good, or it need only be told.
func TestNewsOfTheTarget(t *testing.T) {
	m, s, told := begin(t, "")
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventStarted) // what follows is heard
	for _, tt := range []struct {
		news news
		lost bool
	}{
		{news{words: "restarted"}, false},
		{news{words: "ending", ending: true}, true},
		{news{words: "gone", lost: true}, true},
	} {
		m.agentNews(own.agent(), tt.news)
		if e := until(t, told, ide.EventMessage); !strings.HasPrefix(e.Message, tt.news.words) || e.Lost != tt.lost {
			t.Errorf("%+v is told as %+v", tt.news, e)
		}
	}
}

// Who reads events too slowly is told that some are missing, and always that the
// session has ended.
func TestSlowReaderOfEvents(t *testing.T) {
	m, s, _ := begin(t, "")
	read, done := make(chan bool), make(chan error)
	var kinds []string
	go func() {
		done <- m.Events(t.Context(), ide.SessionEventsParams{ID: s.ID}, func(e ide.SessionEvent) {
			if len(kinds) == 0 {
				read <- true
				<-read
			}
			kinds = append(kinds, e.Kind)
		})
	}()
	<-read
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	for range maxEvents + 10 {
		own.event(ide.SessionEvent{Kind: ide.EventMessage})
	}
	if err := m.Stop(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	read <- true
	if err := <-done; err != nil {
		t.Error(err)
	}
	if n := len(kinds); n < maxEvents || kinds[n-1] != ide.EventEnded || kinds[n-2] != ide.EventMissed {
		t.Errorf("%d events, the last of them %q", n, kinds[max(0, n-3):])
	}
}

// The configuration that is read again holds for the launchers that come.
func TestRestartReadsTheConfiguration(t *testing.T) {
	m, s, told := begin(t, "")
	before, err := m.Launch(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	file := before.Start.ConfigFile
	restart := func(text string) error {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := m.Restart(t.Context(), ide.SessionRestartParams{ID: s.ID, Client: before.Start.Client})
		return err
	}
	if err := restart(`{"feature": {"fs": "local", "env": {"override": {"A": "b"}}, "network": {"incoming": {"mode": "mirror", "ports": [80]}}}}`); err != nil {
		t.Fatal(err)
	}
	until(t, told, ide.EventConfigured)
	now, err := m.Launch(t.Context(), s.ID)
	if err != nil || now.Env["A"] != "b" || !now.Policy.Mirror || now.Policy.Steal || !slices.Equal(now.Policy.Ports, []uint16{80}) {
		t.Errorf("after the restart: %+v, %v", now, err)
	}
	for _, bad := range []string{`{"feature": {"env": 7}}`, `{"agent": {"namespace": "other"}}`} {
		if err := restart(bad); err == nil {
			t.Errorf("%s is taken", bad)
		}
	}
	if again, err := m.Launch(t.Context(), s.ID); err != nil || again.Env["A"] != "b" {
		t.Errorf("after a restart that failed: %+v, %v", again, err)
	}
}
