package launch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// serveHTTP makes the target's network: HTTP at 10.96.1.1:80, refusal elsewhere,
// and a name server at 10.96.0.10 that knows web.shop.
func serveHTTP(t testing.TB, w *world) {
	t.Helper()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(rw, "hello from "+r.Host)
	}))
	t.Cleanup(srv.Close)
	w.Dial = func(a netip.AddrPort) (net.Conn, error) {
		if a.Addr() == netip.MustParseAddr("10.96.1.1") || a.Addr() == netip.MustParseAddr("2001:db8::1") {
			return net.Dial("tcp", srv.Listener.Addr().String())
		}
		return nil, unix.ECONNREFUSED
	}
	dns, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dns.Close() })
	go func() {
		b := make([]byte, 2048)
		for {
			n, from, err := dns.ReadFrom(b)
			if err != nil {
				return
			}
			if r := answerDNS(b[:n]); r != nil {
				_, _ = dns.WriteTo(r, from)
			}
		}
	}()
	w.Datagram = func(netip.AddrPort) netip.AddrPort { return dns.LocalAddr().(*net.UDPAddr).AddrPort() }
}

func answerDNS(q []byte) []byte {
	i, name := 12, []string{}
	for i < len(q) && q[i] != 0 {
		name = append(name, string(q[i+1:i+1+int(q[i])]))
		i += 1 + int(q[i])
	}
	i += 5
	r := append([]byte(nil), q[:i]...)
	r[2], r[3] = 0x85, 0x80
	clear(r[6:12])
	switch qtype := binary.BigEndian.Uint16(q[i-4:]); {
	case strings.Join(name, ".") != "web.shop":
		r[3] = 0x83
	case qtype == 1:
		r[7] = 1
		r = append(r, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 5, 0, 4, 10, 96, 1, 1)
	}
	return r
}

const pythonClient = `
import socket, urllib.request
print(urllib.request.urlopen("http://web.shop/").read().decode())
s = socket.create_connection(("10.96.1.1", 80))
print(s.getpeername(), s.getsockname()[0])
s6 = socket.socket(socket.AF_INET6)
s6.connect(("2001:db8::1", 80))
print(s6.getpeername()[:2])
n = socket.socket(); n.setblocking(False)
e = n.connect_ex(("10.96.1.1", 80)); import select
select.select([], [n], []); print(n.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), n.getpeername())
for host in ("10.96.9.9",):
    try: socket.create_connection((host, 81))
    except OSError as e: print(e)
try: socket.getaddrinfo("nowhere.shop", 80)
except OSError as e: print(e)
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
q = b"\1\2\1\0\0\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1"
u.sendto(q, ("10.96.0.10", 53)); r, a = u.recvfrom(512); print(a, len(r))
print(socket.gethostname())
`

func TestPythonClient(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, `hello from web.shop
('10.96.1.1', 80) 10.244.0.99
('2001:db8::1', 80)
0 ('10.96.1.1', 80)
[Errno 111] Connection refused
[Errno -2] Name or service not known
('10.96.0.10', 53) 42
web-1
`, "python3", "-c", pythonClient)
}

// What connect is not asked for must not pass by its hook.
func TestSendtoWithoutConnection(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.policy.OutgoingUDP = false
	w.want(t, `sendto(s, "x", 1, MSG_FASTOPEN, (void *)&a, sizeof a): EOPNOTSUPP
connect(s, (void *)&a, sizeof a): ok
sendto(u, query, sizeof query, 0, (void *)&a, sizeof a): ok
`, build(t, "calls.c"), "fastopen", "10.96.1.1")
	if n := w.Calls(wire.OpDatagram); n != 1 {
		t.Errorf("%d questions for a datagram", n)
	}
}

const nodeClient = `
const http = require('http'), net = require('net'), dns = require('dns'), fs = require('fs'), os = require('os');
http.get('http://web.shop/', r => { let b='', s=r.socket, names=[s.remoteAddress, s.localAddress]; r.on('data', d => b += d); r.on('end', () => {
  console.log(b, ...names);
  dns.resolve4('web.shop', (e, a) => { console.log(e, a);
    net.connect(81, '10.96.9.9').on('error', e => { console.log(e.code);
      dns.resolve4('nowhere.shop', e => { console.log(e.code);
      fs.promises.readFile('/etc/shop/config.yaml', 'utf8').then(s => { console.log(s.trim(), os.hostname(), fs.readdirSync('/app/dir').join());
        process.exit(0) }) }) }) }) }) });
`

func TestNodeClient(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, `hello from web.shop 10.96.1.1 10.244.0.99
null [ '10.96.1.1' ]
ECONNREFUSED
ENOTFOUND
color: blue web-1 a,b
`, "node", "-e", nodeClient)
}

const pythonServer = `
import socket, sys
s = socket.socket(%s); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((%q, %d)); s.listen()
print(s.getsockname()[:2]); sys.stdout.flush()
c, a = s.accept()
print(a[:2], c.getpeername()[:2], c.getsockname()[:2])
c.sendall(c.recv(10).upper())
`

// Who accepts without asking for the client's address can still ask later: of
// any copy of the descriptor, in another process, and when the listener is closed.
// What this machine's processes connect is what it seems.
const lateServer = `
import ctypes, os, socket
s = socket.socket(%s); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind((%q, %d)); s.listen()
def accept(): return socket.socket(fileno=ctypes.CDLL(None).accept(s.fileno(), None, None))
c = accept()
own = socket.create_connection(("127.0.0.1", %[3]d)); a = accept()
print(a.getpeername()[1] == own.getsockname()[1], a.getsockname()[1] == %[3]d); s.close()
data = c.recv(10)
if os.fork() == 0:
    print(c.dup().getsockname()[:2], flush=True); print(c.getpeername()[:2], flush=True); os._exit(0)
os.wait(); print(c.getpeername()[:2])
c.sendall(data.upper())
`

func TestServerThatAsksLate(t *testing.T) {
	for _, tt := range []struct{ family, addr, mapped string }{
		{"socket.AF_INET", "0.0.0.0", ""}, {"socket.AF_INET6", "::", "::ffff:"},
	} {
		w := newWorld(t)
		port := freePort(t)
		got := make(chan string, 1)
		go func() { got <- deliver(w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))) }()
		w.want(t, fmt.Sprintf("True True\n('%[1]s10.244.0.99', %[2]d)\n('%[1]s192.0.2.7', 40000)\n('%[1]s192.0.2.7', 40000)\n", tt.mapped, port),
			"python3", "-c", fmt.Sprintf(lateServer, tt.family, tt.addr, port))
		if b := <-got; b != "ABC" {
			t.Errorf("%s: the client got %q", tt.family, b)
		}
	}
}

// After a reset a connection has its local address, and no peer.
func TestServerThatAsksTooLate(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	done := make(chan error, 1)
	go func() {
		c, err := w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))
		if err == nil {
			_, err = io.ReadFull(c, make([]byte, 1))
			err = errors.Join(err, c.(*net.TCPConn).SetLinger(0), c.Close())
		}
		done <- err
	}()
	w.want(t, fmt.Sprintf("ECONNRESET\nENOTCONN\n('10.244.0.99', %d)\n", port), "python3", "-c", fmt.Sprintf(`
import ctypes, errno, socket
s = socket.create_server(("0.0.0.0", %d))
c = socket.socket(fileno=ctypes.CDLL(None).accept(s.fileno(), None, None))
c.sendall(b"x")
for ask in lambda: c.recv(1), c.getpeername:
    try: ask()
    except OSError as e: print(errno.errorcode[e.errno])
print(c.getsockname())`, port))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Who has no room for a connection may take it without asking, to close it (as
// libraries do that keep a descriptor for that): its client does not wait for ever.
func TestServerWithoutRoom(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	ended := make(chan error, 1)
	go func() {
		ended <- toEnd(w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000")))
		if c, err := w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40001")); err == nil { // what the program waits for
			c.Close()
		}
	}()
	w.want(t, "EMFILE\n", "python3", "-c", fmt.Sprintf(`
import ctypes, errno, os, resource, select, socket
s = socket.create_server(("0.0.0.0", %d)); s.setblocking(False)
select.select([s], [], [])
spare = os.open("/dev/null", 0)
resource.setrlimit(resource.RLIMIT_NOFILE, (spare + 1, spare + 1))
try: s.accept()
except OSError as e: print(errno.errorcode[e.errno], flush=True)
os.close(spare)
os.close(ctypes.CDLL(None).accept(s.fileno(), None, None))
select.select([s], [], [])`, port))
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

func TestPythonServer(t *testing.T) {
	for _, tt := range []struct{ family, addr, want string }{
		{"socket.AF_INET", "0.0.0.0", "('0.0.0.0', 8080)\n('192.0.2.7', 40000) ('192.0.2.7', 40000) ('10.244.0.99', 8080)\n"},
		{"socket.AF_INET6", "::", "('::', 8080)\n('::ffff:192.0.2.7', 40000) ('::ffff:192.0.2.7', 40000) ('::ffff:10.244.0.99', 8080)\n"},
		{"socket.AF_INET", "10.244.0.99", "('10.244.0.99', 8080)\n('192.0.2.7', 40000) ('192.0.2.7', 40000) ('10.244.0.99', 8080)\n"},
	} {
		w := newWorld(t)
		port := freePort(t)
		tt.want = strings.ReplaceAll(tt.want, "8080", strconv.Itoa(int(port)))
		got := make(chan string, 1)
		go func() { got <- deliver(w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))) }()
		w.want(t, tt.want, "python3", "-c", fmt.Sprintf(pythonServer, tt.family, tt.addr, port))
		if s := <-got; s != "ABC" {
			t.Errorf("%s %s: the client got %q", tt.family, tt.addr, s)
		}
	}
}

// freePort returns a port that nobody on this machine listens on, and that the
// kernel gives nobody who asks for any.
func freePort(t testing.TB) uint16 {
	t.Helper()
	for range 1000 {
		port := 10_000 + rand.N[uint16](20_000)
		if l, err := net.Listen("tcp", fmt.Sprint(":", port)); err == nil {
			l.Close()
			return port
		}
	}
	t.Fatal("no port is free")
	return 0
}
