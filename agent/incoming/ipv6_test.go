package incoming

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// A pod whose network has IPv6 alone, even on its loopback, has all the same;
// flush is tested with both families.
func TestIPv6Only(t *testing.T) {
	agenttest.Namespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	addrs, err := netlink.AddrList(lo, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addrs {
		if err := netlink.AddrDel(lo, &a); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = netlink.AddrAdd(lo, &a) })
	}
	const six = 1
	out := newNeighbour(t, six)
	for _, way := range redirects {
		t.Run(way.name, func(t *testing.T) {
			in := newBy(t, way.name)
			pod := named(t, "pod", netip.AddrPortFrom(podAddrs[six].Addr(), 0).String())
			port, at := pod.Port(), pod.String()
			dial := func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at) }
			ask := func(user, want string) {
				t.Helper()
				if got := asked(t, dial, user); !strings.HasPrefix(got, want+" ["+neighbourAddrs[six].Addr().String()+"]") && want == "pod" || !strings.HasPrefix(got, want) {
					t.Errorf("%s is answered by %s", user, got)
				}
			}
			alices := relayedTo(t, named(t, "alice", "[::1]:0").String())
			all := steal(t, in, protocol.Steal{Port: port}, alices)
			ask("alice", "alice")
			all.Release()
			some := steal(t, in, protocol.Steal{Port: port, Filter: user("alice")}, alices)
			ask("alice", "alice")
			ask("bob", "pod")
			some.Release()
			copies := newRecorder(t)
			steal(t, in, protocol.Steal{Port: port, Mirror: true}, copies)
			ask("bob", "pod")
			if rec := copies.next(); !strings.HasPrefix(string(rec.bytes), "GET ") || rec.Client.Addr() != neighbourAddrs[six].Addr() {
				t.Errorf("a copy of %.20q from %v", rec.bytes, rec.Client)
			}
		})
	}
}

// A listener on one address of the pod has its port stolen and passed there.
func TestListenerOfOneAddress(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0, 1)
	for _, way := range redirects {
		t.Run(way.name, func(t *testing.T) {
			in := newBy(t, way.name)
			for family, pod := range podAddrs {
				at := named(t, "pod", netip.AddrPortFrom(pod.Addr(), 0).String())
				from := func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at.String()) }
				s := steal(t, in, protocol.Steal{Port: at.Port(), Filter: user("alice")}, relayedTo(t, named(t, "alice", "127.0.0.1:0").String()))
				if got := asked(t, from, "alice"); !strings.HasPrefix(got, "alice") {
					t.Errorf("%v: alice is answered by %s", at, got)
				}
				if got := asked(t, from, "bob"); !strings.Contains(got, neighbourAddrs[family].Addr().String()) {
					t.Errorf("%v: bob is answered by %s", at, got)
				}
				// The pod is not there for who comes to another of its addresses.
				other := netip.AddrPortFrom(netip.MustParseAddr([]string{"127.0.0.1", "::1"}[family]), at.Port())
				c := dial(t, other)
				_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: pod\r\nX-User: bob\r\n\r\n")
				if b, err := io.ReadAll(c); err == nil || len(b) > 0 {
					t.Errorf("%v answered %q", other, b)
				}
				s.Release()
			}
		})
	}
}
