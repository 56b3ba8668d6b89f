package session

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"mirrord/daemon/cluster"
	"mirrord/daemon/files"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

func TestFilesOfTheTarget(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	if c.root == nil {
		t.Skip(files.Available())
	}
	dir := t.TempDir()
	large := strings.Repeat("0123456789abcdef", inline/8)
	for name, content := range map[string]string{"small": "small content", "edge": large[:inline], "large": large} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
			t.Fatal(err)
		}
		reply, fd := c.call(layer.Request{Op: layer.OpOpen, Path: path})
		if reply.Errno != 0 {
			t.Fatalf("%s: errno %d: %s", name, reply.Errno, reply.Data)
		}
		if inMemory := len(content) <= inline; inMemory != (fd != nil) || inMemory == (reply.Flags&layer.ReplyNode != 0) {
			t.Errorf("%s of %d bytes: descriptor %v, flags %b", name, len(content), fd, reply.Flags)
		}
		if fd == nil {
			n, err := unix.Openat(int(c.root.Fd()), layer.NodeName(reply.Node), unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			fd = os.NewFile(uintptr(n), name)
			defer fd.Close()
		}
		if reply.Attr.Size != int64(len(content)) || reply.Attr.Mode&0o777 != 0o640 || text(reply) != path {
			t.Errorf("%s: %+v of %q", name, reply.Attr, reply.Data)
		}
		if got, err := io.ReadAll(fd); err != nil || string(got) != content {
			t.Errorf("%s: read %d bytes, %v", name, len(got), err)
		}
		if _, err := fd.Write([]byte("x")); err == nil {
			t.Errorf("%s can be written", name)
		}
	}
	for _, tt := range []struct {
		r    layer.Request
		want unix.Errno
	}{
		{layer.Request{Op: layer.OpOpen, Path: dir + "/none"}, unix.ENOENT},
		{layer.Request{Op: layer.OpStat, Path: dir + "/small/x"}, unix.ENOTDIR},
		{layer.Request{Op: layer.OpAccess, Path: dir + "/none", Mode: unix.R_OK}, unix.ENOENT},
		{layer.Request{Op: 99}, unix.EPROTO},
	} {
		if reply, _ := c.call(tt.r); unix.Errno(reply.Errno) != tt.want || len(reply.Data) == 0 {
			t.Errorf("%+v: errno %v, words %q; want %v", tt.r, unix.Errno(reply.Errno), reply.Data, tt.want)
		}
	}
}

func TestConnectionsOfTheTarget(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	source, socket := boundSocket(t)
	reply, _ := c.call(layer.Request{Op: layer.OpConnect, Addr: l.Addr().(*net.TCPAddr).AddrPort(), Addr2: source})
	if reply.Errno != 0 || !reply.Addr.IsValid() || !reply.Addr2.IsValid() {
		t.Fatalf("connect: %+v: %s", reply, reply.Data)
	}
	if err := unix.Connect(socket, &unix.SockaddrInet4{Addr: reply.Addr.Addr().As4(), Port: int(reply.Addr.Port())}); err != nil {
		t.Fatal(err)
	}
	far, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	if far.RemoteAddr().String() != reply.Addr2.String() {
		t.Errorf("the far side sees %v, the debuggee is told %v", far.RemoteAddr(), reply.Addr2)
	}
	io.WriteString(far, "hello")
	buf := make([]byte, 5)
	if _, err := unix.Read(socket, buf); err != nil || string(buf) != "hello" {
		t.Errorf("read %q, %v", buf, err)
	}

	closed, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed.Close()
	reply, _ = c.call(layer.Request{Op: layer.OpConnect, Addr: closed.Addr().(*net.TCPAddr).AddrPort(), Addr2: netip.MustParseAddrPort("127.0.0.9:9")})
	if unix.Errno(reply.Errno) != unix.ECONNREFUSED {
		t.Errorf("refused connection: errno %v", unix.Errno(reply.Errno))
	}

	// The session's end resets what is open, as the launcher's end does.
	if err := m.Stop(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	far.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := far.Read(buf); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("after the session's end: %v", err)
	}
	if list := m.List(); len(list) != 0 {
		t.Errorf("sessions left: %v", list)
	}
}

// boundSocket is a TCP socket with a loopback source, as the layer makes it.
func boundSocket(t *testing.T) (netip.AddrPort, int) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 8, 7, 6}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	a := sa.(*unix.SockaddrInet4)
	return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), fd
}

func TestSessionLivesWithItsLaunchers(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	m.Release(s.ID, false)
	if list := m.List(); len(list) != 1 || list[0].Launchers != 1 {
		t.Fatalf("after its starter's end: %+v", list)
	}
	own, err := m.session(s.ID)
	if err != nil {
		t.Fatal(err)
	}
	c.conn.Close()
	<-own.ctx.Done()
	if list := m.List(); len(list) > 0 {
		t.Errorf("after its launcher's end: %+v", list)
	}
	if _, err := m.Launch(t.Context(), s.ID); err == nil || !strings.Contains(fmt.Sprint(err), s.ID) {
		t.Errorf("Launch of an ended session = %v", err)
	}
}

// An answer that may be kept is followed by a notice when it is no longer true.
func TestLeasesOfTheTarget(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	var lease protocol.Lease
	for lease.ID == 0 { // until the agent has heard that the daemon watches
		reply, _ := c.call(layer.Request{Op: layer.OpStat, Path: path})
		if reply.Errno != 0 {
			t.Fatalf("%s", reply.Data)
		}
		lease = reply.Lease
	}
	none, _ := c.call(layer.Request{Op: layer.OpOpen, Path: path + ".none"})
	if unix.Errno(none.Errno) != unix.ENOENT || none.Lease.ID == 0 {
		t.Errorf("a file that is not there: %+v", none)
	}
	if err := os.WriteFile(path, []byte("newer"), 0o644); err != nil {
		t.Fatal(err)
	}
	notice, _ := c.read(0)
	if notice.Flags&layer.ReplyExpired == 0 || notice.Lease.Seq <= lease.Seq || binary.LittleEndian.Uint64(notice.Data) != lease.ID {
		t.Errorf("%+v after lease %+v", notice, lease)
	}
}

// While the daemon cannot hear of leases no answer is kept, and none from before.
func TestLeasesNeedTheLink(t *testing.T) {
	n := linktest.New(t, agentAddress(t))
	_, c := startWith(t, manager(t), n.Addr())
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	leased := func() (lease protocol.Lease) {
		for lease.ID == 0 {
			reply, _ := c.call(layer.Request{Op: layer.OpStat, Path: path})
			lease = reply.Lease
		}
		return lease
	}
	leased()
	n.Set(linktest.Refuses, link.Control)
	notice, _ := c.read(0)
	if notice.Flags&layer.ReplyExpired == 0 || notice.Lease.Seq != noLeases || len(notice.Data) > 0 {
		t.Errorf("without a link: %+v", notice)
	}
	n.Set(linktest.Works, link.Control)
	notice, _ = c.read(0)
	if notice.Flags&layer.ReplyExpired == 0 || len(notice.Data) > 0 {
		t.Errorf("with a link again: %+v", notice)
	}
	if lease := leased(); lease.Seq < notice.Lease.Seq {
		t.Errorf("lease %+v is not to be kept after %+v", lease, notice)
	}
}

// What a daemon's end took away comes back under its id, once, however many ask.
func TestStartAgain(t *testing.T) {
	m := manager(t)
	first, err := m.Start(t.Context(), ide.SessionStartParams{
		Client:    ide.Client{Dir: t.TempDir(), Env: []string{"A=b"}},
		Overrides: ide.Overrides{Agent: agentAddress(t)},
		Progress:  "7",
	}, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	launch, err := m.Launch(t.Context(), first.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := launch.Start
	if p.ID != first.ID || p.Started != first.Started || p.Progress != "" || len(p.Client.Env) != 1 {
		t.Fatalf("it is started again by %+v", p)
	}
	if s, err := m.Start(t.Context(), p, func(string) {}); err != nil || s.ID != first.ID || s.Started != first.Started {
		t.Errorf("while it is there: %+v, %v", s, err)
	}
	m.Release(first.ID, false)
	if list := m.List(); len(list) != 1 {
		t.Errorf("one of two who started it is gone: %v", list)
	}
	m.Release(first.ID, false)
	if list := m.List(); len(list) != 0 {
		t.Errorf("both who started it are gone: %v", list)
	}

	p.Started = "2026-11-23T12:00:00Z"
	const racing = 4
	errs := make(chan error, racing)
	for range racing {
		go func() {
			s, err := m.Start(t.Context(), p, func(string) {})
			if err == nil && (s.ID != first.ID || s.Started != p.Started) {
				err = fmt.Errorf("it has become %q, started at %s", s.ID, s.Started)
			}
			errs <- err
		}()
	}
	for range racing {
		if err := <-errs; err != nil {
			t.Error(err)
		}
	}
	if list := m.List(); len(list) != 1 || list[0].ID != first.ID {
		t.Errorf("of racing starters there are %v", list)
	}
	for range racing - 1 {
		m.Release(first.ID, false)
	}
	if list := m.List(); len(list) != 1 {
		t.Errorf("all but one who started it are gone: %v", list)
	}
	m.hold(first.ID)
	m.Release(first.ID, true)
	if list := m.List(); len(list) != 0 {
		t.Errorf("who it was tied to is gone: %v", list)
	}
}

func TestBadSessionID(t *testing.T) {
	m := manager(t)
	for _, id := range []string{"x", "../../ab", "0123456", "012345678", "ABCDEF01", "0123456\n", strings.Repeat("a", 1<<20)} {
		_, err := m.Start(t.Context(), ide.SessionStartParams{ID: id, Overrides: ide.Overrides{Agent: "127.0.0.1:1"}}, func(string) {})
		var e *ide.Error
		if !errors.As(err, &e) || e.Code != ide.CodeSession || len(e.Msg) > 200 {
			t.Errorf("%.20q: %v", id, err)
		}
	}
}

// The same pod is the target again, or preferred among those of its workload.
func TestAgainOnTheSamePod(t *testing.T) {
	p := ide.SessionStartParams{ID: "01234567", Overrides: ide.Overrides{Target: "deployment/web", Context: "c"}, Progress: "1"}
	pod := target{path: "pod/web-1/container/main", pod: "web-1", namespace: "shop", context: "current"}
	want := ide.SessionStartParams{ID: "01234567", Overrides: ide.Overrides{Target: "pod/web-1/container/main", Namespace: "shop", Context: "c"}}
	if diff := cmp.Diff(want, again(p, pod, nil)); diff != "" {
		t.Error(diff)
	}
	p.Overrides.Context, want.Overrides.Context = "", "current"
	if diff := cmp.Diff(want, again(p, pod, nil)); diff != "" {
		t.Error(diff)
	}
	want.Overrides.Target, want.Pod = "deployment/web/container/main", "web-1"
	of := &others{path: cluster.Path{Kind: "deployment", Name: "web", Container: "main"}}
	if diff := cmp.Diff(want, again(p, pod, of)); diff != "" {
		t.Error(diff)
	}
}

// A connect that does not block is answered in time, also where nobody answers.
func TestConnectThatWaits(t *testing.T) {
	m := manager(t)
	_, c := start(t, m)
	// The backlog is full: the kernel does not answer SYNs, as if it were far away.
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	far := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(sa.(*unix.SockaddrInet4).Port))
	filler, err := net.Dial("tcp4", far.String())
	if err != nil {
		t.Fatal(err)
	}
	defer filler.Close()

	source, socket := boundSocket(t)
	began := time.Now()
	reply, _ := c.call(layer.Request{Op: layer.OpConnect, Flags: layer.ConnectAsync, Addr: far, Addr2: source})
	if reply.Errno != 0 || reply.Flags&layer.ReplyPending == 0 {
		t.Fatalf("after %v: %+v: %s", time.Since(began), reply, reply.Data)
	}
	if err := unix.SetNonblock(socket, true); err != nil {
		t.Fatal(err)
	}
	if err := unix.Connect(socket, &unix.SockaddrInet4{Addr: reply.Addr.Addr().As4(), Port: int(reply.Addr.Port())}); err != unix.EINPROGRESS {
		t.Fatalf("connect = %v", err)
	}
	for range 2 { // the filler, then the debuggee's
		nfd, _, err := unix.Accept4(fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(nfd)
	}
	fds := []unix.PollFd{{Fd: int32(socket), Events: unix.POLLOUT}}
	for {
		if n, err := unix.Poll(fds, 60_000); err != unix.EINTR {
			if n != 1 || err != nil {
				t.Fatalf("poll = %d, %v", n, err)
			}
			break
		}
	}
	if no, err := unix.GetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_ERROR); no != 0 || err != nil {
		t.Errorf("SO_ERROR %v, %v", unix.Errno(no), err)
	}
}

// What a session that does not come to be had begun is undone (goleak sees it).
func TestStartWithoutEnvironment(t *testing.T) {
	m, s, _ := begin(t, "")
	l, err := m.Launch(t.Context(), s.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(l.Start.ConfigFile, []byte(`{"feature": {"env": {"env_file": "none/such"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	p := l.Start
	p.ID = ""
	if _, err := m.Start(t.Context(), p, func(string) {}); err == nil || !strings.Contains(err.Error(), "none/such") {
		t.Errorf("it starts: %v", err)
	}
	if list := m.List(); len(list) != 1 {
		t.Errorf("there are %+v", list)
	}
}

// What is said before there is a launcher is for the first one.
func TestWordsBeforeTheLauncher(t *testing.T) {
	m := manager(t)
	started := startSession(t, m, agentAddress(t))
	s := m.all()[0]
	s.mu.Lock()
	s.say("replica web keeps its own requests")
	s.mu.Unlock()
	c := attach(t, m, started.ID)
	for {
		r, _ := c.read(0)
		if r.Flags == 0 {
			if string(r.Data) != "replica web keeps its own requests" {
				t.Errorf("the launcher is told %q", r.Data)
			}
			break
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.unsaid) != 0 {
		t.Errorf("it is kept: %q", s.unsaid)
	}
}
