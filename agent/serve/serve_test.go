package serve

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/agent/target"
	"mirrord/protocol"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fewStreams is the limit in tests. yamux burns time at a session's end for
// each blocked stream, too much for thousands under the race detector.
const fewStreams = 100

const fewHandles = 500

// run serves this very process; nothing can be stolen.
func run(t *testing.T) (addr string) {
	t.Helper()
	return serveTarget(t, target.Choice{})
}

func serveTarget(t *testing.T, c target.Choice) (addr string) {
	t.Helper()
	_, addr = newServer(t, c)
	return addr
}

func newServer(t *testing.T, c target.Choice) (s *Server, addr string) {
	t.Helper()
	tgt, all, err := target.Enter(c, "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := all[0]
	ctx, cancel := context.WithCancel(t.Context())
	s = New(slog.New(slog.DiscardHandler), tgt, nil, errors.New("not here"), time.Hour)
	s.maxStreams = fewStreams
	s.tree.MaxHandles = fewHandles
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("server ended with %v", err)
		}
		tgt.Close()
	})
	return s, l.Addr().String()
}

func TestTableIsWhole(t *testing.T) {
	kinds := protocol.ClientKinds()
	for _, k := range kinds {
		if handlers[k] == nil {
			t.Errorf("kind %v has no handler", k)
		}
	}
	for k := range handlers {
		if !slices.Contains(kinds, k) {
			t.Errorf("kind %v is not told of", k)
		}
	}
}

func TestHelloRefused(t *testing.T) {
	addr := run(t)
	for name, test := range map[string]struct {
		kind   protocol.Kind
		header any
		want   []string
	}{
		"version":   {protocol.KindHello, protocol.Hello{Version: protocol.Version + 6, Build: "b7"}, []string{fmt.Sprintf("version %d (build b7)", protocol.Version+6), fmt.Sprintf("version %d (build dev)", protocol.Version)}},
		"not hello": {protocol.KindEnviron, struct{}{}, []string{"environ", "not hello"}},
		"not JSON":  {protocol.KindHello, "hello", []string{"decoding hello"}},
	} {
		t.Run(name, func(t *testing.T) {
			c := agenttest.Dial(t, addr)
			_, err := c.Ask(test.kind, test.header, new(protocol.HelloReply))
			for _, want := range test.want {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("answer %v, want %q", err, want)
				}
			}
			if _, err := c.Accept(); err == nil { // the session is over
				t.Error("agent opened a stream")
			}
		})
	}
}

func TestRequests(t *testing.T) {
	c, hello := agenttest.New(t, run(t))
	host, _ := os.Hostname()
	if hello.Hostname != host || !slices.Equal(hello.Kinds, protocol.ClientKinds()) {
		t.Errorf("hello %+v", hello)
	}
	var none struct{}
	for name, test := range map[string]struct {
		kind   protocol.Kind
		header any
		errno  unix.Errno
		want   string
	}{
		"unknown kind":   {99, none, unix.ENOSYS, "kind 99"},
		"answers' kind":  {protocol.KindError, none, unix.ENOSYS, "kind 0"},
		"agent's kind":   {protocol.KindIncoming, none, unix.ENOSYS, "kind 13"},
		"second hello":   {protocol.KindHello, protocol.Hello{Version: protocol.Version}, unix.EALREADY, "before"},
		"wrong type":     {protocol.KindOpen, map[string]int{"path": 1}, unix.EINVAL, "open: decoding request"},
		"missing file":   {protocol.KindStat, protocol.Stat{Path: "/nowhere"}, unix.ENOENT, "stat: "},
		"unknown handle": {protocol.KindRead, protocol.Read{Handle: 7, Len: 1}, unix.EBADF, "handle 7"},
		"cannot steal":   {protocol.KindSteal, protocol.Steal{Port: 80}, 0, "stealing port 80: not here"},
	} {
		_, err := c.Ask(test.kind, test.header, new(any))
		e, ok := errors.AsType[*protocol.Error](err)
		if !ok || e.Errno != uint32(test.errno) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v (%+v)", name, err, e)
		}
	}
	// A frame too large for the limit ends its stream only.
	s := c.Stream()
	if _, err := s.Write([]byte{byte(protocol.KindOpen), 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}); err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(s); err != nil || len(b) > 0 {
		t.Errorf("oversized request: %q, %v", b, err)
	}
	if env, err := c.Ask(protocol.KindEnviron, none, new(protocol.EnvironReply)); err != nil || len(env) == 0 {
		t.Errorf("environment: %d bytes, %v", len(env), err)
	}
}

// Both links are one client's: what one opened the other reads. A lost
// connection is another one's soon, and the end of a link is that of both.
func TestTwoLinks(t *testing.T) {
	c, _ := agenttest.New(t, run(t))
	name := t.TempDir() + "/file"
	words := strings.Repeat("words ", 10_000)
	if err := os.WriteFile(name, []byte(words), 0o644); err != nil {
		t.Fatal(err)
	}
	var open protocol.OpenReply
	if _, err := c.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name)}, &open); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	stream, err := c.Bulk.Open()
	if err != nil {
		t.Fatal(err)
	}
	defer stream.Close()
	if _, err := protocol.Call(stream, protocol.KindConnect, protocol.Connect{Addr: l.Addr().(*net.TCPAddr).AddrPort()}, new(protocol.ConnectReply)); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	for i := range 3 {
		if i > 0 {
			c.CutBulk()
		}
		read, err := c.AskBulk(protocol.KindRead, protocol.Read{Handle: open.Handle, Len: len(words)}, new(protocol.ReadReply))
		if err != nil || string(read) != words {
			t.Fatalf("%d bytes, %v", len(read), err)
		}
		if err := protocol.WriteDatagram(stream, []byte("words")); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(far, b); err != nil || string(b) != "words" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	c.Bulk.Close()
	if _, err := far.Read(make([]byte, 1)); err == nil {
		t.Error("the connection outlives its client")
	}
	if _, err := c.Session.Accept(); err == nil {
		t.Error("the control link outlives the bulk link")
	}
}

// The reads of a stream are answered each, those that fail, too, until it is closed
// or something else is asked.
func TestReadsInOneStream(t *testing.T) {
	c, _ := agenttest.New(t, run(t))
	name := t.TempDir() + "/file"
	words := strings.Repeat("many words ", 100_000)
	if err := os.WriteFile(name, []byte(words), 0o644); err != nil {
		t.Fatal(err)
	}
	var open protocol.OpenReply
	if _, err := c.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name)}, &open); err != nil {
		t.Fatal(err)
	}
	for end, test := range map[string]struct {
		kind   protocol.Kind
		header any
		errno  unix.Errno
	}{
		"garbage": {protocol.KindRead, "read", unix.EINVAL},
		"stat":    {protocol.KindStat, protocol.Stat{Path: protocol.Path(name)}, unix.EPROTO},
	} {
		s := c.Stream()
		const reads, size = 100, 30_000
		for id := range uint64(reads) {
			q := protocol.Read{ID: id + 1, Handle: open.Handle, Offset: int64(id) * size, Len: size}
			if id%10 == 0 {
				q.Handle++
			}
			if err := protocol.WriteMessage(s, protocol.KindRead, q, nil); err != nil {
				t.Fatal(err)
			}
		}
		answered := map[uint64]bool{}
		for range reads {
			var reply protocol.ReadReply
			got, err := protocol.ReadAnswer(s, protocol.KindRead, &reply)
			id := reply.ID
			e, failed := errors.AsType[*protocol.Error](err)
			if failed {
				id = e.ID
			}
			if id < 1 || id > reads || answered[id] || failed != (id%10 == 1) || failed && e.Errno != uint32(unix.EBADF) || !failed && err != nil {
				t.Fatalf("an answer to %d: %v", id, err)
			}
			answered[id] = true
			at := min(int(id-1)*size, len(words))
			if want := words[at:min(at+size, len(words))]; !failed && string(got) != want {
				t.Errorf("%d bytes at %d of %d", len(got), at, len(want))
			}
		}
		_, err := protocol.Call(s, test.kind, test.header, new(any))
		if e, ok := errors.AsType[*protocol.Error](err); !ok || e.Errno != uint32(test.errno) {
			t.Errorf("%s: %v", end, err)
		}
		if n, err := s.Read(make([]byte, 1)); err != io.EOF {
			t.Errorf("after %s: %d bytes, %v", end, n, err)
		}
	}
}

// A stream of reads whose client takes no more answers ends with it, though there is no
// room for them.
func TestReadsGivenUp(t *testing.T) {
	c, _ := agenttest.New(t, run(t))
	name := t.TempDir() + "/file"
	if err := os.WriteFile(name, make([]byte, protocol.MaxPayload), 0o644); err != nil {
		t.Fatal(err)
	}
	var open protocol.OpenReply
	if _, err := c.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name)}, &open); err != nil {
		t.Fatal(err)
	}
	s := c.Stream()
	for id := range uint64(3) {
		if err := protocol.WriteMessage(s, protocol.KindRead, protocol.Read{ID: id + 1, Handle: open.Handle, Len: protocol.MaxPayload}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, _, err := protocol.ReadHead(s); err != nil { // more comes than has room
		t.Fatal(err)
	}
	s.Close()
	for end := time.Now().Add(10 * time.Second); c.NumStreams() > 0; {
		if time.Now().After(end) {
			t.Fatal("the agent does not end the stream")
		}
		if _, err := c.AskBulk(protocol.KindRead, protocol.Read{Handle: open.Handle, Len: 1}, new(protocol.ReadReply)); err != nil {
			t.Fatal(err)
		}
	}
}

// A client may have so many streams and handles; another is not hurt by it.
func TestLimits(t *testing.T) {
	addr := run(t)
	c, _ := agenttest.New(t, addr)
	name := t.TempDir()
	for range fewHandles {
		if _, err := c.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name), Directory: true}, new(protocol.OpenReply)); err != nil {
			t.Fatal(err)
		}
	}
	_, err := c.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name)}, new(protocol.OpenReply))
	if !errors.Is(err, unix.EMFILE) {
		t.Errorf("one handle too many: %v", err)
	}
	for range fewStreams {
		c.Stream() // and no request follows
	}
	for err = nil; err == nil; { // until all of them have come
		_, err = c.Ask(protocol.KindStat, protocol.Stat{Path: "/"}, new(protocol.StatReply))
	}
	if !errors.Is(err, unix.EAGAIN) {
		t.Errorf("one stream too many: %v", err)
	}
	other, _ := agenttest.New(t, addr)
	var open protocol.OpenReply
	if _, err := other.Ask(protocol.KindOpen, protocol.Open{Path: protocol.Path(name), Directory: true}, &open); err != nil || open.Handle == 0 {
		t.Errorf("another client: %+v, %v", open, err)
	}
	before := descriptors(t)
	c.End()
	for end := time.Now().Add(time.Minute); descriptors(t) > before-fewHandles; {
		if time.Now().After(end) {
			t.Fatalf("%d descriptors of %d left after the client's end", descriptors(t), before)
		}
		if _, err := other.Ask(protocol.KindStat, protocol.Stat{Path: "/"}, new(protocol.StatReply)); err != nil {
			t.Fatal(err)
		}
	}
}

func descriptors(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

// A successor does not wait for what its predecessor hangs in.
func TestSuccessorOfHanging(t *testing.T) {
	const kind = protocol.Kind(200)
	hangs, release := make(chan struct{}), make(chan struct{})
	handlers[kind] = func(context.Context, *client, net.Conn, protocol.Frame) error {
		close(hangs)
		<-release
		return nil
	}
	t.Cleanup(func() { delete(handlers, kind) })
	addr := run(t)
	t.Cleanup(func() { close(release) })
	for run := range int64(2) {
		c := agenttest.Dial(t, addr)
		s := c.Stream()
		_ = s.SetDeadline(time.Now().Add(20 * time.Second))
		who := protocol.Client{Place: "a", Run: run + 1}
		if _, err := protocol.Call(s, protocol.KindHello, protocol.Hello{Version: protocol.Version, Client: who}, new(protocol.HelloReply)); err != nil {
			t.Fatalf("run %d: %v", run, err)
		}
		if run == 0 {
			if err := protocol.WriteMessage(c.Stream(), kind, struct{}{}, nil); err != nil {
				t.Fatal(err)
			}
			<-hangs
		}
	}
}

// What a dead daemon had is over when the next one at its place says hello,
// and only that.
func TestSuccessor(t *testing.T) {
	addr := run(t)
	greet := func(who protocol.Client) *agenttest.Client {
		t.Helper()
		c := agenttest.Dial(t, addr)
		if _, err := c.Ask(protocol.KindHello, protocol.Hello{Version: protocol.Version, Client: who}, new(protocol.HelloReply)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	alive := func(c *agenttest.Client) bool {
		t.Helper()
		_, err := c.Ask(protocol.KindStat, protocol.Stat{Path: "/"}, new(protocol.StatReply))
		return err == nil
	}
	dead := greet(protocol.Client{Place: "a", Run: 1})
	same := greet(protocol.Client{Place: "a", Run: 2})
	other, nameless := greet(protocol.Client{Place: "b", Run: 1}), greet(protocol.Client{})
	if alive(dead) {
		t.Error("the dead daemon's client lives")
	}
	late := greet(protocol.Client{Place: "a", Run: 1}) // from the network's depths
	again := greet(protocol.Client{Place: "a", Run: 2})
	for name, c := range map[string]*agenttest.Client{"same": same, "other": other, "nameless": nameless, "again": again} {
		if !alive(c) {
			t.Errorf("client %s has ended", name)
		}
	}
	if alive(late) {
		t.Error("a dead daemon's late client lives")
	}
	c := agenttest.Dial(t, addr)
	_, err := c.Ask(protocol.KindHello, protocol.Hello{Version: protocol.Version, Client: protocol.Client{Name: strings.Repeat("x", 200)}}, new(protocol.HelloReply))
	if !errors.Is(err, unix.EPROTO) {
		t.Errorf("a long name: %v", err)
	}
}

// The target stands still for as long as a client wants it to, and is there.
func TestPause(t *testing.T) {
	child := exec.Command("sleep", "600")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	})
	server, addr := newServer(t, target.Choice{PID: child.Process.Pid})
	state := func(want string) {
		t.Helper()
		var stat []byte
		for deadline := time.Now().Add(30 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
			stat, _ = os.ReadFile(fmt.Sprintf("/proc/%d/stat", child.Process.Pid))
			if strings.Contains(string(stat), ") "+want+" ") {
				return
			}
		}
		t.Fatalf("state is not %s: %s", want, stat)
	}
	pause := func(c *agenttest.Client) net.Conn {
		t.Helper()
		s := c.Stream()
		if _, err := protocol.Call(s, protocol.KindPause, protocol.Pause{Session: "1f2e3d4c"}, new(protocol.PauseReply)); err != nil {
			t.Fatal(err)
		}
		state("t")
		return s
	}
	alice, _ := agenttest.New(t, addr)
	bob, _ := agenttest.New(t, addr)
	first := pause(alice)
	pause(bob)
	told, err := alice.Ask(protocol.KindHolders, struct{}{}, new(protocol.HoldersReply))
	if n := strings.Count(string(told), `"session":"1f2e3d4c","port":0,"pause":true`); n != 2 || err != nil {
		t.Errorf("%v: holders are %s", err, told)
	}
	if m := string(server.metrics()); !strings.Contains(m, `ports{mode="steal"} 0`) {
		t.Errorf("a pause is a port: %s", m)
	}
	if env, err := alice.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply)); len(env) == 0 || err != nil {
		t.Errorf("environment of what is paused: %q, %v", env, err)
	}
	bob.End()
	first.Close()
	state("S")
	pause(alice)
	alice.End()
	state("S")
}
