package launch

import (
	"fmt"
	"strings"
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

// Each of several sockets that share an address is told of, what is at another
// address is not: a port goes to one place.
func TestListenersThatShareAPort(t *testing.T) {
	w := newWorld(t)
	port := freePort(t)
	r := w.run(t, "python3", "-c", fmt.Sprintf(listenOn+`
t = socket.socket(); t.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); t.bind(("0.0.0.0", %[1]d)); t.listen()
v6 = socket.socket(socket.AF_INET6); v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1); v6.bind(("::", %[1]d)); v6.listen()
print(os.fstat(t.fileno()).st_ino)`, port))
	_, second, _ := strings.Cut(r.out, "\n")
	if q := w.Listen(port); w.Calls(wire.OpListen) != 2 || second != fmt.Sprintln(q.Node) {
		t.Errorf("%d questions, the last %+v, the debuggee %+v", w.Calls(wire.OpListen), q, r)
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
