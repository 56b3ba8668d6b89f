package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

var resolver = netip.MustParseAddrPort("10.96.0.10:53")

// debuggeeSocket is a debuggee's.
func debuggeeSocket(t *testing.T) (fd int, source netip.AddrPort) {
	t.Helper()
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(fd, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	return fd, addrPort(sa)
}

func socketInode(t *testing.T, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// udpConn connects a socket to an endpoint.
func udpConn(t *testing.T, fd int, to netip.AddrPort) net.Conn {
	t.Helper()
	if err := unix.Connect(fd, sockaddr(to)); err != nil {
		t.Fatal(err)
	}
	c, err := fileConn(fd)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(fd)
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(patience))
	return c
}

// datagrams makes a set that tells of each stream it opens.
func datagrams(t *testing.T) (*Datagrams, chan net.Conn) {
	t.Helper()
	opened := make(chan net.Conn, 10)
	d := NewDatagrams(quiet, func(_ context.Context, to netip.AddrPort, first []byte) (net.Conn, error) {
		if to != resolver {
			t.Errorf("dialled %v", to)
		}
		ours, theirs := streams(t)
		if err := protocol.WriteDatagram(ours, first); err != nil {
			return nil, err
		}
		opened <- theirs
		return ours, nil
	})
	t.Cleanup(d.Close)
	return d, opened
}

func TestDatagramsOfOneSourceShareAStream(t *testing.T) {
	d, opened := datagrams(t)
	fd, source := debuggeeSocket(t)
	at, err := d.Endpoint(resolver, source, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, _ := d.Endpoint(resolver, source, 0, nil); again != at {
		t.Errorf("one address has endpoints %v and %v", at, again)
	}
	c := udpConn(t, fd, at)
	var agent net.Conn
	buf := make([]byte, protocol.MaxDatagram)
	for _, word := range []string{"first", "second"} {
		io.WriteString(c, word)
		if agent == nil {
			agent = <-opened
		}
		n, err := protocol.ReadDatagram(agent, buf)
		if string(buf[:n]) != word || err != nil {
			t.Fatalf("agent got %q, %v", buf[:n], err)
		}
		protocol.WriteDatagram(agent, []byte("re: "+word))
		n, err = c.Read(buf)
		if string(buf[:n]) != "re: "+word || err != nil {
			t.Fatalf("debuggee got %q, %v", buf[:n], err)
		}
	}
	if len(opened) != 0 {
		t.Error("the second datagram opened another stream")
	}
}

// Who did not ask for an endpoint cannot use it, and who sends from no port of
// its own cannot ask.
func TestDatagramsOfStrangers(t *testing.T) {
	d, opened := datagrams(t)
	fd, source := debuggeeSocket(t)
	at, err := d.Endpoint(resolver, source, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	strangerFD, _ := debuggeeSocket(t)
	stranger := udpConn(t, strangerFD, at)
	c := udpConn(t, fd, at)
	io.WriteString(stranger, "stranger")
	io.WriteString(c, "friend") // comes later
	buf := make([]byte, protocol.MaxDatagram)
	if n, err := protocol.ReadDatagram(<-opened, buf); err != nil || string(buf[:n]) != "friend" {
		t.Errorf("the agent got %q, %v", buf[:n], err)
	}
	if len(opened) > 0 {
		t.Error("the stranger has a stream")
	}
	if at, err := d.Endpoint(resolver, netip.MustParseAddrPort("127.0.0.1:0"), 0, nil); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("an unbound socket: %v, %v", at, err)
	}
}

// A socket's end ends its stream; then its endpoint, too, is of no use.
func TestDatagramsOfAClosedSocket(t *testing.T) {
	d, opened := datagrams(t)
	fd, source := debuggeeSocket(t)
	at, err := d.Endpoint(resolver, source, 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := udpConn(t, fd, at)
	io.WriteString(c, "x")
	agent := <-opened
	sweep := func(idle time.Duration) {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.sweep()
		d.closeIdle(idle)
	}
	sweep(0)
	if again, err := d.Endpoint(resolver, source, 0, nil); err != nil || again != at {
		t.Fatalf("an endpoint in use is gone: %v, %v", again, err)
	}
	c.Close()
	sweep(endpointIdle)
	for err == nil { // to the end of the stream
		_, err = protocol.ReadDatagram(agent, make([]byte, protocol.MaxDatagram))
	}
	if !errors.Is(err, io.EOF) {
		t.Errorf("the agent's side: %v", err)
	}
	if len(d.endpoints) != 1 {
		t.Error("the endpoint is gone before its time")
	}
	sweep(0)
	if len(d.endpoints) != 0 {
		t.Error("the endpoint is still there")
	}
}

// A new socket at an old one's address does not get the old one's answers.
func TestDatagramsOfAnotherSocket(t *testing.T) {
	d, opened := datagrams(t)
	fd, source := debuggeeSocket(t)
	at, err := d.Endpoint(resolver, source, 1, nil)
	if err != nil {
		t.Fatal(err)
	}
	c := udpConn(t, fd, at)
	io.WriteString(c, "x")
	<-opened
	if _, err := d.Endpoint(resolver, source, 2, nil); err != nil {
		t.Fatal(err)
	}
	io.WriteString(c, "y")
	buf := make([]byte, protocol.MaxDatagram)
	if n, err := protocol.ReadDatagram(<-opened, buf); err != nil || string(buf[:n]) != "y" {
		t.Errorf("the second stream got %q, %v", buf[:n], err)
	}
}

func TestDatagramLimits(t *testing.T) {
	d, _ := datagrams(t)
	fd, source := debuggeeSocket(t)
	defer unix.Close(fd)
	gone, old := debuggeeSocket(t)
	inode := socketInode(t, gone)
	unix.Close(gone) // its port may be another's at once
	to := func(i int) netip.AddrPort { return netip.AddrPortFrom(resolver.Addr(), uint16(1000+i)) }
	for i := range maxEndpoints {
		var err error
		if i == 0 {
			_, err = d.Endpoint(to(i), old, inode, nil)
		} else {
			_, err = d.Endpoint(to(i), source, 0, nil)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, err := d.Endpoint(to(maxEndpoints), source, 0, nil); err != nil {
		t.Errorf("in the place of an endpoint that nobody uses: %v", err)
	}
	if _, err := d.Endpoint(to(maxEndpoints+1), source, 0, nil); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("an endpoint too many: %v", err)
	}
	e := d.endpoints[endpointKey{dst: to(1)}]
	for i := range maxSources {
		e.admit(netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 1, byte(i >> 8), byte(i)}), 1), 0, nil)
	}
	d.swept = time.Now()
	if _, err := d.Endpoint(to(1), netip.MustParseAddrPort("127.0.0.3:3"), 0, nil); !errors.Is(err, syscall.ENOBUFS) {
		t.Errorf("a source too many: %v", err)
	}
	d.swept = time.Time{}
	if _, err := d.Endpoint(to(1), netip.MustParseAddrPort("127.0.0.3:3"), 0, nil); err != nil {
		t.Errorf("in the place of a source that is gone: %v", err)
	}
}
