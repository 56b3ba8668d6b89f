package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// With loadVar the tests of load are as large as what is promised.
const loadVar = "MIRRORD_TEST_LOAD"

func sized(usual, whole int) int {
	if os.Getenv(loadVar) != "" {
		return whole
	}
	return usual
}

// A filtered is a port of the pod's of which a client of the agent's has the
// requests of alice. The agent is a process of its own binary, without the race
// detector, so that its memory is what it is.
type filtered struct {
	t     *testing.T
	agent *agent
	url   string
}

// newFiltered has handle answer all requests, by the pod or the debuggee. args are
// more ones of the agent.
func newFiltered(t *testing.T, handle func(by string, w http.ResponseWriter, r *http.Request), args ...string) *filtered {
	t.Helper()
	p := newPod(t)
	serve := func(by string, l net.Listener) netip.AddrPort {
		t.Helper()
		srv := webServer(func(w http.ResponseWriter, r *http.Request) { handle(by, w, r) })
		agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
		return l.Addr().(*net.TCPAddr).AddrPort()
	}
	var l net.Listener
	var err error
	p.enter(t, func() { l, err = net.Listen("tcp", podV4+":0") })
	if err != nil {
		t.Fatal(err)
	}
	pod := serve("pod", l)
	if l, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	return filter(t, p, buildAgent(t), pod, serve("debuggee", l), args...)
}

func webServer(h http.HandlerFunc) *http.Server {
	srv := &http.Server{Protocols: new(http.Protocols), Handler: h}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true)
	return srv
}

func buildAgent(t *testing.T) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "mirrord-agent")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v: %s", err, out)
	}
	return path
}

// filter has an agent send alice's requests for a port of p to a debuggee.
func filter(t *testing.T, p *pod, binary string, port, debuggee netip.AddrPort, args ...string) *filtered {
	t.Helper()
	f := &filtered{t: t, agent: startBinary(t, binary, append(args, "--pid", strconv.Itoa(p.pid))...), url: "http://" + port.String()}
	client, _ := agenttest.New(t, f.agent.addr)
	t.Cleanup(debuggees(client, func(stream net.Conn) error {
		if err := agenttest.ReadRequest(stream, protocol.KindIncoming, new(protocol.Incoming)); err != nil {
			return err
		}
		if err := protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
			return err
		}
		c, err := net.Dial("tcp", debuggee.String())
		if err != nil {
			return err
		}
		return protocol.Relay(c.(*net.TCPConn), stream)
	}))
	t.Cleanup(client.End)
	stream, err := client.Bulk.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	q := protocol.Steal{Port: port.Port(), Filter: &protocol.Filter{Header: "^x-user: alice$"}}
	if _, err := protocol.Call(stream, protocol.KindSteal, q, new(protocol.StealReply)); err != nil {
		t.Fatal(err)
	}
	return f
}

func startBinary(t *testing.T, path string, args ...string) *agent {
	t.Helper()
	a := &agent{Cmd: exec.Command(path, args...), t: t}
	a.Stderr = io.Discard
	stdout, err := a.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.kill() })
	line := make([]byte, 128)
	n, _ := stdout.Read(line)
	words := strings.Fields(string(line[:n]))
	if len(words) == 0 {
		t.Fatal("the agent did not start")
	}
	a.addr = words[len(words)-1]
	return a
}

// memory is what the agent has in memory, in MiB, or had at most.
func (a *agent) memory(which string) float64 {
	a.t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", a.Process.Pid))
	if err != nil {
		a.t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(b), which+":")
	var kib float64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		a.t.Fatalf("%s: %v", which, err)
	}
	return kib / 1024
}

// Large bodies go both ways, to the pod and to the debuggee, in HTTP/1 and HTTP/2,
// all at one time. While nobody reads them their senders wait; and the agent keeps
// little of them.
func TestLargeBodiesInLittleMemory(t *testing.T) {
	size := int64(sized(32, 1024)) << 20
	const most = 64 // MiB
	var sent atomic.Int64
	read := make(chan struct{})
	f := newFiltered(t, func(by string, w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-By", by)
		if r.Method == "GET" {
			w.Header().Set("Content-Length", strconv.FormatInt(size, 10))
			_, _ = io.Copy(w, &counted{left: size, sent: &sent})
			return
		}
		<-read
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprintln(w, n, err)
	})
	before := f.agent.memory("VmRSS")
	var wg sync.WaitGroup
	for _, client := range []*http.Client{f.client(false), f.client(true)} {
		for user, by := range map[string]string{"alice": "debuggee", "bob": "pod"} {
			for _, method := range []string{"GET", "PUT"} {
				wg.Go(func() {
					r, _ := http.NewRequestWithContext(t.Context(), method, f.url, nil)
					if method == "PUT" {
						r.Body, r.ContentLength = io.NopCloser(&counted{left: size, sent: &sent}), size
					}
					r.Header.Set("X-User", user)
					a, err := client.Do(r)
					if err != nil {
						t.Errorf("%s of %s: %v", method, user, err)
						return
					}
					defer a.Body.Close()
					<-read
					want, got := size, int64(0)
					if method == "GET" {
						got, err = io.Copy(io.Discard, a.Body)
					} else {
						_, err = fmt.Fscan(a.Body, &got)
					}
					if got != want || err != nil || a.Header.Get("X-By") != by {
						t.Errorf("%s of %s: %d of %d bytes, %v, of the %s", method, user, got, want, err, a.Header.Get("X-By"))
					}
				})
			}
		}
	}
	// All wait when nothing was sent for a while.
	for was := int64(-1); was != sent.Load() || was == 0; time.Sleep(500 * time.Millisecond) {
		was = sent.Load()
	}
	waiting, held := f.agent.memory("VmRSS"), sent.Load()
	close(read)
	wg.Wait()
	peak := f.agent.memory("VmHWM")
	t.Logf("8 bodies of %d MiB: %d MiB were sent before anybody read; agent: %.0f MiB before, %.0f MiB then, at most %.0f MiB",
		size>>20, held>>20, before, waiting, peak)
	if peak > most || held > 8*size/2 {
		t.Error("that is too much")
	}
}

// counted are as many bytes as are left.
type counted struct {
	left int64
	sent *atomic.Int64
}

func (c *counted) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n := int(min(int64(len(b)), c.left))
	c.left -= int64(n)
	c.sent.Add(int64(n))
	return n, nil
}

// client speaks HTTP/1 or HTTP/2.
func (f *filtered) client(two bool) *http.Client {
	tr := &http.Transport{Protocols: new(http.Protocols)}
	tr.Protocols.SetHTTP1(!two)
	tr.Protocols.SetUnencryptedHTTP2(two)
	f.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// webMain serves two ports of the pod's.
func webMain() error {
	failed := make(chan error)
	for range 2 {
		l, err := net.Listen("tcp", podV4+":0")
		if err != nil {
			return err
		}
		fmt.Println(l.Addr())
		srv := webServer(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "pod") })
		go func() { failed <- srv.Serve(l) }()
	}
	return <-failed
}

// web starts webMain, in a process of its own: one may have so many files, and
// the other ends of its connections are the test's.
func (p *pod) web(t *testing.T) (ports [2]netip.AddrPort) {
	t.Helper()
	out := p.beside(t, nil, "web")
	for i := range ports {
		var text string
		_, err := fmt.Fscan(out, &text)
		if err == nil {
			ports[i], err = netip.ParseAddrPort(text)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return ports
}

// Many connections are open at one time, and each has its answers. If they are
// more than an agent may have files for, another agent has those of another port.
func TestManyConnections(t *testing.T) {
	stolen, passing := sized(100, 1000), sized(300, 10_000)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	const others = 100 // files
	first := min(passing, (int(limit.Cur)-others-stolen)/2)
	p := newPod(t)
	ports := p.web(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := webServer(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "debuggee") })
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	debuggee := l.Addr().(*net.TCPAddr).AddrPort()
	binary := buildAgent(t)
	f := filter(t, p, binary, ports[0], debuggee)
	agents := []*filtered{f}
	if first < passing {
		agents = append(agents, filter(t, p, binary, ports[1], debuggee))
	}
	before := f.agent.memory("VmRSS")
	conns := make([]net.Conn, stolen+passing)
	ask := func(i int) error {
		user, by, at := "alice", "debuggee", ports[0]
		if i >= stolen {
			user, by = "bob", "pod"
		}
		if i >= stolen+first {
			at = ports[1]
		}
		if conns[i] == nil {
			c, err := net.Dial("tcp", at.String())
			if err != nil {
				return err
			}
			conns[i] = c
		}
		_ = conns[i].SetDeadline(time.Now().Add(2 * time.Minute))
		if _, err := fmt.Fprintf(conns[i], "GET / HTTP/1.1\r\nHost: x\r\nX-User: %s\r\n\r\n", user); err != nil {
			return err
		}
		var got []byte
		for b := make([]byte, 512); !bytes.Contains(got, []byte("\r\n\r\n"+by)); {
			n, err := conns[i].Read(b)
			if err != nil {
				return fmt.Errorf("after %q: %w", got, err)
			}
			got = append(got, b[:n]...)
		}
		return nil
	}
	for range 2 {
		var wg sync.WaitGroup
		var next atomic.Int32
		for range 64 { // as fast as the backlogs of the listeners take them
			wg.Go(func() {
				for i := int(next.Add(1)) - 1; i < len(conns); i = int(next.Add(1)) - 1 {
					if err := ask(i); err != nil {
						t.Errorf("connection %d: %v", i, err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	t.Logf("%d stolen and %d passing connections: agent: %.0f MiB before, %.0f MiB with them", stolen, first, before, f.agent.memory("VmRSS"))
	for _, f := range agents[1:] {
		t.Logf("one may have %d files: %d more passing connections are of another agent, which has %.0f MiB", limit.Cur, passing-first, f.agent.memory("VmRSS"))
	}
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}
