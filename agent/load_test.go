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
	binary := filepath.Join(t.TempDir(), "mirrord-agent")
	if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
		t.Fatalf("building the agent: %v: %s", err, out)
	}
	serve := func(by string, l net.Listener) netip.AddrPort {
		t.Helper()
		srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handle(by, w, r) })}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = srv.Serve(l)
		}()
		t.Cleanup(func() {
			srv.Close()
			<-done
		})
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
	debuggee := serve("debuggee", l)

	f := &filtered{t: t, agent: startBinary(t, binary, append(args, "--pid", strconv.Itoa(p.pid))...), url: "http://" + pod.String()}
	client, _ := agenttest.New(t, f.agent.addr)
	var wg sync.WaitGroup
	t.Cleanup(wg.Wait)
	t.Cleanup(client.End)
	wg.Go(func() {
		for {
			stream, err := client.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer stream.Close()
				if agenttest.ReadRequest(stream, protocol.KindIncoming, new(protocol.Incoming)) != nil ||
					protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil) != nil {
					return
				}
				if c, err := net.Dial("tcp", debuggee.String()); err == nil {
					_ = protocol.Relay(c.(*net.TCPConn), stream)
				}
			})
		}
	})
	stream, err := client.Bulk.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	q := protocol.Steal{Port: pod.Port(), Filter: &protocol.Filter{Header: "^x-user: alice$"}}
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

// Many connections are open at one time, and each has its answers.
func TestManyConnections(t *testing.T) {
	stolen, passing := sized(100, 1000), sized(300, 10_000)
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if most := int(limit.Cur)/2 - 2*stolen; passing > most { // both ends are ours
		t.Logf("%d passing connections, as one may have %d files here", most, limit.Cur)
		passing = most
	}
	f := newFiltered(t, func(by string, w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, by)
	})
	before := f.agent.memory("VmRSS")
	at := strings.TrimPrefix(f.url, "http://")
	conns := make([]net.Conn, stolen+passing)
	ask := func(i int) error {
		user, by := "alice", "debuggee"
		if i >= stolen {
			user, by = "bob", "pod"
		}
		if conns[i] == nil {
			c, err := net.Dial("tcp", at)
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
	t.Logf("%d stolen and %d passing connections: agent: %.0f MiB before, %.0f MiB with them", stolen, passing, before, f.agent.memory("VmRSS"))
	for _, c := range conns {
		if c != nil {
			c.Close()
		}
	}
}
