package launch

import (
	"net"
	"net/netip"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// A connect that does not block is told so in time, however late the target
// answers, and then learns what it answered, in every way there is to ask.
func TestConnectThatDoesNotBlock(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	dial, answered := w.Dial, make(chan struct{})
	w.Dial = func(a netip.AddrPort) (net.Conn, error) {
		if a.Port() == 80 {
			<-answered
		}
		return dial(a)
	}
	w.Hold = func(q *wire.Request) {
		if q.Path == "/app/answer" {
			close(answered)
		}
		if q.Op == wire.OpConnect && q.Flags&wire.ConnectAsync == 0 {
			t.Errorf("%v does not say that it does not block", q.Addr)
		}
	}
	t.Cleanup(func() {
		select {
		case <-answered:
		default:
			close(answered)
		}
	})
	w.want(t, `10.96.1.1 115 in time
10.96.9.9 115 in time
10.96.1.1 ENOTCONN 10.244.0.99 EALREADY
10.96.9.9 ENOTCONN 10.244.0.99 EALREADY
10.96.1.1 error 0 ('10.96.1.1', 80) 10.244.0.99 0 EISCONN b'HTTP/1.0 200 OK'
10.96.9.9 error 111 ENOTCONN 127 ECONNABORTED 111
10.96.9.9 at once 111
`, "python3", "-c", `
import errno, os, select, socket, time
def name(f, *a):
    try: return f(*a)
    except OSError as e: return errno.errorcode[e.errno]
def connect(s, a):
    e = s.connect_ex(a); return errno.errorcode.get(e, e)
all = {}
for host in "10.96.1.1", "10.96.9.9":
    s = all[host] = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    began = time.monotonic(); e = s.connect_ex((host, 80))
    print(host, e, "in time" if time.monotonic() - began < 20 else "late")
for host, s in all.items():
    print(host, name(s.getpeername), s.getsockname()[0], connect(s, (host, 80)))
os.access("/app/answer", 0)
good, bad = all.values()
select.select([], [good], []); e = good.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
print("10.96.1.1 error", e, good.getpeername(), good.getsockname()[0], connect(good, ("10.96.1.1", 80)), connect(good, ("10.96.1.1", 80)), end=" ")
good.setblocking(True); good.sendall(b"GET / HTTP/1.0\r\n\r\n"); print(good.recv(15))
select.select([], [bad], []); e = bad.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
print("10.96.9.9 error", e, name(bad.getpeername), bad.getsockname()[0][:3], connect(bad, ("10.96.9.9", 80)), bad.connect_ex(("10.96.9.9", 81)))
print("10.96.9.9 at once", bad.connect_ex(("10.96.9.9", 80)))`)
}

// Nothing is to be seen of a connect that the target refused, and the socket can be
// used again; also after the kernel of this machine has refused it, which goes on
// telling a port that it has given up.
func TestConnectAfterARefusal(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, `111 error 0 False 107 True
b'HTTP/1.0' 10.96.1.1 10.244.0.99
b'HTTP/1.0' 10.96.1.1 10.244.0.99
111
b'HTTP/1.0' 10.96.1.1 10.244.0.99
`, "python3", "-c", `
import select, socket
def ask(s):
    s.sendall(b"GET / HTTP/1.0\r\n\r\n"); return s.recv(8)
def peer(s):
    try: return s.getpeername()[0]
    except OSError as e: return e.errno
s = socket.socket()
e = s.connect_ex(("10.96.9.9", 80)); p = select.poll(); p.register(s)
print(e, "error", s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), s.getsockname()[0] == "0.0.0.0", peer(s), p.poll()[0][1] == select.POLLOUT | select.POLLHUP)
s.connect(("10.96.1.1", 80)); print(ask(s), peer(s), s.getsockname()[0])
s = socket.socket(); s.bind(("127.0.0.1", 0)); s.connect_ex(("10.96.9.9", 80))
s.connect(("10.96.1.1", 80)); print(ask(s), peer(s), s.getsockname()[0])
s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.connect_ex(("127.0.0.1", 1)))
s.connect(("10.96.1.1", 80)); print(ask(s), peer(s), s.getsockname()[0])`)
}

// Half a second more and the target has answered: who waits for the outcome by
// connecting once more is held until then, and can be interrupted.
func TestConnectThatIsToWaitAfterAll(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	dial, answered := w.Dial, make(chan struct{})
	w.Dial = func(a netip.AddrPort) (net.Conn, error) {
		<-answered
		if a.Port() == 81 {
			return nil, unix.ECONNREFUSED
		}
		return dial(a)
	}
	w.Hold = func(q *wire.Request) {
		if q.Path == "/app/answer" {
			close(answered)
		}
	}
	began := time.Now()
	w.want(t, "KeyboardInterrupt\n0\n", "python3", "-c", `
import os, signal, socket
`+waitsInPython+`
s = socket.socket(); s.setblocking(False)
e = s.connect_ex(("10.96.1.1", 80)); s.setblocking(True)
signal.signal(signal.SIGINT, signal.default_int_handler)
when_waits(threading.main_thread(), `+strconv.Itoa(unix.SYS_CONNECT)+`, lambda: os.kill(os.getpid(), signal.SIGINT))
try: s.connect_ex(("10.96.1.1", 80))
except KeyboardInterrupt: print("KeyboardInterrupt")
os.access("/app/answer", 0)
print(s.connect_ex(("10.96.1.1", 80)))`)
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("it took %v", took)
	}
}
