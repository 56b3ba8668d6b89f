package outgoing

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

func TestMain(m *testing.M) { agenttest.Main(m) }

// serve starts to serve a stream, whose client's end it returns.
func serve[Q any](t *testing.T, do func(context.Context, net.Conn, Q) error, q Q) (client net.Conn, done <-chan error) {
	t.Helper()
	client, ours := net.Pipe()
	ended := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		ended <- do(ctx, ours, q)
		ours.Close()
	}()
	t.Cleanup(func() {
		client.Close()
		cancel()
	})
	return client, ended
}

// void makes a network behind addr in which nobody answers.
func void(t *testing.T, addr string) {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "void"}, PeerName: "nobody"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("making veth: %v", err)
	}
	t.Cleanup(func() { _ = netlink.LinkDel(veth) })
	nobody, err := netlink.LinkByName("nobody")
	if err != nil {
		t.Fatal(err)
	}
	a, err := netlink.ParseAddr(addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.LinkSetARPOff(veth), netlink.AddrAdd(veth, a), netlink.LinkSetUp(veth), netlink.LinkSetUp(nobody)); err != nil {
		t.Fatal(err)
	}
}

// The kernel's own refusals arrive as such.
func TestConnectErrno(t *testing.T) {
	agenttest.Namespace(t)
	route := func(kind int, dst string) {
		t.Helper()
		n, err := netlink.ParseIPNet(dst)
		if err != nil {
			t.Fatal(err)
		}
		r := &netlink.Route{Dst: n, Type: kind}
		if err := netlink.RouteAdd(r); err != nil {
			t.Fatalf("adding route to %s: %v", dst, err)
		}
		t.Cleanup(func() { _ = netlink.RouteDel(r) })
	}
	route(unix.RTN_UNREACHABLE, "10.1.0.0/16")
	route(unix.RTN_PROHIBIT, "10.2.0.0/16")
	void(t, "10.3.0.1/16")
	// The shortest that the kernel may try for.
	if err := os.WriteFile("/proc/sys/net/ipv4/tcp_syn_retries", []byte("1"), 0); err != nil {
		t.Fatal(err)
	}
	_ = os.WriteFile("/proc/sys/net/ipv4/tcp_syn_linear_timeouts", []byte("0"), 0)
	for addr, want := range map[string]unix.Errno{
		"127.0.0.1:1":      unix.ECONNREFUSED,
		"[::1]:1":          unix.ECONNREFUSED,
		"192.0.2.1:80":     unix.ENETUNREACH,
		"[2001:db8::1]:80": unix.ENETUNREACH,
		"10.1.0.1:80":      unix.EHOSTUNREACH,
		"10.2.0.1:80":      unix.EACCES,
		"10.3.0.2:80":      unix.ETIMEDOUT,
	} {
		client, done := serve(t, Connect, protocol.Connect{Addr: netip.MustParseAddrPort(addr)})
		_, err := protocol.ReadAnswer(client, protocol.KindConnect, new(protocol.ConnectReply))
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
		if err := <-done; err != nil {
			t.Errorf("%s: handler: %v", addr, err)
		}
	}
}

// Who ends the stream while the connection is being made ends the attempt.
func TestConnectGivenUp(t *testing.T) {
	agenttest.Namespace(t)
	void(t, "10.4.0.1/16")
	client, done := serve(t, Connect, protocol.Connect{Addr: netip.MustParseAddrPort("10.4.0.2:80")})
	client.Close()
	select {
	case <-done:
	case <-time.After(900 * time.Millisecond): // less than the first retry
		t.Fatal("still connecting")
	}
}

// Bytes sent before the answer are not lost to the watching of the stream.
func TestConnectEarlyBytes(t *testing.T) {
	agenttest.Namespace(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client, done := serve(t, Connect, protocol.Connect{Addr: l.Addr().(*net.TCPAddr).AddrPort()})
	go func() {
		_ = protocol.WriteDatagram(client, []byte("early"))
		_ = protocol.WriteDatagram(client, nil)
	}()
	var reply protocol.ConnectReply
	if _, err := protocol.ReadAnswer(client, protocol.KindConnect, &reply); err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	if c.RemoteAddr().String() != reply.Local.String() {
		t.Errorf("came from %v, not %v", c.RemoteAddr(), reply.Local)
	}
	var got bytes.Buffer
	if _, err := got.ReadFrom(c); err != nil || got.String() != "early" {
		t.Errorf("got %q, %v", got.String(), err)
	}
	c.Close()
	if n, err := protocol.NewChunked(client).Read(make([]byte, 1)); n != 0 || err != io.EOF {
		t.Errorf("read %d, %v", n, err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestDatagram(t *testing.T) {
	agenttest.Namespace(t)
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	client, done := serve(t, Datagram, protocol.Datagram{Addr: server.LocalAddr().(*net.UDPAddr).AddrPort()})
	if _, err := protocol.ReadAnswer(client, protocol.KindDatagram, new(protocol.DatagramReply)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, protocol.MaxDatagram)
	for _, size := range []int{1, 0, 512, 65507} {
		sent := bytes.Repeat([]byte("d"), size)
		if err := protocol.WriteDatagram(client, sent); err != nil {
			t.Fatal(err)
		}
		n, from, err := server.ReadFrom(buf)
		if err != nil || n != size {
			t.Fatalf("server got %d of %d, %v", n, size, err)
		}
		if _, err := server.WriteTo(buf[:n], from); err != nil {
			t.Fatal(err)
		}
		if n, err := protocol.ReadDatagram(client, buf); err != nil || n != size {
			t.Fatalf("client got %d of %d, %v", n, size, err)
		}
	}
	client.Close()
	if err := <-done; err != nil && !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
}

// An address that refuses ends the stream; so does silence.
func TestDatagramEnds(t *testing.T) {
	agenttest.Namespace(t)
	client, done := serve(t, Datagram, protocol.Datagram{Addr: netip.MustParseAddrPort("127.0.0.1:9")})
	if _, err := protocol.ReadAnswer(client, protocol.KindDatagram, new(protocol.DatagramReply)); err != nil {
		t.Fatal(err)
	}
	if err := protocol.WriteDatagram(client, []byte("anybody?")); err != nil {
		t.Fatal(err)
	}
	if _, err := protocol.ReadDatagram(client, make([]byte, protocol.MaxDatagram)); err == nil {
		t.Error("refused address answered")
	}
	if err := <-done; !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("refused: %v", err)
	}

	soon := func(ctx context.Context, s net.Conn, q protocol.Datagram) error {
		return datagram(ctx, s, q, time.Millisecond)
	}
	client, done = serve(t, soon, protocol.Datagram{Addr: netip.MustParseAddrPort("127.0.0.1:9")})
	if _, err := protocol.ReadAnswer(client, protocol.KindDatagram, new(protocol.DatagramReply)); err != nil {
		t.Fatal(err)
	}
	<-done
}
