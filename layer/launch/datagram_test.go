package launch

import (
	"testing"

	wire "mirrord/protocol/layer"
)

const pythonDatagrams = pythonNames + `
q = b"\1\2\1\0\0\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1"
def udp(family=socket.AF_INET): s = socket.socket(family, socket.SOCK_DGRAM); s.settimeout(20); return s
`

// A connected socket: sends and receives without an address, is told the
// target's names, can be connected anew and let go.
func TestConnectedDatagrams(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpDatagram && (q.Node == 0 || q.Addr2.Port() == 0) {
			t.Errorf("asked without telling the socket: %+v", q)
		}
	}
	w.want(t, `('10.96.0.10', 53) 10.244.0.99 True 42
('10.96.0.10', 53) 42
('10.96.0.11', 53) 42
ENOTCONN
('10.96.0.10', 53) 42
True 42
::ffff:10.96.0.10 ::ffff:10.244.0.99 42
2001:db8::53 fd00:244::99 42
ENETUNREACH
`, "python3", "-c", pythonDatagrams+`
s = udp(); s.connect(("10.96.0.10", 53)); port = s.getsockname()[1]
s.send(q); print(s.getpeername(), s.getsockname()[0], port > 0, len(s.recv(512)))
s.send(q); r, a = s.recvfrom(512); print(a, len(r))
s.connect(("10.96.0.11", 53)); s.send(q); r, a = s.recvfrom(512); print(a, len(r))
import ctypes; ctypes.CDLL(None).connect(s.fileno(), bytes(16), 16); print(show(s.getpeername))
s.sendto(q, ("10.96.0.10", 53)); r, a = s.recvfrom(512); print(a, len(r))
b = udp(); b.bind(("", 0)); port = b.getsockname()[1]; b.connect(("10.96.0.10", 53)); b.send(q)
print(b.getsockname()[1] == port, len(b.recv(512)))
for only, host in (0, "::ffff:10.96.0.10"), (1, "2001:db8::53"):
    v6 = udp(socket.AF_INET6); v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only)
    v6.connect((host, 53)); v6.send(q); print(v6.getpeername()[0], v6.getsockname()[0], len(v6.recv(512)))
v6 = udp(socket.AF_INET6); v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); print(show(v6.connect, ("::ffff:10.96.0.10", 53)))`)
}

// Threads that wait for one socket's datagrams each wait until there is one.
func TestDatagramsForSeveralThreads(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, "100 answers\n", "python3", "-c", pythonDatagrams+`
import os, queue, threading
s, got = udp(), queue.Queue(); s.setblocking(True)
s.sendto(q, ("10.96.0.10", 53)); s.recvfrom(512)
def receive():
    while True:
        try: got.put(len(s.recvfrom(512)[0]))
        except OSError as e: got.put(e)
for _ in range(4): threading.Thread(target=receive, daemon=True).start()
for _ in range(100):
    s.sendto(q, ("10.96.0.10", 53)); n = got.get(timeout=20)
    if n != 42: print(n)
print("100 answers", flush=True)
os._exit(0)`)
}

// Sockets that share a destination do not get each other's answers, and one
// that is closed does not leave its endpoint to who has its port next.
func TestDatagramSources(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, "42 1\n42 2\n42 3\n", "python3", "-c", pythonDatagrams+`
a, b = udp(), udp()
for s, id in (a, 1), (b, 2): s.sendto(bytes([0, id]) + q[2:], ("10.96.0.10", 53))
for s in a, b: r = s.recvfrom(512)[0]; print(len(r), r[1])
port = a.getsockname()[1]; a.close()
c = udp(); c.bind(("", port)); c.sendto(b"\0\3" + q[2:], ("10.96.0.10", 53)); r = c.recvfrom(512)[0]; print(len(r), r[1])`)
	if n := w.Calls(wire.OpDatagram); n != 3 {
		t.Errorf("%d questions for 3 sockets", n)
	}
}

// Messages, alone and several at once, to the target and to this machine.
func TestMessages(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, `sendmsg: 26 bytes
recvmsg: 42 bytes of 10.96.0.10:53, name of 16, control of 0, flags 0
cut: 10 bytes of 10.96.0.10:53, name of 16, control of 0, flags 32
in two buffers: 12 and 30, as received before: 1
sendmmsg: 3 messages of 26 26 5
recvmmsg: 1 message of 42, of 10.96.0.10:53
recvmsg: 42 bytes of 10.96.0.11:53, name of 16, control of 0, flags 0
here: 5 bytes of 127.0.0.1
connected: 26 bytes, 42 back
sendmsg(u, &m, 0): EFAULT
recvmsg(u, &m, MSG_DONTWAIT): EAGAIN
`, build(t, "messages.c"))
}

// node sends datagrams by sendmsg.
func TestNodeDatagram(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, "10.96.0.10 53 42\n", "node", "-e", `
const s = require('dgram').createSocket('udp4'), q = Buffer.from('\x01\x02\x01\x00\x00\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1', 'latin1');
s.on('message', (m, from) => { console.log(from.address, from.port, m.length); s.close() });
s.send(q, 53, '10.96.0.10');`)
}
