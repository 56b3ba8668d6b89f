package incoming

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

const uniqueLocal = "fd77::5"

// echoOn is a container's server that listens in a way of its own.
func echoOn(t *testing.T, network, host string, multipath bool) uint16 {
	t.Helper()
	var lc net.ListenConfig
	lc.SetMultipathTCP(multipath)
	l, err := lc.Listen(t.Context(), network, net.JoinHostPort(host, "0"))
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = io.Copy(c, c)
			c.Close()
		}
	})
	t.Cleanup(wg.Wait)
	t.Cleanup(func() { l.Close() })
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

// mapped connects a socket of IPv6 to an address of IPv4.
func mapped(port uint16) (net.Conn, error) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "mapped")
	defer f.Close()
	sa := &unix.SockaddrInet6{Port: int(port), Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}
	if err := unix.Connect(fd, sa); err != nil {
		return nil, err
	}
	return net.FileConn(f)
}

func dialled(host string, multipath bool) func(uint16) (net.Conn, error) {
	return func(port uint16) (net.Conn, error) {
		var d net.Dialer
		d.SetMultipathTCP(multipath)
		return d.DialContext(context.Background(), "tcp", net.JoinHostPort(host, fmt.Sprint(port)))
	}
}

// However the container listens and its client connects, the connection is
// stolen, passed on, copied and given back all the same. Only of what the namespace
// itself sends to a stolen port there are no copies by REDIRECT, which has translated
// it before it is seen.
func TestListeners(t *testing.T) {
	eachRedirect(t, func(t *testing.T, in *Incoming) {
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		addr, err := netlink.ParseAddr(uniqueLocal + "/128")
		if err != nil {
			t.Fatal(err)
		}
		if err := netlink.AddrAdd(lo, addr); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { netlink.AddrDel(lo, addr) })

		v4 := map[string]func(uint16) (net.Conn, error){
			"127.0.0.1": dialled("127.0.0.1", false), "127.0.0.1 by MPTCP": dialled("127.0.0.1", true), "::ffff:127.0.0.1": mapped,
		}
		v6 := map[string]func(uint16) (net.Conn, error){
			"::1": dialled("::1", false), "::1 by MPTCP": dialled("::1", true), uniqueLocal: dialled(uniqueLocal, false),
		}
		for _, test := range []struct {
			network, host string
			clients       []map[string]func(uint16) (net.Conn, error)
		}{
			{"tcp4", "0.0.0.0", []map[string]func(uint16) (net.Conn, error){v4}},
			{"tcp4", "127.0.0.1", []map[string]func(uint16) (net.Conn, error){v4}},
			{"tcp6", "::", []map[string]func(uint16) (net.Conn, error){v6}}, // V6ONLY
			{"tcp", "::", []map[string]func(uint16) (net.Conn, error){v4, v6}},
		} {
			for _, multipath := range []bool{false, true} {
				port := echoOn(t, test.network, test.host, multipath)
				copies := newRecorder(t)
				m := steal(t, in, protocol.Steal{Port: port, Mirror: true}, copies)
				stolen := false
				each := func(want string) {
					t.Helper()
					for _, clients := range test.clients {
						for name, dial := range clients {
							name = fmt.Sprintf("%s %s (MPTCP %v) from %s", test.network, test.host, multipath, name)
							if got := exchanged(t, name, port, dial); got != want {
								t.Errorf("%s: %q, want %q", name, got, want)
							}
							if stolen && in.redirect.Name() == REDIRECT {
								continue
							}
							if rec := copies.next(); string(rec.bytes) != "words" || rec.err != nil {
								t.Errorf("%s: copy of %q, %v", name, rec.bytes, rec.err)
							}
						}
					}
				}
				each("words")
				s := steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
				stolen = true
				each(debuggeeSays + "words")
				s.Suspend(Absent)
				stolen = false
				each("words")
				s.Release()
				s = steal(t, in, protocol.Steal{Port: port}, holder(refusing))
				stolen = true
				each("words")
				s.Release()
				m.Release()
			}
		}
	})
}

func exchanged(t *testing.T, name string, port uint16, dial func(uint16) (net.Conn, error)) string {
	t.Helper()
	c, err := dial(port)
	if err != nil {
		t.Errorf("%s: %v", name, err)
		return ""
	}
	defer c.Close()
	if _, err := io.WriteString(c, "words"); err != nil {
		t.Errorf("%s: %v", name, err)
	}
	_ = c.(*net.TCPConn).CloseWrite()
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return string(b)
}
