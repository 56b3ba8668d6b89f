package launch

import (
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	wire "mirrord/protocol/layer"
)

// listenOn prints the inode of its listener, then waits for its input's end.
const listenOn = `
import os, socket, sys
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); s.bind(("0.0.0.0", %[1]d)); s.listen()
print(os.fstat(s.fileno()).st_ino)
`

// The daemon is told which socket listens, and how.
func TestListenTellsTheSocket(t *testing.T) {
	for _, mirror := range []bool{false, true} {
		w := newWorld(t)
		w.policy.Steal, w.policy.Mirror = !mirror, mirror
		port := freePort(t)
		r := w.run(t, "python3", "-c", fmt.Sprintf(listenOn, port))
		q := w.Listen(port)
		if want := fmt.Sprintln(q.Node); r.out != want || q.Node == 0 || q.Flags&wire.ListenMirror != 0 != mirror || !q.Addr2.Addr().IsLoopback() {
			t.Errorf("mirror %v: asked %+v, the debuggee %+v", mirror, q, r)
		}
	}
}

// Each of several sockets that share an address is told of, and that of each family.
func TestListenersThatShareAPort(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	var mu sync.Mutex
	var asked strings.Builder
	w.Hold = func(q *wire.Request) {
		if q.Op == wire.OpListen {
			mu.Lock()
			defer mu.Unlock()
			fmt.Fprintln(&asked, q.Node, q.Addr2)
		}
	}
	r := w.run(t, "python3", "-c", fmt.Sprintf(listenOn+`
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); t.bind(("0.0.0.0", %[1]d)); t.listen()
v6 = socket.socket(socket.AF_INET6); v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); v6.bind(("::", %[1]d)); v6.listen()
print(os.fstat(t.fileno()).st_ino); print(os.fstat(v6.fileno()).st_ino)`, port))
	inodes := strings.Fields(r.out)
	if len(inodes) != 3 {
		t.Fatalf("the debuggee %+v", r)
	}
	want := fmt.Sprintf("%s 127.0.0.1:%[4]d\n%[2]s 127.0.0.1:%[4]d\n%[3]s [::1]:%[4]d\n", inodes[0], inodes[1], inodes[2], port)
	mu.Lock()
	defer mu.Unlock()
	if asked.String() != want || len(r.messages) != 0 {
		t.Errorf("asked\n%swant\n%sthe debuggee %+v", &asked, want, r)
	}
}

// Where one family's port is not to be had here the other's is not meant by it,
// neither by who listens nor by who connects.
func TestListenersOfEachFamily(t *testing.T) {
	other, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skip(err)
	}
	defer other.Close()
	port := other.Addr().(*net.TCPAddr).Port
	w := newWorld(t)
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
four = socket.socket(); four.bind(("0.0.0.0", %[1]d)); four.listen()
six = socket.socket(socket.AF_INET6); six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); six.bind(("::", %[1]d)); six.listen()
for s, family, host in (four, socket.AF_INET, "127.0.0.1"), (six, socket.AF_INET6, "::1"):
    c = socket.socket(family); c.connect((host, %[1]d)); c.sendall(host.encode()); a, p = s.accept(); print(a.recv(20).decode(), p == c.getsockname())`, port))
	told := fmt.Sprintf("port %d cannot be had on this machine (address already in use): the debuggee listens on [::1]:", port)
	if r.out != "127.0.0.1 True\n::1 True\n" || len(r.messages) != 1 || !strings.HasPrefix(r.messages[0], told) || w.Calls(wire.OpListen) != 2 {
		t.Errorf("%d questions, %+v", w.Calls(wire.OpListen), r)
	}
}

// The port that another socket is bound to, which does not listen yet, is had by that
// one, though both would share it. What is left of connections keeps nobody from it.
func TestListenersThatBindAtOnce(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
def bind():
    s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1); s.bind(("", %d)); return s
def left(s):
    c = socket.create_connection(("127.0.0.1", %[1]d)); a, p = s.accept(); a.close(); c.recv(1)
first, second = bind(), bind()
for s in first, second:
    print(s.getsockname()[1] == %[1]d); s.listen(); print(s.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR))
second.close(); left(first); first.close()
third = bind(); third.listen(); left(third)`, port))
	told := fmt.Sprintf("port %d cannot be had on this machine (address already in use): the debuggee listens on 127.0.0.1:", port)
	if r.out != "True\n1\nTrue\n1\n" || len(r.messages) != 1 || !strings.HasPrefix(r.messages[0], told) {
		t.Errorf("%+v", r)
	}
}

// Another port of the target is taken for the debuggee's, and its listener has
// another one here; it sees the one that it knows.
func TestListenOnPairedPorts(t *testing.T) {
	w := newWorld(t)
	port, target, bound := freePort(t), freePort(t), freePort(t)
	w.policy.PortMapping, w.policy.ListenPorts = [][2]uint16{{port, target}}, [][2]uint16{{port, bound}}
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
s = socket.create_server(("", %[1]d)); print(s.getsockname()[1])
c = socket.create_connection(("127.0.0.1", %[1]d)); c.sendall(b"x"); a, p = s.accept(); print(a.recv(1))`, port))
	if q := w.Listen(target); q.Addr2.Port() != bound {
		t.Errorf("it is said to listen at %v, not port %d", q.Addr2, bound)
	}
	if want := fmt.Sprintf("%d\nb'x'\n", port); r.out != want || len(r.messages) != 0 {
		t.Errorf("%+v, want %q", r, want)
	}
}

// A listener on loopback is this machine's, where that is wanted.
func TestListenOnIgnoredLoopback(t *testing.T) {
	w := newWorld(t)
	w.policy.IgnoreLocalhost = true
	r := w.run(t, "python3", "-c", fmt.Sprintf(`import socket; socket.create_server(("127.0.0.1", %d)); print("listens")`, freePort(t)))
	if n := w.Calls(wire.OpListen); n != 0 || r.out != "listens\n" {
		t.Errorf("%d questions, %+v", n, r)
	}
}

// A port that cannot be mirrored is listened on here alone.
func TestListenThatIsNotMirrored(t *testing.T) {
	w := newWorld(t)
	w.policy.Steal, w.policy.Mirror = false, true
	w.Refuse = unix.EOPNOTSUPP
	port := freePort(t)
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
s = socket.socket(); s.bind(("0.0.0.0", %[1]d)); s.listen()
c = socket.create_connection(("127.0.0.1", %[1]d)); a, p = s.accept(); print(p == c.getsockname())`, port))
	want := fmt.Sprintf("port %d of the target is not mirrored: operation not supported", port)
	if r.out != "True\n" || len(r.messages) != 1 || r.messages[0] != want {
		t.Errorf("%+v", r)
	}
}
