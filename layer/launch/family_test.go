package launch

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// Prelude of the scripts: what a call came to, and the protocols' numbers.
const pythonNames = `
import errno, os, socket
TCP, MPTCP = 0, 262
def show(f, *a):
    try: return f(*a)
    except OSError as e: return errno.errorcode[e.errno]
def name(a): return a[:2] if isinstance(a, tuple) else a
`

// needMPTCP skips where the kernel has no MPTCP.
func needMPTCP(t *testing.T) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_MPTCP)
	if err != nil {
		t.Skipf("the kernel has no MPTCP: %v", err)
	}
	unix.Close(fd)
}

// A socket of either family, of both and of IPv6 alone connects as in the
// target, and is told addresses of its own family.
func TestConnectFamilies(t *testing.T) {
	needMPTCP(t)
	for _, multipath := range []bool{false, true} {
		w := newWorld(t)
		serveHTTP(t, w)
		w.Hold = func(q *wire.Request) {
			if q.Op == wire.OpConnect && q.Flags&wire.ConnectMultipath != 0 != multipath {
				t.Errorf("multipath %v: asked with flags %b", multipath, q.Flags)
			}
		}
		proto := "TCP"
		if multipath {
			proto = "MPTCP"
		}
		w.want(t, `AF_INET 10.96.1.1: ('10.96.1.1', 80) 10.244.0.99
AF_INET6 2001:db8::1: ('2001:db8::1', 80) fd00:244::99
AF_INET6 ::ffff:10.96.1.1: ('::ffff:10.96.1.1', 80) ::ffff:10.244.0.99
only 2001:db8::1: ('2001:db8::1', 80) fd00:244::99
only ::ffff:10.96.1.1: ENETUNREACH
AF_INET6 ::ffff:10.96.9.9: ECONNREFUSED
only 2001:db8::9: ECONNREFUSED
`, "python3", "-c", pythonNames+`
for family, only, host in (socket.AF_INET, 0, "10.96.1.1"), (socket.AF_INET6, 0, "2001:db8::1"), (socket.AF_INET6, 0, "::ffff:10.96.1.1"), \
        (socket.AF_INET6, 1, "2001:db8::1"), (socket.AF_INET6, 1, "::ffff:10.96.1.1"), (socket.AF_INET6, 0, "::ffff:10.96.9.9"), (socket.AF_INET6, 1, "2001:db8::9"):
    s = socket.socket(family, socket.SOCK_STREAM, `+proto+`)
    if family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    e = show(s.connect, (host, 80))
    print("only" if only else family.name, host + ":", *[e] if e else [name(s.getpeername()), s.getsockname()[0]])
    if not e:
        s.sendall(b"GET / HTTP/1.0\r\n\r\n"); assert s.recv(8) == b"HTTP/1.0"`)
	}
}

const familyServer = pythonNames + `
s = socket.socket(%s, socket.SOCK_STREAM, %s)
if s.family == socket.AF_INET6: s.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, %d)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((%q, %d)); s.listen(); print(s.getsockname()[0])
c, a = s.accept(); print(name(a), name(c.getpeername()), c.getsockname()[0])
c.sendall(c.recv(10).upper())`

// Listeners of all kinds get the target's connections, and see who is there.
func TestListenFamilies(t *testing.T) {
	needMPTCP(t)
	const v4, v6 = "192.0.2.7:40000", "[2001:db8::7]:40000"
	for _, tt := range []struct {
		family, proto string
		only          int
		addr, client  string
		want          string
	}{
		{"socket.AF_INET", "MPTCP", 0, "0.0.0.0", v4, "0.0.0.0\n('192.0.2.7', 40000) ('192.0.2.7', 40000) 10.244.0.99\n"},
		{"socket.AF_INET6", "TCP", 0, "::", v6, "::\n('2001:db8::7', 40000) ('2001:db8::7', 40000) fd00:244::99\n"},
		{"socket.AF_INET6", "MPTCP", 0, "::", v4, "::\n('::ffff:192.0.2.7', 40000) ('::ffff:192.0.2.7', 40000) ::ffff:10.244.0.99\n"},
		{"socket.AF_INET6", "TCP", 1, "::", v6, "::\n('2001:db8::7', 40000) ('2001:db8::7', 40000) fd00:244::99\n"},
		{"socket.AF_INET6", "MPTCP", 1, "::", v6, "::\n('2001:db8::7', 40000) ('2001:db8::7', 40000) fd00:244::99\n"},
		{"socket.AF_INET6", "TCP", 0, "::ffff:0.0.0.0", v4, "::ffff:0.0.0.0\n('::ffff:192.0.2.7', 40000) ('::ffff:192.0.2.7', 40000) ::ffff:10.244.0.99\n"},
		{"socket.AF_INET6", "TCP", 1, "fd00:244::99", v6, "fd00:244::99\n('2001:db8::7', 40000) ('2001:db8::7', 40000) fd00:244::99\n"},
	} {
		t.Run(fmt.Sprint(tt.proto, " ", tt.family, " ", tt.only, " ", tt.addr), func(t *testing.T) {
			w := newWorld(t)
			port := freePort(t)
			got := make(chan string, 1)
			go func() { got <- deliver(w.Deliver(port, netip.MustParseAddrPort(tt.client))) }()
			w.want(t, tt.want, "python3", "-c", fmt.Sprintf(familyServer, tt.family, tt.proto, tt.only, tt.addr, port))
			if s := <-got; s != "ABC" {
				t.Errorf("the client got %q", s)
			}
		})
	}
}

// An IPv4 socket has no form for an IPv6 client's address: its user is told so.
func TestListenWithoutTheClientsFamily(t *testing.T) {
	for _, ask := range []string{"s.accept()[1]", "socket.socket(fileno=os.dup(s._accept()[0])).getpeername()"} {
		w := newWorld(t)
		port := freePort(t)
		connected := make(chan error, 1)
		go func() { connected <- toEnd(w.Deliver(port, netip.MustParseAddrPort("[2001:db8::7]:40000"))) }()
		r := w.run(t, "python3", "-c", fmt.Sprintf(`
import os, socket
s = socket.create_server(("0.0.0.0", %d)); print(%s)`, port, ask))
		want := fmt.Sprintf("port %d: clients come over IPv6, and the debuggee listens on IPv4 alone: it sees them all as 0.0.0.0; "+
			"where it listens on [::] it sees who they are", port)
		if r.out != "('0.0.0.0', 40000)\n" || len(r.messages) != 1 || r.messages[0] != want {
			t.Errorf("%s: %+v, want %q", ask, r, want)
		}
		if err := <-connected; err != nil {
			t.Error(err)
		}
	}
}

// toEnd reads until the debuggee has closed the connection.
func toEnd(c net.Conn, err error) error {
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = io.ReadAll(c)
	return err
}

// deliver sends abc and returns the answer.
func deliver(c net.Conn, err error) string {
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	fmt.Fprint(c, "abc")
	b, _ := io.ReadAll(c)
	return string(b)
}
