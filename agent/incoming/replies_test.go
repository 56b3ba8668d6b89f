package incoming

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// What passes to the pod's container comes from its client's address: of a port
// that somebody steals by a filter, and of one whose holder takes nothing.
func TestPassedFromClient(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0, 1)
	for _, way := range redirects {
		t.Run(way.name, func(t *testing.T) {
			before := traces(t)
			t.Cleanup(func() { // after in's end
				if after := traces(t); after != before {
					t.Errorf("of the agent is left: %s", after)
				}
			})
			in := newBy(t, way.name)
			port := named(t, "pod", ":0").Port()
			alices := relayedTo(t, named(t, "alice", "127.0.0.1:0").String())
			for _, q := range []protocol.Steal{{Port: port}, {Port: port, Filter: user("alice")}} {
				client := alices
				if q.Filter == nil {
					client = holder(refusing)
				}
				s := steal(t, in, q, client)
				for family, pod := range podAddrs {
					at := netip.AddrPortFrom(pod.Addr(), port).String()
					var wg sync.WaitGroup
					for range 4 { // clients
						wg.Go(func() {
							for range 25 {
								got := answerTo(t, func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at) }, "bob")
								who, from, _ := strings.Cut(got, " ")
								if a, err := netip.ParseAddrPort(from); who != "pod" || err != nil || a.Addr() != neighbourAddrs[family].Addr() {
									t.Errorf("%s %v: answered by %s", at, q.Filter, got)
								}
							}
						})
					}
					wg.Wait()
					if q.Filter != nil {
						got := answerTo(t, func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at) }, "alice")
						if !strings.HasPrefix(got, "alice") {
							t.Errorf("%s: alice's request was answered by %s", at, got)
						}
					}
				}
				s.Release()
			}
		})
	}
}

// traces are the rules and tables that an agent makes in its namespace.
func traces(t *testing.T) string {
	t.Helper()
	rules, err := netlink.RuleList(netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := new(nftables.Conn).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Type: unix.RTN_LOCAL, Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TYPE|netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range rules {
		all = append(all, fmt.Sprint(r))
	}
	for _, n := range tables {
		all = append(all, "table "+n.Name)
	}
	for _, r := range routes {
		if r.Table > unix.RT_TABLE_LOCAL {
			all = append(all, fmt.Sprint(r))
		}
	}
	return strings.Join(all, "\n")
}

// A connection that its client has from just the port that we would have is left
// alone: one that was there before, and one that we have taken.
func TestPassedFromSamePort(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0)
	in := newTest(t)
	port := echo(t)
	at := netip.AddrPortFrom(podAddrs[0].Addr(), port)
	from := func(port uint16) *net.TCPConn {
		t.Helper()
		var c net.Conn
		var err error
		apart(func() {
			if err = setNamespace(out); err == nil {
				d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}, Timeout: 30 * time.Second}
				c, err = d.Dial("tcp", at.String())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.(*net.TCPConn)
	}
	says := func(c net.Conn) {
		t.Helper()
		if _, err := io.WriteString(c, "words"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "words" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	old := from(firstGuise) // of which we know nothing
	says(old)
	steal(t, in, protocol.Steal{Port: port}, holder(refusing))
	taken := from(firstGuise + 1) // by us, for the pod
	says(taken)
	says(old)
	says(taken)
}
