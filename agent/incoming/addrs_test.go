package incoming

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

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
				if got := answerTo(t, from, "alice"); !strings.HasPrefix(got, "alice") {
					t.Errorf("%v: alice is answered by %s", at, got)
				}
				if got := answerTo(t, from, "bob"); !strings.Contains(got, neighbourAddrs[family].Addr().String()) {
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
