package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// The test program plays three parts: the tests themselves, in a network
// namespace that stands for the node; a pod; and the agent, which is main.
const (
	roleVar = "MIRRORD_TEST_ROLE"
	dropVar = "MIRRORD_TEST_DROP" // numbers of capabilities that the agent is to lack
)

func TestMain(m *testing.M) {
	switch os.Getenv(roleVar) {
	case "agent":
		if drop := os.Getenv(dropVar); drop != "" {
			fmt.Fprintln(os.Stderr, without(drop))
			os.Exit(3)
		}
		main()
		os.Exit(0)
	case "pod":
		fmt.Fprintln(os.Stderr, podMain())
		os.Exit(3)
	case "web":
		fmt.Fprintln(os.Stderr, webMain())
		os.Exit(3)
	case "sidecar":
		fmt.Fprintln(os.Stderr, sidecarMain())
		os.Exit(3)
	}
	agenttest.Main(m)
}

// without executes this program again, lacking capabilities as a container may.
func without(capabilities string) error {
	runtime.LockOSThread()
	for c := range strings.SplitSeq(capabilities, ",") {
		n, err := strconv.Atoi(c)
		if err != nil {
			return err
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0); err != nil {
			return fmt.Errorf("dropping capability %d: %w", n, err)
		}
	}
	os.Unsetenv(dropVar)
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}

// Addresses of the pod and of the node's end of its veth, which the tests use
// as another pod would.
const (
	podV4, nodeV4 = "10.77.0.2", "10.77.0.1"
	podV6, nodeV6 = "fd77::2", "fd77::1"
	podPort       = 8080
)

// lastWords is the file that kubelet mounts into every container.
const lastWords = "/dev/termination-log"

// podMain is the pod: it enters its own tree, then echoes lines on its port,
// by Go's own listener, which is an MPTCP one.
func podMain() error {
	tree := os.Getenv("TREE")
	for _, step := range []func() error{
		func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "") },
		func() error { return unix.Mount(tree, tree, "", unix.MS_BIND, "") },
		func() error { return unix.Mount(os.Getenv("WORDS"), tree+lastWords, "", unix.MS_BIND, "") },
		func() error { return os.Chdir(tree) },
		func() error { return unix.PivotRoot(".", ".") },
		func() error { return unix.Unmount(".", unix.MNT_DETACH) },
		func() error { return os.Chdir("/") },
		func() error { return unix.Sethostname([]byte("web-7d4b9")) },
		agenttest.LoopbackUp,
	} {
		if err := step(); err != nil {
			return err
		}
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", podPort))
	if err != nil {
		return err
	}
	fmt.Println("ready")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			lines := bufio.NewScanner(c)
			for lines.Scan() {
				fmt.Fprintf(c, "pod heard %s\n", lines.Text())
			}
			fmt.Fprintln(c, "pod heard the end")
		}()
	}
}

// A pod is a process with namespaces of its own, joined to the tests' by a veth.
type pod struct {
	*exec.Cmd
	pid     int
	tree    string
	kubelet string // its directory
	network netns.NsHandle
}

func newPod(t *testing.T) *pod {
	t.Helper()
	agenttest.Namespace(t)
	p := &pod{kubelet: t.TempDir()}
	p.run(t, "blue", unix.CLONE_NEWNET)
	var err error
	if p.network, err = netns.GetFromPid(p.pid); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.network.Close() })
	p.connect(t)
	p.dial(t, false, podV6).Close() // the kernel is done with its addresses
	return p
}

// run starts the container, with a colour in its environment and its files.
func (p *pod) run(t *testing.T, colour string, flags uintptr) {
	t.Helper()
	p.tree = t.TempDir()
	volume := filepath.Join(p.tree, "etc/shop/..2026")
	words := filepath.Join(p.kubelet, "pods/5d0b7a9e/containers/web", colour)
	if err := errors.Join(
		os.MkdirAll(volume, 0o755),
		os.WriteFile(filepath.Join(volume, "config.yaml"), []byte("colour: "+colour+"\n"), 0o644),
		os.Symlink("..2026", filepath.Join(p.tree, "etc/shop/..data")),
		os.Symlink("..data/config.yaml", filepath.Join(p.tree, "etc/shop/config.yaml")),
		os.Symlink("/etc/shop/config.yaml", filepath.Join(p.tree, "config")),
		os.MkdirAll(filepath.Dir(p.tree+lastWords), 0o755),
		os.WriteFile(p.tree+lastWords, nil, 0o644),
		os.MkdirAll(filepath.Dir(words), 0o755),
		os.WriteFile(words, nil, 0o644),
	); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = []string{roleVar + "=pod", "TREE=" + p.tree, "WORDS=" + words, "COLOUR=" + colour}
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS | unix.CLONE_NEWNS | flags}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.Cmd, p.pid = cmd, cmd.Process.Pid
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("pod said %q, %v", line, err)
	}
}

// beside starts this program in another role in the pod's network. It ends with the test.
func (p *pod) beside(t *testing.T, as *syscall.Credential, role string, env ...string) (out io.Reader) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(env, roleVar+"="+role)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: as}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.enter(t, func() { err = cmd.Start() })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return out
}

// end kills the container; the pod's network stays.
func (p *pod) end() {
	_ = p.Process.Kill()
	_ = p.Wait()
}

// connect joins the pod to the tests' namespace.
func (p *pod) connect(t *testing.T) {
	t.Helper()
	inside, err := netlink.NewHandleAt(p.network)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	here, err := netlink.NewHandle()
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "node0"}, PeerName: "eth0", PeerNamespace: netlink.NsPid(p.pid)}
	if err := here.LinkAdd(veth); err != nil {
		t.Fatalf("making veth: %v", err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	for _, end := range []struct {
		h     *netlink.Handle
		name  string
		addrs []string
	}{{here, "node0", []string{nodeV4 + "/24", nodeV6 + "/64"}}, {inside, "eth0", []string{podV4 + "/24", podV6 + "/64"}}} {
		l, err := end.h.LinkByName(end.name)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range end.addrs {
			addr, err := netlink.ParseAddr(a)
			if err != nil {
				t.Fatal(err)
			}
			addr.Flags = unix.IFA_F_NODAD
			if err := end.h.AddrAdd(l, addr); err != nil {
				t.Fatalf("adding %s: %v", a, err)
			}
		}
		if err := end.h.LinkSetUp(l); err != nil {
			t.Fatal(err)
		}
	}
}

// dial connects from the pod itself, or from outside.
func (p *pod) dial(t *testing.T, inside bool, host string) *talk {
	t.Helper()
	var c net.Conn
	var err error
	dial := func() { c, err = net.Dial("tcp", net.JoinHostPort(host, strconv.Itoa(podPort))) }
	if inside {
		p.enter(t, dial)
	} else {
		dial()
	}
	if err != nil {
		t.Fatalf("connecting to pod: %v", err)
	}
	t.Cleanup(func() { c.Close() })
	return &talk{t, c.(*net.TCPConn), bufio.NewReader(c)}
}

// enter runs f on a thread that is in the pod's network, and ends with it.
func (p *pod) enter(t *testing.T, f func()) {
	t.Helper()
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		if err = netns.Set(p.network); err == nil {
			f()
		}
	})
	wg.Wait()
	if err != nil {
		t.Fatalf("entering pod: %v", err)
	}
}

// A talk is a connection of lines.
type talk struct {
	t *testing.T
	*net.TCPConn
	r *bufio.Reader
}

func (k *talk) says(line string) {
	k.t.Helper()
	if _, err := fmt.Fprintln(k, line); err != nil {
		k.t.Fatalf("saying %q: %v", line, err)
	}
}

func (k *talk) hears(want string) {
	k.t.Helper()
	if got, err := k.r.ReadString('\n'); got != want+"\n" {
		k.t.Fatalf("heard %q, %v; want %q", got, err, want)
	}
}

// A request is what may be said twice.
const request = "GET / HTTP/1.1\r\n\r\n"

// tells says words that no line ends.
func (k *talk) tells(words string) {
	k.t.Helper()
	if _, err := io.WriteString(k, words); err != nil {
		k.t.Fatalf("saying %q: %v", words, err)
	}
}

// hearsPod checks that it is the pod's own process at the other end, whatever
// came between, both ways and to both ends.
func (k *talk) hearsPod() {
	k.t.Helper()
	k.says("hello")
	k.hears("pod heard hello")
	if err := k.CloseWrite(); err != nil {
		k.t.Fatal(err)
	}
	k.hears("pod heard the end")
	if b, err := io.ReadAll(k.r); err != nil || len(b) > 0 {
		k.t.Fatalf("after the end: %q, %v", b, err)
	}
}

// An agent is a running mirrord-agent.
type agent struct {
	*exec.Cmd
	t    *testing.T
	addr string
	log  *bufio.Reader // its stderr
}

// start runs an agent; env is added to its environment.
func start(t *testing.T, env []string, args ...string) *agent {
	t.Helper()
	a := &agent{Cmd: exec.Command("/proc/self/exe", args...), t: t}
	a.Env = append(os.Environ(), append(env, roleVar+"=agent")...)
	stderr, err := a.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := a.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	a.log = bufio.NewReader(stderr)
	if err := a.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.kill() })
	line, _ := bufio.NewReader(stdout).ReadString('\n')
	a.addr = strings.TrimSpace(strings.TrimPrefix(line, "listening on "))
	return a
}

func startFor(t *testing.T, p *pod, args ...string) *agent {
	t.Helper()
	a := start(t, nil, append([]string{"--pid", strconv.Itoa(p.pid)}, args...)...)
	if a.addr == "" {
		t.Fatalf("agent did not start: %s", a.rest())
	}
	return a
}

func (a *agent) kill() {
	_ = a.Process.Kill()
	_ = a.Wait()
}

// logs waits until the agent logs a line with all the words.
func (a *agent) logs(words ...string) {
	a.t.Helper()
	for {
		line, err := a.log.ReadString('\n')
		missing := false
		for _, w := range words {
			missing = missing || !strings.Contains(line, w)
		}
		if !missing {
			return
		}
		if err != nil {
			a.t.Fatalf("agent never logged %q: %v", words, err)
		}
	}
}

// rest is what the agent says until it ends.
func (a *agent) rest() string {
	b, _ := io.ReadAll(a.log)
	return string(b)
}

// relayed connects a stolen stream's bytes to a listener that echoes in the
// debuggee's voice.
func relayed(t *testing.T, stream net.Conn) {
	t.Helper()
	if err := protocol.WriteMessage(stream, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Error(err)
			return
		}
		_ = protocol.Relay(c.(*net.TCPConn), stream)
	})
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		_ = stream.SetDeadline(time.Unix(1, 0))
		wg.Wait()
	})
	wg.Go(func() {
		defer c.Close()
		lines := bufio.NewScanner(c)
		for lines.Scan() {
			fmt.Fprintf(c, "debuggee heard %s\n", lines.Text())
		}
		fmt.Fprintln(c, "debuggee heard the end")
	})
}

// withoutIPv4 takes away the pod's addresses of IPv4.
func (p *pod) withoutIPv4(t *testing.T) {
	t.Helper()
	inside, err := netlink.NewHandleAt(p.network)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	all, err := inside.AddrList(nil, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, addr := range all {
		l, err := inside.LinkByIndex(addr.LinkIndex)
		if err == nil {
			err = inside.AddrDel(l, &addr)
		}
		if err != nil {
			t.Fatalf("removing %v: %v", addr, err)
		}
	}
}
