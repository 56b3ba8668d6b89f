package main

import (
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming"
	"mirrord/protocol"
)

// debuggees has each stream answered by which a connection is offered to the client,
// until it ends.
func debuggees(client *agenttest.Client, answer func(net.Conn) error) (wait func()) {
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			stream, err := client.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer stream.Close()
				_ = answer(stream)
			})
		}
	})
	return wg.Wait
}

// answer is a debuggee: it reads a request, answers it and waits for its
// client to leave, lest what is unread reset the connection.
func answer(stream net.Conn) error {
	var in protocol.Incoming
	if err := agenttest.ReadRequest(stream, protocol.KindIncoming, &in); err != nil {
		return err
	}
	if err := protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
		return err
	}
	buf := make([]byte, protocol.MaxDatagram)
	if _, err := protocol.ReadDatagram(stream, buf); err != nil {
		return err
	}
	if err := protocol.WriteDatagram(stream, []byte("debuggee\n")); err != nil {
		return err
	}
	if err := protocol.WriteDatagram(stream, nil); err != nil {
		return err
	}
	for {
		if n, err := protocol.ReadDatagram(stream, buf); n == 0 || err != nil {
			return err
		}
	}
}

// At 500 requests a second the agent is killed: only requests that were under
// way then may fail, the next are the pod's. Nothing of the agent is left.
func TestKilledAtRate(t *testing.T) {
	for _, redirect := range []string{incoming.SkLookup, incoming.TPROXY, incoming.REDIRECT} {
		t.Run(redirect, func(t *testing.T) { killAtRate(t, redirect) })
	}
}

func killAtRate(t *testing.T, redirect string) {
	p := newPod(t)
	before := residue(t, p)
	a := startFor(t, p, "--redirect", redirect)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	mirror(t, client, 1) // of no traffic, but with a socket
	if residue(t, p) == before {
		t.Fatal("residue does not tell an agent")
	}
	wait := debuggees(client, answer)

	type outcome struct {
		began, ended time.Time
		who          string
		err          error
	}
	outcomes := make(chan outcome, 4096)
	const rate, seconds = 500, 2
	var wg sync.WaitGroup
	var kill, killed time.Time
	tick := time.NewTicker(time.Second / rate)
	defer tick.Stop()
	for i := range rate * seconds {
		<-tick.C
		if i == rate*seconds/2 {
			wg.Go(func() {
				kill = time.Now()
				a.kill() // and it is gone
				killed = time.Now()
			})
		}
		wg.Go(func() {
			o := outcome{began: time.Now()}
			o.who, o.err = ask()
			o.ended = time.Now()
			outcomes <- o
		})
	}
	wg.Wait()
	client.End()
	wait()
	close(outcomes)
	count := map[string]int{}
	for o := range outcomes {
		if o.err != nil {
			o.who = "failed"
			if o.ended.Before(kill) {
				t.Errorf("a request that ended %v before the agent: %v", kill.Sub(o.ended), o.err)
			}
			if o.began.After(killed) {
				t.Errorf("a request that began %v after the agent's end: %v", o.began.Sub(killed), o.err)
			}
		} else if o.who == "debuggee" && o.began.After(killed) {
			t.Error("the debuggee answered after the agent's end")
		}
		count[o.who]++
	}
	t.Logf("%v; the kill took %v", count, killed.Sub(kill))
	if count["debuggee"] == 0 || count["pod"] == 0 {
		t.Errorf("requests were answered by %v", count)
	}
	if after := residue(t, p); after != before {
		t.Errorf("before the agent:\n%s\nafter it:\n%s", before, after)
	}
	next, _ := agenttest.New(t, startFor(t, p, "--redirect", redirect).addr)
	next.Steal(podPort)
	if redirect != incoming.SkLookup {
		return
	}

	// A row of `./task deaths`.
	t.Attr("died", "agent killed at 500 requests/s")
	t.Attr("kept", "only requests in flight fail, the pod answers the next; nothing of the agent is left in the pod's network")
	t.Attr("measured", fmt.Sprintf("%d of %d requests failed; the agent was gone after %v", count["failed"], rate*seconds, killed.Sub(kill).Round(100*time.Microsecond)))
}

// What lets a connection that passes to the pod have its client's address is gone
// with the agent, however it ends, and the pod sees the connection's end.
func TestKilledWhilePassing(t *testing.T) {
	p := newPod(t)
	before := residue(t, p)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	for _, host := range []string{podV4, podV6} {
		k := p.dial(t, false, host)
		stream, _ := client.Offered()
		if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
			t.Fatal(err)
		}
		k.says("hello")
		k.hears("pod heard hello")
	}
	if n := established(t, p); n != 3*2 { // the client's with the agent, the agent's with the pod has two ends
		t.Errorf("%d ends of connections", n)
	}
	a.kill()
	if after := residue(t, p); after != before {
		t.Errorf("before the agent:\n%s\nafter it:\n%s", before, after)
	}
	for end := time.Now().Add(30 * time.Second); established(t, p) > 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the pod has not heard the end")
		}
	}
}

// established counts the pod's ends of TCP connections that last.
func established(t *testing.T, p *pod) (n int) {
	t.Helper()
	for _, file := range []string{"tcp", "tcp6"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			if state := strings.Fields(line)[3]; state == "01" || state == "08" { // ESTABLISHED, CLOSE_WAIT
				n++
			}
		}
	}
	return n
}

// residue is what an agent may leave in the pod's namespace: listeners, packet
// sockets, claims, routes, rules and tables of nftables.
func residue(t *testing.T, p *pod) string {
	t.Helper()
	var list strings.Builder
	for _, file := range []string{"tcp", "tcp6", "packet", "unix", "route", "ipv6_route"} {
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/%s", p.pid, file))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(b)) {
			fields := strings.Fields(line)
			switch {
			case strings.HasPrefix(file, "tcp") && (len(fields) < 4 || fields[3] != "0A"): // LISTEN
			case strings.HasPrefix(file, "tcp"):
				fmt.Fprintf(&list, "%s %s\n", file, fields[1])
			case file == "unix" && !strings.Contains(line, "mirrord"):
			case file == "ipv6_route" && strings.HasPrefix(fields[0], "f") && !strings.HasPrefix(fields[0], "fd"): // the kernel's, a while after the veth
			case file == "ipv6_route": // counts its uses
				fmt.Fprintf(&list, "%s %s %s\n", file, fields[0], fields[4])
			case file == "packet":
				fmt.Fprintf(&list, "%s %d\n", file, len(fields))
			default:
				fmt.Fprintf(&list, "%s %s", file, line)
			}
		}
	}
	inside, err := netlink.NewHandleAt(p.network)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	rules, err := inside.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rules {
		fmt.Fprintln(&list, "rule", r)
	}
	tables, err := (&nftables.Conn{NetNS: int(p.network)}).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		fmt.Fprintln(&list, "table", table.Name)
	}
	return list.String()
}
