package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming"
	"mirrord/protocol"
)

// ways are the paths on which connections come to a pod's port.
var ways = []struct {
	name   string
	inside bool
	host   string
	source string
}{
	{"other pod, IPv4", false, podV4, nodeV4},
	{"other pod, IPv6", false, podV6, nodeV6},
	{"itself, 127.0.0.1", true, "127.0.0.1", "127.0.0.1"},
	{"itself, ::1", true, "::1", "::1"},
	{"itself, own IPv4", true, podV4, podV4},
	{"itself, own IPv6", true, podV6, podV6},
}

func TestSteal(t *testing.T) {
	p := newPod(t)
	client, _ := agenttest.New(t, startFor(t, p).addr)
	p.dial(t, false, podV4).hearsPod()
	before := p.dial(t, false, podV4)
	before.says("1")
	before.hears("pod heard 1")

	steal := client.Steal(podPort)
	for _, way := range ways {
		k := p.dial(t, way.inside, way.host)
		stream, in := client.Offered()
		if in.Port != podPort || in.Local.String() != k.RemoteAddr().String() || in.Client.String() != k.LocalAddr().String() ||
			in.Client.Addr().String() != way.source {
			t.Errorf("%s: offered %+v, is %v → %v", way.name, in, k.LocalAddr(), k.RemoteAddr())
		}
		relayed(t, stream)
		k.says("hello")
		k.hears("debuggee heard hello")
		if err := k.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		k.hears("debuggee heard the end")
	}
	before.says("2")
	before.hears("pod heard 2")

	k := p.dial(t, false, podV4)
	stream, _ := client.Offered()
	relayed(t, stream)
	k.says("here")
	k.hears("debuggee heard here") // it is taken
	release(t, steal)
	k.says("still here")
	k.hears("debuggee heard still here")
	for _, way := range ways {
		p.dial(t, way.inside, way.host).hearsPod()
	}
	before.hearsPod()
}

// release gives a port back and waits until the agent did.
func release(t *testing.T, steal net.Conn) {
	t.Helper()
	steal.Close()
	if _, err := steal.Read(make([]byte, 1)); err != io.EOF {
		t.Fatalf("releasing port: %v", err)
	}
}

// What the holder refuses goes to the pod's own container, with every byte.
func TestStealRefused(t *testing.T) {
	p := newPod(t)
	client, _ := agenttest.New(t, startFor(t, p).addr)
	client.Steal(podPort)
	for _, way := range ways {
		k := p.dial(t, way.inside, way.host)
		k.says("early")
		stream, _ := client.Offered()
		if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
			t.Fatal(err)
		}
		k.hears("pod heard early")
		k.hearsPod()
	}
}

// A connection that nobody has answered yet is the pod's when the holder
// releases the port, and when it is gone; but it is reset where the debuggee may have
// had what is not to be said twice.
func TestStealUnanswered(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	for name, end := range map[string]func(c *agenttest.Client, steal net.Conn){
		"released": func(_ *agenttest.Client, steal net.Conn) { release(t, steal) },
		"gone":     func(c *agenttest.Client, _ net.Conn) { c.End() },
	} {
		for words, heard := range map[string][]string{"": {}, request: {"GET / HTTP/1.1", ""}, "hello\n": nil} {
			t.Logf("%s, %q", name, words)
			client, _ := agenttest.New(t, a.addr)
			steal := client.Steal(podPort)
			k := p.dial(t, false, podV4)
			k.tells(words)
			stream, _ := client.Offered()
			if words != "" {
				if n, err := protocol.ReadDatagram(stream, make([]byte, 100)); n != len(words) || err != nil {
					t.Fatalf("with the offer came %d bytes, %v", n, err)
				}
			}
			end(client, steal)
			if heard != nil {
				if err := k.CloseWrite(); err != nil {
					t.Fatal(err)
				}
				for _, line := range append(heard, "the end") {
					k.hears("pod heard " + line)
				}
			} else if b, err := io.ReadAll(k.r); !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("heard %q, %v", b, err)
			}
			a.logs("port released")
		}
	}
}

// A holder that is silent does not keep the pod's clients waiting for ever.
func TestStealSilentHolder(t *testing.T) {
	p := newPod(t)
	client, _ := agenttest.New(t, startFor(t, p).addr)
	client.Steal(podPort)
	k := p.dial(t, false, podV4)
	k.tells(request)
	client.Offered()
	k.hears("pod heard GET / HTTP/1.1")
	k.hears("pod heard ")
	k.hearsPod()
}

func TestStealHeld(t *testing.T) {
	p := newPod(t)
	first, second := startFor(t, p), startFor(t, p)
	holder, _ := agenttest.New(t, first.addr)
	steal := holder.Steal(podPort)
	refused := func(c *agenttest.Client) {
		t.Helper()
		_, err := c.Ask(protocol.KindSteal, protocol.Steal{Port: podPort}, new(protocol.StealReply))
		if !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "stealing port 8080: it is stolen already, by client ") ||
			!strings.Contains(err.Error(), "since "+time.Now().UTC().Format("2006-")) {
			t.Errorf("second steal: %v", err)
		}
	}
	refused(holder)
	other, _ := agenttest.New(t, first.addr)
	refused(other)
	elsewhere, _ := agenttest.New(t, second.addr)
	refused(elsewhere)

	release(t, steal)
	steal = elsewhere.Steal(podPort)
	k := p.dial(t, false, podV4)
	stream, _ := elsewhere.Offered()
	relayed(t, stream)
	k.says("hello")
	k.hears("debuggee heard hello")
	release(t, steal)

	// A killed agent holds nothing.
	holder.Steal(podPort)
	first.kill()
	p.dial(t, false, podV4).hearsPod()
	elsewhere.Steal(podPort)
	if _, err := elsewhere.Ask(protocol.KindSteal, protocol.Steal{}, new(protocol.StealReply)); !errors.Is(err, unix.EINVAL) {
		t.Errorf("stealing port 0: %v", err)
	}
}

// Who takes a port over has it; who had it is told, and all can see it.
func TestStealOverridden(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	first, _ := agenttest.New(t, a.addr)
	second, _ := agenttest.New(t, a.addr)
	ask := func(c *agenttest.Client, q protocol.Steal) net.Conn {
		t.Helper()
		stream := c.Stream()
		q.Port = podPort
		if _, err := protocol.Call(stream, protocol.KindSteal, q, new(protocol.StealReply)); err != nil {
			t.Fatal(err)
		}
		return stream
	}
	holders := func(want ...protocol.Holder) {
		t.Helper()
		list, err := second.Ask(protocol.KindHolders, struct{}{}, new(protocol.HoldersReply))
		if err != nil {
			t.Fatal(err)
		}
		var got []protocol.Holder
		if err := json.Unmarshal(list, &got); err != nil {
			t.Fatal(err)
		}
		for i := range got {
			if _, err := time.Parse(time.RFC3339, got[i].Since); err != nil || !strings.HasPrefix(got[i].Client, "client ") {
				t.Errorf("%+v", got[i])
			}
			got[i].Since, got[i].Client = "", ""
		}
		if !slices.Equal(got, want) {
			t.Errorf("the holders are %+v, not %+v", got, want)
		}
	}
	lost := ask(first, protocol.Steal{Session: "1", Filter: &protocol.Filter{Path: "^/"}})
	mirror := ask(first, protocol.Steal{Session: "2", Mirror: true})
	copied := protocol.Holder{Session: "2", Port: podPort, Mirror: true, Redirect: "packet"}
	holders(protocol.Holder{Session: "1", Port: podPort, Filter: "path ^/", Redirect: "sk_lookup"}, copied)
	ask(second, protocol.Steal{Session: "3", Override: true})
	if _, err := protocol.ReadAnswer(lost, protocol.KindSteal, new(protocol.StealReply)); err == nil || !strings.Contains(err.Error(), ", session 3 has taken it over") {
		t.Errorf("who lost it is told %v", err)
	}
	release(t, lost)
	release(t, mirror)
	holders(protocol.Holder{Session: "3", Port: podPort, Redirect: "sk_lookup"})
	p.dial(t, false, podV4)
	second.Offered()
}

// kill -9: the kernel takes the redirect away, only what was stolen breaks.
func TestStealKilled(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	own := p.dial(t, false, podV4)
	refusal, _ := client.Offered()
	if err := protocol.WriteError(refusal, "incoming", unix.ECONNREFUSED); err != nil {
		t.Fatal(err)
	}
	own.says("1")
	own.hears("pod heard 1")
	stolen := p.dial(t, false, podV4)
	stream, _ := client.Offered()
	relayed(t, stream)
	stolen.says("hello")
	stolen.hears("debuggee heard hello")
	a.kill()
	for _, k := range []*talk{stolen, own} {
		if _, err := k.r.ReadString('\n'); err == nil {
			t.Error("connection through the agent outlived it")
		}
	}
	for _, way := range ways {
		p.dial(t, way.inside, way.host).hearsPod()
	}
}

// The same under load: clients may be reset, but none is refused or hangs.
func TestStealKilledUnderLoad(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	wait := debuggees(client, answer)
	var wg sync.WaitGroup
	const enough = 50
	var stolen, passed, resets atomic.Int32
	ready := make(chan struct{})
	for range 4 {
		wg.Go(func() {
			for passed.Load() < enough {
				switch who, err := ask(); {
				case err == nil && who == "debuggee":
					if stolen.Add(1) == enough {
						close(ready)
					}
				case err == nil:
					passed.Add(1)
				case errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) || errors.Is(err, io.EOF):
					resets.Add(1)
				default:
					t.Errorf("client: %v", err)
					return
				}
			}
		})
	}
	<-ready
	a.kill()
	client.End()
	wg.Wait()
	wait()
	t.Logf("%d stolen, %d reset, %d passed", stolen.Load(), resets.Load(), passed.Load())
	if resets.Load() > 16 { // about one for each worker, with the race detector a few more
		t.Errorf("%d clients were reset", resets.Load())
	}
}

// ask connects as another pod and reports whether the debuggee or the pod answers.
func ask() (string, error) {
	c, err := net.DialTimeout("tcp", net.JoinHostPort(podV4, strconv.Itoa(podPort)), 3*time.Second)
	if err != nil {
		return "", err
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(3 * time.Second))
	if _, err := io.WriteString(c, "who?\n"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	who, _, _ := strings.Cut(strings.TrimSpace(line), " ")
	return who, err
}

// SIGTERM ends the agent in order: ports back first.
func TestStealTerminated(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	if err := a.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	a.logs("port released")
	if rest := a.rest(); !strings.Contains(rest, "client went") {
		t.Errorf("agent said %s", rest)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
	p.dial(t, false, podV4).hearsPod()
}

// A pod may have addresses of IPv6 only.
func TestIPv6Only(t *testing.T) {
	for _, redirect := range []string{incoming.SkLookup, incoming.TPROXY, incoming.REDIRECT} {
		t.Run(redirect, func(t *testing.T) { ipv6Only(t, redirect) })
	}
}

func ipv6Only(t *testing.T, redirect string) {
	p := newPod(t)
	p.withoutIPv4(t)
	a := startFor(t, p, "--redirect", redirect)
	client, _ := agenttest.New(t, a.addr)
	steal := client.Steal(podPort)
	each := func(f func(name string, k *talk, source string)) {
		for _, way := range ways {
			if strings.Contains(way.host, ":") {
				f(way.name, p.dial(t, way.inside, way.host), way.source)
			}
		}
	}
	each(func(name string, k *talk, source string) {
		stream, in := client.Offered()
		if in.Client.Addr().String() != source || in.Local.String() != k.RemoteAddr().String() {
			t.Errorf("%s: offered %+v", name, in)
		}
		relayed(t, stream)
		k.says("hello")
		k.hears("debuggee heard hello")
	})
	each(func(_ string, k *talk, _ string) {
		stream, _ := client.Offered()
		if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
			t.Fatal(err)
		}
		k.hearsPod()
	})
	release(t, steal)
	mirror(t, client, podPort)
	each(func(name string, k *talk, source string) {
		k.hearsPod()
		copied, in := client.Offered()
		if in.Client.Addr().String() != source {
			t.Errorf("%s: mirrored %+v", name, in)
		}
		copied.Close()
	})
}
