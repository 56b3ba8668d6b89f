package launch

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/layer/layertest"
	wire "mirrord/protocol/layer"
)

// The daemon's end is told once; the debuggee lives on and its calls fail.
func TestDaemonGone(t *testing.T) {
	w := newWorld(t)
	var opens atomic.Int32
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpOpen && opens.Add(1) == 2 {
			go w.Stop()
			<-w.Stopped()
		}
	}
	r := w.run(t, "python3", "-c", `
import socket
for i in range(3):
    try: open("/etc/shop/config.yaml").read(); print(i == 0)
    except OSError as e: print(e.errno == 5)
try: socket.create_connection(("10.96.1.1", 80))
except OSError as e: print(e.errno)
print(len(open("/proc/self/status").read()) > 0)`)
	if r.out != "True\nTrue\nTrue\n100\nTrue\n" || len(r.messages) != 1 || !strings.Contains(r.messages[0], "daemon is gone") {
		t.Errorf("%+v", r)
	}
}

// killable makes w's daemon one that a question for /app/kill kills, and returns
// the one that comes after it, which has the same target.
func killable(t *testing.T, w *world) (next *layertest.Daemon, killed <-chan struct{}) {
	next = layertest.New(t)
	next.Root, next.Dial, next.Datagram = w.Root, w.Dial, w.Datagram
	next.Settle()
	done := make(chan struct{})
	w.Hold = func(q *wire.Request) {
		if q.Path == "/app/kill" {
			go func() { w.Stop(); close(done) }()
			<-w.Stopped()
		}
	}
	return next, done
}

// A killed daemon costs what was under way; all that comes after it works.
func TestDaemonKilled(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.Inline = 100 // the rest are nodes
	next, killed := killable(t, w)
	next.Inline = 100
	starts := 0
	w.again = func(context.Context) (string, string, error) {
		<-killed
		starts++
		return next.Socket, "test", nil
	}
	port := freePort(t)
	got := make(chan string, 1)
	go func() {
		<-killed
		c, err := next.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))
		if err != nil {
			got <- err.Error()
			return
		}
		defer c.Close()
		fmt.Fprint(c, "abc")
		b, _ := io.ReadAll(c)
		got <- string(b)
	}()
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import errno, os, socket, time
l = socket.socket(); l.bind(("0.0.0.0", %d)); l.listen()
old, dir = os.open("/app/big", 0), os.open("/app/dir", 0)
size = os.fstat(old).st_size
s = socket.create_connection(("10.96.1.1", 80))
u = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
q = b"\1\2\1\0\0\1\0\0\0\0\0\0\3web\4shop\0\0\1\0\1"
u.sendto(q, ("10.96.0.10", 53)); print(len(u.recvfrom(512)[0]))
try: os.stat("/app/kill")
except OSError as e: print(errno.errorcode[e.errno])
began = time.monotonic()
print(open("/etc/shop/config.yaml").read(), end="")
try: print("old connection:", s.recv(1))
except OSError as e: print("old connection:", b"" if e.errno == errno.ECONNRESET else e)
print(socket.create_connection(("web.shop", 80)).getpeername())
u.sendto(q, ("10.96.0.10", 53)); print(len(u.recvfrom(512)[0]))
new = os.open("/app/big", 0)
print(os.read(new, 4), os.fstat(old).st_size == size, os.path.samestat(os.fstat(old), os.fstat(new)))
print(os.readlink("/proc/self/fd/%%d" %% old), os.read(os.open("b", 0, dir_fd=dir), 9))
c, a = l.accept(); print(a); c.sendall(c.recv(10).upper())
print(time.monotonic() - began < 30)`, port))
	const want = `42
EIO
color: blue
old connection: b''
('10.96.1.1', 80)
42
b'0123' True True
/app/big b'bb'
('192.0.2.7', 40000)
True
`
	if r.out != want || r.err != nil || r.Code != 0 {
		t.Errorf("%+v printed\n%s", r.Exit, diff(r.out, want))
	}
	if s := <-got; s != "ABC" {
		t.Errorf("the client got %q", s)
	}
	if starts != 1 || len(r.messages) != 2 || !strings.Contains(r.messages[0], "is gone, and another") || r.messages[1] != "the daemon is back" {
		t.Errorf("%d starts, messages %q", starts, r.messages)
	}
	if q := next.Listen(port); q.Node == 0 || q.Addr.Port() != port {
		t.Errorf("listened again as %+v", q)
	}
}

// While there is no daemon a call waits, not for ever, and a signal ends it.
// Where none can be started it fails at once, until one can.
func TestCallsWithoutDaemon(t *testing.T) {
	w := newWorld(t)
	next, killed := killable(t, w)
	fifo := w.dir + "/given-up"
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	attempts := 0
	w.again = func(context.Context) (string, string, error) {
		<-killed
		if attempts++; attempts > 1 {
			return next.Socket, "test", nil
		}
		if _, err := os.ReadFile(fifo); err != nil { // longer than anybody waits
			t.Error(err)
		}
		return "", "", errors.New("no room")
	}
	r := w.run(t, "python3", "-c", `
import ctypes, errno, os, signal, time
libc = ctypes.CDLL(None, use_errno=True) # Python's own stat begins again after a signal
def attempt(path):
    began = time.monotonic()
    e = "ok" if libc.access(path, os.F_OK) == 0 else errno.errorcode[ctypes.get_errno()]
    return e, time.monotonic() - began
print(attempt(b"/app/kill")[0])
signal.signal(signal.SIGALRM, lambda *_: None); signal.setitimer(signal.ITIMER_REAL, 0.3, 0.3)
print(attempt(b"/app/dir")[0])
signal.setitimer(signal.ITIMER_REAL, 0)
e, took = attempt(b"/app/dir"); print(e, took > 1.5)
open("given-up", "w").close()
e, took = min(attempt(b"/app/dir") for _ in range(5)); print(e, took < 1.5)
while e != "ok": time.sleep(0.05); e, took = attempt(b"/app/dir")
print(e)`)
	const want = "EIO\nEINTR\nEIO True\nEIO True\nok\n"
	if r.out != want || r.err != nil || r.Code != 0 {
		t.Errorf("%+v printed %q, want %q", r.Exit, r.out, want)
	}
	if len(r.messages) != 3 || !strings.HasPrefix(r.messages[1], "starting the daemon again: no room; remote files") || r.messages[2] != "the daemon is back" {
		t.Errorf("messages %q", r.messages)
	}
}

// A terminal that takes nothing does not keep the daemon from coming back.
func TestDaemonKilledUnheard(t *testing.T) {
	w := newWorld(t)
	next, killed := killable(t, w)
	w.again = func(context.Context) (string, string, error) {
		<-killed
		return next.Socket, "test", nil
	}
	w.read = func() { next.Wait(wire.OpStat, 1) }
	w.want(t, "EIO\n5\n", "python3", "-c", pythonNames+`
import os
print(show(os.stat, "/app/kill"))
print(os.stat("/app/link").st_size - 7)`)
}

// A session that is over does not come back.
func TestSessionOver(t *testing.T) {
	w := newWorld(t)
	_, killed := killable(t, w)
	hold := w.Hold
	w.Hold = func(q *wire.Request) {
		if q.Path == "/app/kill" {
			w.End("stopped by somebody")
		}
		hold(q)
	}
	w.again = func(context.Context) (string, string, error) {
		t.Error("a daemon was asked for")
		return "", "", errors.New("unwanted")
	}
	r := w.run(t, "python3", "-c", `
import os, signal
try: os.stat("/app/kill")
except OSError: pass
signal.pause()`)
	<-killed
	if r.Signal != unix.SIGTERM || len(r.messages) != 1 || r.messages[0] != "stopped by somebody" {
		t.Errorf("%+v", r)
	}
}
