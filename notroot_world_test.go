package mirrord_test

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// Developer and pod of these tests are two network and mount namespaces.
const (
	userAddr = "10.99.0.1"
	podAddr  = "10.99.0.2"
	podAddr6 = "fd99::2"
)

// A place is a thread in namespaces of its own.
type place struct {
	t    *testing.T
	work chan func()
	path string // of its network namespace
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{t: t, work: make(chan func())}
	entered := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with us
		p.path = fmt.Sprintf("/proc/%d/task/%d/ns/net", os.Getpid(), unix.Gettid())
		err := unix.Unshare(unix.CLONE_NEWNET | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		entered <- err
		for f := range p.work {
			f()
		}
	}()
	t.Cleanup(func() { close(p.work) })
	if err := <-entered; err != nil {
		t.Skipf("making namespaces: %v", err)
	}
	return p
}

// do runs f there; what f starts is there, too.
func (p *place) do(f func() error) {
	p.t.Helper()
	done := make(chan error)
	p.work <- func() { done <- f() }
	if err := <-done; err != nil {
		p.t.Fatal(err)
	}
}

func (p *place) ip(args string) {
	p.t.Helper()
	p.do(func() error {
		if out, err := exec.Command("ip", strings.Fields(args)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w\n%s", args, err, out)
		}
		return nil
	})
}

// talk asks a server as one who is there.
func (p *place) talk(addr string) (answer string) {
	p.t.Helper()
	p.do(func() error {
		b, err := talk(addr)
		if answer = string(b); err != nil {
			answer = err.Error()
		}
		return nil
	})
	return answer
}

// bind hides one file or directory by another.
func (p *place) bind(source, target string) {
	p.t.Helper()
	p.do(func() error { return os.NewSyscallError("mount", unix.Mount(source, target, "", unix.MS_BIND, "")) })
}

// A notRoot is a world where somebody who is not root uses mirrord.
type notRoot struct {
	user, pod *place
	bin, dir  string // of the programs; for the users' own
}

// newNotRoot makes the two places. The pod has files, names, a server and an agent.
func newNotRoot(t *testing.T) *notRoot {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root, to make namespaces and an agent, and to become somebody else")
	}
	w := &notRoot{user: newPlace(t), pod: newPlace(t), dir: t.TempDir()}
	w.bin = filepath.Join(w.dir, "bin")
	w.build(t)
	w.user.ip("link set lo up")
	w.pod.ip("link set lo up")
	w.user.ip("link add veth type veth peer name veth netns " + w.pod.path)
	for p, addr := range map[*place]string{w.user: userAddr, w.pod: podAddr} {
		p.ip("addr add " + addr + "/24 dev veth")
		p.ip("link set veth up")
	}
	for p, addr := range map[*place]string{w.user: "fd99::1", w.pod: podAddr6} {
		p.ip("addr add " + addr + "/64 dev veth nodad")
	}
	w.pod.do(podFiles)
	w.pod.bind("/srv/resolv.conf", "/etc/resolv.conf")
	w.pod.do(func() error { return podServers(t) })

	agent := exec.Command(filepath.Join(w.bin, "mirrord-agent"), "--listen", podAddr+":7777")
	agent.Env = append(os.Environ(), "FROM_POD=yes")
	out, err := agent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	w.pod.do(agent.Start)
	t.Cleanup(func() {
		agent.Process.Signal(syscall.SIGTERM)
		agent.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("the agent says %q, %v", line, err)
	}
	return w
}

// build makes the programs where any user can run them.
func (w *notRoot) build(t *testing.T) {
	t.Helper()
	if err := os.Chmod(filepath.Dir(w.dir), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(w.bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, pkg := range map[string]string{"mirrord": "./daemon/mirrord", "mirrord-full": "./daemon", "mirrord-agent": "./agent"} {
		if err := os.Link(built(t, pkg), filepath.Join(w.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	copyFile(t, "/proc/self/exe", w.debuggee())
}

func (w *notRoot) debuggee() string { return filepath.Join(w.bin, "debuggee") }

var podLargeContent = bytes.Repeat([]byte("0123456789abcdef\n"), 100_000)

func podFiles() error {
	if err := unix.Mount("none", "/srv", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mounting /srv: %w", err)
	}
	if err := os.MkdirAll(podDir+"/sub", 0o750); err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		podSmall: []byte("small\n"), podLarge: podLargeContent, podHuge: nil,
		podDir + "/file": nil, podDir + "/sub/file": []byte("of sub\n"),
		"/srv/resolv.conf": []byte("nameserver " + podAddr + "\n"),
	} {
		if err := os.WriteFile(path, content, 0o640); err != nil {
			return err
		}
	}
	return errors.Join(os.Symlink("nowhere", podDir+"/link"), os.Truncate(podHuge, hugeSize))
}

const hugeSize = 100 << 20

// podServers serve names and, at port 8080, the pod's word.
func podServers(t *testing.T) error {
	l, err := net.Listen("tcp", podAddr+":8080")
	if err != nil {
		return err
	}
	t.Cleanup(func() { l.Close() })
	go say(l, "pod")
	c, err := net.ListenPacket("udp", podAddr+":53")
	if err != nil {
		return err
	}
	t.Cleanup(func() { c.Close() })
	go func() {
		b := make([]byte, 512)
		for {
			n, from, err := c.ReadFrom(b)
			if err != nil {
				return
			}
			if answer, err := answerName(b[:n]); err == nil {
				c.WriteTo(answer, from)
			}
		}
	}()
	return nil
}

// answerName knows the address of other.example and no other name.
func answerName(query []byte) ([]byte, error) {
	var m dnsmessage.Message
	if err := m.Unpack(query); err != nil || len(m.Questions) != 1 {
		return nil, errors.Join(err, errors.New("no question"))
	}
	m.Response, m.Additionals = true, nil
	q := m.Questions[0]
	switch {
	case q.Name.String() != "other.example.":
		m.RCode = dnsmessage.RCodeNameError
	case q.Type == dnsmessage.TypeA:
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 1},
			Body:   &dnsmessage.AResource{A: [4]byte{10, 99, 0, 2}},
		}}
	}
	return m.Pack()
}
