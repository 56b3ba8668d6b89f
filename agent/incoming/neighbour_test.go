package incoming

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"runtime"
	"testing"

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

// asUser runs f with sockets that are a user's.
func asUser(uid int, f func()) (err error) {
	apart(func() {
		if err = unix.Setfsuid(uid); err == nil {
			f()
		}
	})
	return err
}

var errNoOriginal = errors.New("the kernel knows no original destination")

// originalOf is where a redirected connection was meant to go.
func originalOf(c *net.TCPConn) (to netip.AddrPort, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return to, err
	}
	const soOriginalDst = 80
	ctl := raw.Control(func(fd uintptr) {
		if addrOf(c.LocalAddr()).Addr().Is4() {
			m, e := unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, soOriginalDst) // as large as a sockaddr_in, and more
			if err = e; err == nil {
				to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(m.Multiaddr[4:8])), uint16(m.Multiaddr[2])<<8|uint16(m.Multiaddr[3]))
			}
			return
		}
		m, e := unix.GetsockoptIPv6MTUInfo(int(fd), unix.SOL_IPV6, soOriginalDst)
		if err = e; err == nil {
			to = netip.AddrPortFrom(netip.AddrFrom16(m.Addr.Addr), m.Addr.Port<<8|m.Addr.Port>>8)
		}
	})
	if err = errors.Join(ctl, err); err == nil && !to.IsValid() {
		err = errNoOriginal
	}
	return to, err
}
