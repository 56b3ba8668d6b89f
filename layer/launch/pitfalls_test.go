package launch

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// goProgram builds a static, stripped Go program of testdata.
func goProgram(t testing.TB, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), name)
	cmd := exec.Command("go", "build", "-ldflags=-s -w", "-o", out, "../testdata/"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, b)
	}
	return out
}

// Pitfall 1: a signal in the middle of an injection must not give descriptor 0.
// Our threads get the signal Go preempts with as fast as it can be sent.
func TestPitfall01SignalDuringAddFD(t *testing.T) {
	w := newWorld(t)
	defer debug.SetGCPercent(debug.SetGCPercent(5))
	stop := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			threads, _ := os.ReadDir("/proc/self/task")
			for _, th := range threads {
				tid, _ := strconv.Atoi(th.Name())
				_ = unix.Tgkill(os.Getpid(), tid, unix.SIGURG)
			}
		}
	})
	w.want(t, "fine\n", goProgram(t, "stress"), "2s")
	close(stop)
	wg.Wait()
}

// Pitfall 2: a call that a signal interrupts is asked again, and the asking
// joins what is under way.
func TestPitfall02InterruptedCalls(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.Hold = func(*wire.Request) { time.Sleep(20 * time.Millisecond) } // the target is far
	const opens = 20
	w.want(t, "fine, signals: 1\n", build(t, "calls.c"), "storm", strconv.Itoa(opens))
	if n := w.Asked(wire.OpOpen, "/etc/shop/config.yaml"); n != opens {
		t.Errorf("%d questions for %d opens", n, opens)
	}
	if n := w.Calls(wire.OpConnect); n != 10 {
		t.Errorf("%d questions for 10 connects", n)
	}
}

// Pitfalls 1 and 2, of opens that nobody is asked about: an interrupted one leaves
// no descriptor behind.
func TestPitfall02InterruptedKnownOpens(t *testing.T) {
	w := newWorld(t)
	w.Leases = true
	const opens = 20_000
	w.want(t, "signals: 1\n", build(t, "calls.c"), "again", strconv.Itoa(opens))
	if n := w.Asked(wire.OpOpen, "/etc/shop/config.yaml"); n != 1 {
		t.Errorf("asked %d times", n)
	}
}

// Pitfall 2, of calls that are given up: what is asked next from the same
// registers is not answered with what was asked before.
func TestPitfall02OtherCallOfSameRegisters(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	opened, connected := make(chan struct{}), make(chan struct{})
	w.Hold = func(q *wire.Request) {
		switch {
		case q.Path == "/app/dir/a":
			<-opened
		case q.Path == "/app/turn1":
			close(opened)
		case q.Addr == netip.MustParseAddrPort("10.96.9.9:80"):
			<-connected
		case q.Path == "/app/turn2":
			close(connected)
		}
	}
	w.want(t, `syscall(SYS_openat, AT_FDCWD, path, O_RDONLY, 0, 0, 0): EINTR
read 2: bb
syscall(SYS_connect, s, &a, sizeof a, 0, 0, 0): EINTR
syscall(SYS_connect, s, &a, sizeof a, 0, 0, 0): ok
`, build(t, "calls.c"), "turn")
}

// Pitfall 2, of accept: no connection is lost to a signal.
func TestPitfall02InterruptedAccept(t *testing.T) {
	w := newWorld(t)
	const conns = 200
	port := freePort(t)
	done := make(chan error, 1)
	go func() {
		w.Listener(port)
		for i := range conns {
			c, err := w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))
			if err == nil {
				_, err = c.Write([]byte{byte(i)})
				c.Close()
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	w.want(t, fmt.Sprintf("sum %d\n", conns*(conns-1)/2), build(t, "calls.c"), "accepts", strconv.Itoa(conns), strconv.Itoa(int(port)))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Pitfall 4: the program is on the debuggee's line of descent and nowhere else.
func TestPitfall04OnlyTheDebuggeeIsTrapped(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, "grep", "Seccomp:", "/proc/self/status")
	if r.out != "Seccomp:\t2\n" {
		t.Errorf("the debuggee: %q", r.out)
	}
	threads, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, th := range threads {
		if b, err := os.ReadFile(th); err == nil && !strings.Contains(string(b), "\nSeccomp:\t0\n") {
			t.Errorf("%s is under a program", th)
		}
	}
}

// Pitfall 6: a socket is known by its inode: after dup, fork and passing.
func TestPitfall06SocketsByInode(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, "('10.96.1.1', 80)\n('10.96.1.1', 80)\n", "python3", "-c", `
import os, socket
a, b = socket.socketpair()
if os.fork() == 0:
    s = socket.create_connection(("10.96.1.1", 80))
    socket.send_fds(a, [b"x"], [s.fileno()]); os._exit(0)
_, fds, _, _ = socket.recv_fds(b, 1, 1)
s = socket.socket(fileno=fds[0])
print(s.getpeername(), flush=True)
if os.fork() == 0:
    print(s.dup().getpeername(), flush=True); os._exit(0)
os.wait()`)
}

// Pitfall 7: names are faked as the manual has them.
func TestPitfall07Names(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, `getpeername(s, (void *)&got, &(socklen_t){sizeof got}): ENOTCONN
connect(s, (void *)&a, sizeof a): ok
connect(s, (void *)&a, sizeof a): EISCONN
peer 10.96.1.1:80 size 16
cut: port 80 address 0.0.0.0 size 16
getpeername(s, (void *)&got, &n): EINVAL
getpeername(s, (void *)1, &(socklen_t){sizeof got}): EFAULT
dup 10.96.1.1
`, build(t, "calls.c"), "peer", "10.96.1.1")
}

// Pitfall 8: a listener is on loopback, elsewhere if its port is taken, of
// IPv6 alone if it asked so; it is reached at the wanted port by itself.
func TestPitfall08Listeners(t *testing.T) {
	w := newWorld(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port, port6 := taken.Addr().(*net.TCPAddr).Port, freePort(t)
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
s = socket.socket(); s.bind(("0.0.0.0", %d)); s.listen()
print(s.getsockname()[1] == %[1]d)
c = socket.create_connection(("127.0.0.1", %[1]d)); a, p = s.accept()
print(p == c.getsockname())
try: t = socket.socket(); t.bind(("0.0.0.0", %[1]d)); t.listen(); print("twice")
except OSError as e: print(e)
v6 = socket.socket(socket.AF_INET6); v6.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
v6.bind(("::", %[2]d)); v6.listen(); print(v6.getsockname()[:2] == ("::", %[2]d))
`, port, port6))
	if r.err != nil || r.Code != 0 || r.out != "True\nTrue\n[Errno 98] Address already in use\nTrue\n" {
		t.Errorf("%+v", r)
	}
	if len(r.messages) != 1 || !strings.Contains(r.messages[0], "listens on 127.0.0.1:") {
		t.Errorf("messages: %q", r.messages)
	}
	if at := w.Listener(port6); at.Addr() != netip.IPv6Loopback() {
		t.Errorf("the IPv6 listener is at %v", at)
	}
}

// A port that cannot be stolen fails to be listened on.
func TestRefusedListener(t *testing.T) {
	w := newWorld(t)
	w.Refuse = unix.EADDRINUSE
	r := w.run(t, "python3", "-c", fmt.Sprintf(`
import socket
s = socket.socket(); s.bind(("0.0.0.0", %d))
try: s.listen()
except OSError as e: print(e)`, freePort(t)))
	if r.out != "[Errno 98] Address already in use\n" || len(r.messages) != 1 {
		t.Errorf("%+v", r)
	}
}

// waitsInPython defines when_waits, which calls what as soon as a thread waits in the
// system call of a number.
const waitsInPython = `
import threading, time
def when_waits(thread, number, what):
    def wait():
        while open(f"/proc/self/task/{thread.native_id}/syscall").read().split()[0] != str(number): time.sleep(0.001)
        what()
    waiter = threading.Thread(target=wait, daemon=True); waiter.start()
    return waiter`

// Pitfall 9: a blocking accept holds nobody up, and a signal ends it.
func TestPitfall09BlockingAccept(t *testing.T) {
	w := newWorld(t)
	w.want(t, "KeyboardInterrupt\nTimeoutError\ncolor: blue\n\n", "python3", "-c", `
import socket, signal, os
`+waitsInPython+`
s = socket.socket(); s.bind(("0.0.0.0", `+strconv.Itoa(int(freePort(t)))+`)); s.listen()
signal.signal(signal.SIGINT, signal.default_int_handler)
when_waits(threading.main_thread(), `+strconv.Itoa(unix.SYS_ACCEPT4)+`, lambda: os.kill(os.getpid(), signal.SIGINT))
try: s.accept()
except KeyboardInterrupt: print("KeyboardInterrupt")
s.settimeout(0.1)
try: s.accept()
except TimeoutError: print("TimeoutError")
s.settimeout(None)
other = threading.Thread(target=lambda: socket.socket.accept(s), daemon=True); other.start()
when_waits(other, `+strconv.Itoa(unix.SYS_ACCEPT4)+`, lambda: None).join()
print(open("/etc/shop/config.yaml").read(), flush=True)
os._exit(0)`)
}

// Pitfall 10: the target's refusal reaches a connect that does not wait.
func TestPitfall10NonblockingConnect(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	w.want(t, "111\n0\n", "python3", "-c", `
import socket, select
for host in "10.96.9.9", "10.96.1.1":
    s = socket.socket(); s.setblocking(False)
    p = select.epoll(); p.register(s, select.EPOLLOUT | select.EPOLLET)
    e = s.connect_ex((host, 80))
    if e == 115:
        p.poll(); e = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    print(e)`)
}

// Pitfall 14: a launcher inside a launcher, or under another's program.
func TestPitfall14Nesting(t *testing.T) {
	t.Setenv(nestedEnv, "1")
	w := newWorld(t)
	r := w.run(t, "true")
	var e *Error
	if !errors.As(r.err, &e) || !errors.Is(r.err, seccomp.ErrNested) || e.Hint == "" {
		t.Errorf("%v", r.err)
	}
	var busy *Error
	if err := notInstalled(unix.EBUSY); !errors.As(err, &busy) || busy.Hint == "" {
		t.Errorf("%v", err)
	}
}

// Pitfall 15: no_new_privs only where it is needed.
func TestPitfall15NoNewPrivs(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, "grep", "NoNewPrivs", "/proc/self/status")
	want := "NoNewPrivs:\t1\n"
	if os.Geteuid() == 0 {
		want = "NoNewPrivs:\t0\n"
	}
	if r.out != want {
		t.Errorf("%q, want %q", r.out, want)
	}
}

// Pitfall 19: we take all descriptors we may, the debuggee gets its own limit.
func TestPitfall19Descriptors(t *testing.T) {
	w := newWorld(t)
	r := w.run(t, "sh", "-c", "ulimit -Sn")
	native, err := exec.Command("sh", "-c", "ulimit -Sn").Output()
	if err != nil {
		t.Fatal(err)
	}
	if r.out != string(native) {
		t.Errorf("limit %q, natively %q", r.out, native)
	}
	w.want(t, "24\n", "python3", "-c", `
import resource, os
resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
try: os.open("/etc/shop/config.yaml", 0)
except OSError as e: os.write(1, b"%d\n" % e.errno)
os._exit(0)`)
}
