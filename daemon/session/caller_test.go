package session

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/daemon/files"
	"mirrord/daemon/files/browse"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// The tests run a real agent, whose target is its own process: the target's
// files and network are this machine's.
func TestMain(m *testing.M) {
	files.Serve()
	browse.Serve()
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if agentDir != "" {
			os.RemoveAll(agentDir)
		}
		os.Exit(code)
	}))
}

var (
	agentDir   string // set by buildAgent
	buildAgent = sync.OnceValues(func() (bin string, err error) {
		if agentDir, err = os.MkdirTemp("", "mirrord-session"); err != nil {
			return "", err
		}
		bin = filepath.Join(agentDir, "mirrord-agent")
		if out, err := exec.Command("go", "build", "-o", bin, "mirrord/agent").CombinedOutput(); err != nil {
			return "", fmt.Errorf("building the agent: %w\n%s", err, out)
		}
		return bin, nil
	})
)

// agentAddress starts an agent, which is built once for all tests.
func agentAddress(t *testing.T, flags ...string) string {
	t.Helper()
	bin, err := buildAgent()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(bin, append(flags, "--listen", "127.0.0.1:0")...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	line, err := bufio.NewReader(out).ReadString('\n')
	addr, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if !ok {
		t.Skipf("the agent does not run here (it needs root): %q, %v", line, err)
	}
	return addr
}

// manager starts a manager that ends with the test.
func manager(t *testing.T) *Manager {
	t.Helper()
	m, stop := managerUntil(t)
	t.Cleanup(stop)
	return m
}

// managerUntil starts a manager that ends with stop.
func managerUntil(t *testing.T) (m *Manager, stop func()) {
	t.Helper()
	m, err := NewManager(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	served := make(chan error)
	go func() { served <- m.Serve(ctx) }()
	return m, func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("Serve = %v", err)
		}
		m.Close()
	}
}

// start makes a session and attaches to it as a launcher does.
func start(t *testing.T, m *Manager) (ide.Session, *caller) {
	t.Helper()
	return startWith(t, m, agentAddress(t))
}

// startWith uses the agent at addr.
func startWith(t *testing.T, m *Manager, addr string) (ide.Session, *caller) {
	t.Helper()
	s := startSession(t, m, addr)
	return s, attach(t, m, s.ID)
}

func startSession(t *testing.T, m *Manager, addr string) ide.Session {
	t.Helper()
	s, err := m.Start(t.Context(), ide.SessionStartParams{
		Client:    ide.Client{Dir: t.TempDir()},
		Overrides: ide.Overrides{Agent: addr},
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func attach(t *testing.T, m *Manager, id string) *caller {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Name: m.LayerSocket(), Net: "unixpacket"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(time.Minute))
	c := &caller{t: t, conn: conn}
	_, c.root = c.call(layer.Request{Op: layer.OpAttach, Path: id})
	return c
}

// A caller asks what a launcher asks.
type caller struct {
	t    *testing.T
	conn *net.UnixConn
	root *os.File
	seq  uint32

	expired []uint64 // what notices before replies have said
}

func (c *caller) call(r layer.Request) (layer.Reply, *os.File) {
	c.t.Helper()
	c.seq++
	r.Seq = c.seq
	if _, err := c.conn.Write(r.Append(nil)); err != nil {
		c.t.Fatal(err)
	}
	return c.read(r.Seq)
}

// read waits for the reply to seq.
func (c *caller) read(seq uint32) (layer.Reply, *os.File) {
	c.t.Helper()
	buf, oob := make([]byte, layer.MaxMessage), make([]byte, unix.CmsgSpace(4))
	n, oobn, _, _, err := c.conn.ReadMsgUnix(buf, oob)
	if err != nil {
		c.t.Fatal(err)
	}
	var reply layer.Reply
	err = reply.Decode(buf[:n])
	if err == nil && reply.Seq == 0 && seq != 0 {
		c.noteExpired(&reply)
		return c.read(seq) // a notice
	}
	if err != nil || reply.Seq != seq {
		c.t.Fatalf("reply %+v, %v", reply, err)
	}
	if reply.Flags&layer.ReplyFD == 0 {
		return reply, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil {
		c.t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		c.t.Fatal(err)
	}
	f := os.NewFile(uintptr(fds[0]), "injected")
	c.t.Cleanup(func() { f.Close() })
	return reply, f
}
