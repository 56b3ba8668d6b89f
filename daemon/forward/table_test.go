package forward

import (
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func TestTable(t *testing.T) {
	for text, want := range map[string]row{
		"   4: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0000000000000000 100 0 0 10 0": {
			netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("0.0.0.0:0"), stateListen, 4711},
		"  12: 0000000000000000FFFF00000100007F:1F90 00000000000000000000000001000000:0050 02 00000000:00000000 00:00000000 00000000 0 0 9 1": {
			netip.MustParseAddrPort("127.0.0.1:8080"), netip.MustParseAddrPort("[::1]:80"), stateSynSent, 9},
	} {
		if got, ok := parseRow([]byte(text)); !ok || got != want {
			t.Errorf("%q is %+v, %v", text, got, ok)
		}
	}
	for _, text := range []string{"", "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode", "1: 0100007F:1F90"} {
		if got, ok := parseRow([]byte(text)); ok {
			t.Errorf("%q is %+v", text, got)
		}
	}
}

func FuzzParseRow(f *testing.F) {
	f.Add([]byte("4: 0100007F:1F90 00000000:0000 0A 0:0 00:0 0 1000 0 4711"))
	f.Fuzz(func(t *testing.T, line []byte) {
		if r, ok := parseRow(line); ok && !r.local.IsValid() {
			t.Errorf("%q is %+v", line, r)
		}
	})
}

func inode(t testing.TB, fd int) uint64 {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

// listener makes a listening socket of the debuggee's.
func listener(t testing.TB, at string, shared bool) (*net.TCPListener, uint64) {
	t.Helper()
	var ino uint64
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return onSocket(c, func(fd int) error {
			ino = inode(t, fd)
			if shared {
				return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_REUSEPORT, 1)
			}
			return nil
		})
	}}
	lc.SetMultipathTCP(false)
	l, err := lc.Listen(t.Context(), "tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.(*net.TCPListener), ino
}

func TestListens(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, ino := listener(t, at, false)
		addr := l.Addr().(*net.TCPAddr).AddrPort()
		for _, tt := range []struct {
			inodes []uint64
			want   bool
		}{{[]uint64{ino}, true}, {[]uint64{1, ino}, true}, {[]uint64{1}, false}, {nil, false}} {
			if got := listens(addr, tt.inodes); got != tt.want {
				t.Errorf("listens(%v, %v) = %v", addr, tt.inodes, got)
			}
		}
		l.Close()
		if listens(addr, []uint64{ino}) {
			t.Errorf("%v listens though it is closed", addr)
		}
	}
}

// Each of several that share a port is one of its listeners.
func TestListensShared(t *testing.T) {
	l, first := listener(t, "127.0.0.1:0", true)
	_, second := listener(t, l.Addr().String(), true)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	for _, ino := range []uint64{first, second} {
		if !listens(addr, []uint64{ino}) {
			t.Errorf("%d does not listen at %v", ino, addr)
		}
	}
}

// A socket of IPv6 may listen at an IPv4 address.
func TestListensMapped(t *testing.T) {
	fd, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Skip(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrInet6{Addr: netip.MustParseAddr("::ffff:127.0.0.1").As16()}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 1); err != nil {
		t.Fatal(err)
	}
	sa, err := unix.Getsockname(fd)
	if err != nil {
		t.Fatal(err)
	}
	if addr := unmap(addrPort(sa)); !listens(addr, []uint64{inode(t, fd)}) {
		t.Errorf("nobody listens at %v", addr)
	}
}

func BenchmarkListens(b *testing.B) {
	l, ino := listener(b, "127.0.0.1:0", false)
	addr := l.Addr().(*net.TCPAddr).AddrPort()
	for _, conns := range []int{0, 2000} {
		for range conns {
			c, err := net.Dial("tcp4", addr.String())
			if err != nil {
				b.Fatal(err)
			}
			defer c.Close()
		}
		b.Run(fmt.Sprint(conns, " connections"), func(b *testing.B) {
			for b.Loop() {
				if !listens(addr, []uint64{ino}) {
					b.Fatal("it does not listen")
				}
			}
		})
	}
}
