package incoming

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"mirrord/agent/agenttest"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// The addresses of the pod and of its neighbour, whom a cable connects.
var (
	podAddrs       = [2]netip.Prefix{netip.MustParsePrefix("10.77.0.2/24"), netip.MustParsePrefix("fd78::2/64")}
	neighbourAddrs = [2]netip.Prefix{netip.MustParsePrefix("10.77.0.1/24"), netip.MustParsePrefix("fd78::1/64")}
)

// A neighbour is another network namespace.
type neighbour struct {
	ns netns.NsHandle
}

// newNeighbour connects one to this namespace, which has addresses of families,
// 0 of IPv4 and 1 of IPv6, while the test lasts.
func newNeighbour(t *testing.T, families ...int) *neighbour {
	t.Helper()
	n := new(neighbour)
	var err error
	apart(func() { n.ns, err = netns.New() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.ns.Close() })
	cable := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod"}, PeerName: "neighbour", PeerNamespace: netlink.NsFd(int(n.ns))}
	if err := netlink.LinkAdd(cable); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(cable) })
	there, err := netlink.NewHandleAt(n.ns)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	here, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	up := func(h *netlink.Handle, name string, addrs [2]netip.Prefix) {
		t.Helper()
		l, err := h.LinkByName(name)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			ip := &net.IPNet{IP: addrs[f].Addr().AsSlice(), Mask: net.CIDRMask(addrs[f].Bits(), addrs[f].Addr().BitLen())}
			if err := h.AddrAdd(l, &netlink.Addr{IPNet: ip, Flags: unix.IFA_F_NODAD}); err != nil {
				t.Fatal(err)
			}
		}
		if err := h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
	up(here, "pod", podAddrs)
	up(there, "neighbour", neighbourAddrs)
	return n
}

// Dial connects from the neighbour.
func (n *neighbour) Dial(ctx context.Context, addr string) (c net.Conn, err error) {
	apart(func() {
		if err = setNamespace(n); err == nil {
			c, err = new(net.Dialer).DialContext(ctx, "tcp", addr)
		}
	})
	return c, err
}

// setNamespace makes the thread one of the neighbour's, for ever.
func setNamespace(n *neighbour) error { return netns.Set(n.ns) }

// apart runs f on a thread of its own, which ends with it, whatever it became.
func apart(f func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread()
		f()
	}()
	<-done
}

// named serves HTTP at an address of the pod, and says who asked and where.
func named(t *testing.T, name, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.RemoteAddr)
	})}
	agenttest.Serve(t, func() error { return srv.Serve(l) }, func() { srv.Close() })
	return addrOf(l.Addr())
}

// answerTo is what a request by a connection of its own is answered.
func answerTo(t *testing.T, dial func(context.Context) (net.Conn, error), user string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	r, err := http.NewRequest("GET", "http://pod/", nil)
	if err != nil {
		t.Fatal(err)
	}
	return askAs(t, &http.Client{Transport: tr, Timeout: 30 * time.Second}, r, user)
}
