package incoming

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// A mesh has a pod's connections go through a sidecar that is a process of the
// pod: those that come arrive on one port of its, those that go on another.
type mesh struct {
	uid               int
	inbound, outbound uint16
	sources           [2]string // of the sidecar's connections to the container; "": any
	// rules are of outgoing packets: to each an action, 0 to leave them as they
	// are, or a port of the sidecar.
	rules func(m *mesh) []meshRule
}

type meshRule struct {
	match []expr.Any
	to    uint16
}

var meshes = map[string]*mesh{
	"Istio": {uid: 1337, inbound: 15006, outbound: 15001, sources: [2]string{"127.0.0.6", "::6"}, rules: func(m *mesh) []meshRule {
		var rules []meshRule
		for _, source := range m.sources {
			rules = append(rules, meshRule{append(fromAddr(source), viaLoopback()...), 0})
		}
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			rules = append(rules, meshRule{append(append(toAddr(expr.CmpOpNeq, loopback), viaLoopback()...), ofUser(expr.CmpOpEq, m.uid)...), m.inbound})
		}
		rules = append(rules,
			meshRule{append(viaLoopback(), ofUser(expr.CmpOpNeq, m.uid)...), 0},
			meshRule{ofUser(expr.CmpOpEq, m.uid), 0})
		for _, loopback := range []string{"127.0.0.1", "::1"} {
			rules = append(rules, meshRule{toAddr(expr.CmpOpEq, loopback), 0})
		}
		return append(rules, meshRule{nil, m.outbound})
	}},
	"Linkerd": {uid: 2102, inbound: 4143, outbound: 4140, rules: func(m *mesh) []meshRule {
		return []meshRule{{ofUser(expr.CmpOpEq, m.uid), 0}, {viaLoopback(), 0}, {nil, m.outbound}}
	}},
}

func viaLoopback() []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(1)},
	}
}

func ofUser(op expr.CmpOp, uid int) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeySKUID, Register: 1},
		&expr.Cmp{Op: op, Register: 1, Data: binaryutil.NativeEndian.PutUint32(uint32(uid))},
	}
}

func fromAddr(a string) []expr.Any              { return withAddr(expr.CmpOpEq, a, 12, 8) }
func toAddr(op expr.CmpOp, a string) []expr.Any { return withAddr(op, a, 16, 24) }

// withAddr matches an address at its place in a header of IPv4 or IPv6.
func withAddr(op expr.CmpOp, a string, at4, at6 uint32) []expr.Any {
	addr := netip.MustParseAddr(a)
	family, at := byte(unix.NFPROTO_IPV4), at4
	if addr.Is6() {
		family, at = unix.NFPROTO_IPV6, at6
	}
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1}, &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{family}},
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: at, Len: uint32(addr.BitLen() / 8)},
		&expr.Cmp{Op: op, Register: 1, Data: addr.AsSlice()},
	}
}

// apply makes the mesh's rules, until the test ends.
func (m *mesh) apply(t *testing.T) {
	t.Helper()
	c := new(nftables.Conn)
	table := c.AddTable(&nftables.Table{Name: "mesh", Family: nftables.TableFamilyINet})
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	chain := func(name string, hook *nftables.ChainHook, rules ...meshRule) {
		made := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: nftables.ChainPriorityNATDest})
		for _, r := range rules {
			all := []expr.Any{
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
			}
			all = append(all, r.match...)
			if r.to == 0 {
				all = append(all, &expr.Verdict{Kind: expr.VerdictReturn})
			} else {
				all = append(all, &expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, r.to)}, &expr.Redir{RegisterProtoMin: 1})
			}
			c.AddRule(&nftables.Rule{Table: table, Chain: made, Exprs: all})
		}
	}
	lo := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIF, Register: 1},
		&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(1)},
	}
	chain("in", nftables.ChainHookPrerouting, meshRule{lo, 0}, meshRule{nil, m.inbound})
	chain("out", nftables.ChainHookOutput, m.rules(m)...)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A sidecar is the mesh's process in the pod. Between pods it speaks veiled, as
// by TLS, with the container plainly.
type sidecar struct {
	*mesh
	came, went atomic.Int64 // connections
	wg         sync.WaitGroup
}

func (m *mesh) start(t *testing.T) *sidecar {
	t.Helper()
	s := &sidecar{mesh: m}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(s.wg.Wait)
	t.Cleanup(cancel)
	for _, network := range []string{"tcp4", "tcp6"} {
		for port, count := range map[uint16]*atomic.Int64{m.inbound: &s.came, m.outbound: &s.went} {
			l, err := net.Listen(network, fmt.Sprintf(":%d", port))
			if err != nil {
				t.Fatal(err)
			}
			context.AfterFunc(ctx, func() { l.Close() })
			s.wg.Go(func() {
				for {
					c, err := l.Accept()
					if err != nil {
						return
					}
					count.Add(1)
					s.wg.Go(func() { s.relay(ctx, t, c.(*net.TCPConn), port == m.inbound) })
				}
			})
		}
	}
	return s
}

// relay takes a connection to where it was meant to go.
func (s *sidecar) relay(ctx context.Context, t *testing.T, c *net.TCPConn, comes bool) {
	defer c.Close()
	to, err := originalOf(c)
	if err != nil {
		t.Errorf("sidecar: %v", err)
		return
	}
	var d net.Dialer
	if source := s.sources[0]; comes && source != "" {
		if to.Addr().Is6() {
			source = s.sources[1]
		}
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(source)}
	}
	var next net.Conn
	if failed := asUser(s.uid, func() { next, err = d.DialContext(ctx, "tcp", to.String()) }); failed != nil || err != nil {
		t.Errorf("sidecar: %v, %v", failed, err)
		return
	}
	defer next.Close()
	var outer, inner half = veiled{c}, next.(*net.TCPConn)
	if !comes {
		outer, inner = c, veiled{next.(*net.TCPConn)}
	}
	defer context.AfterFunc(ctx, func() {
		c.Close()
		next.Close()
	})()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, _ = io.Copy(inner, outer)
		_ = inner.CloseWrite()
	})
	_, _ = io.Copy(outer, inner)
	_ = outer.CloseWrite()
	wg.Wait()
}

type half interface {
	net.Conn
	CloseWrite() error
}

// veiled is a connection whose bytes nobody reads who does not know how.
type veiled struct{ c *net.TCPConn }

func veil(b []byte) []byte {
	out := bytes.Clone(b)
	for i := range out {
		out[i] ^= 0xa5
	}
	return out
}

func (v veiled) Read(b []byte) (int, error) {
	n, err := v.c.Read(b)
	copy(b, veil(b[:n]))
	return n, err
}

func (v veiled) Write(b []byte) (int, error)        { return v.c.Write(veil(b)) }
func (v veiled) Close() error                       { return v.c.Close() }
func (v veiled) CloseWrite() error                  { return v.c.CloseWrite() }
func (v veiled) LocalAddr() net.Addr                { return v.c.LocalAddr() }
func (v veiled) RemoteAddr() net.Addr               { return v.c.RemoteAddr() }
func (v veiled) SetDeadline(t time.Time) error      { return v.c.SetDeadline(t) }
func (v veiled) SetReadDeadline(t time.Time) error  { return v.c.SetReadDeadline(t) }
func (v veiled) SetWriteDeadline(t time.Time) error { return v.c.SetWriteDeadline(t) }

// named serves HTTP at an address of the pod, and says who asked and where.
func named(t *testing.T, name, addr string) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		fmt.Fprintf(w, "%s %s", name, r.RemoteAddr)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		srv.Close()
		<-done
	})
	return addrOf(l.Addr())
}

// In a mesh it is the sidecar's connections to the container that are stolen and
// mirrored, in plain words: not the veiled ones of its peers, nor are those that
// go to the container past the debuggee led through the sidecar again.
func TestMesh(t *testing.T) {
	agenttest.Namespace(t)
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	six := &netlink.Addr{IPNet: &net.IPNet{IP: net.ParseIP("::6"), Mask: net.CIDRMask(128, 128)}}
	if err := netlink.AddrAdd(lo, six); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.AddrDel(lo, six) })
	out := newNeighbour(t, 0, 1)
	for name, m := range meshes {
		for _, way := range redirects {
			t.Run(name+" "+way.name, func(t *testing.T) {
				in := newBy(t, way.name)
				m.apply(t)
				s := m.start(t)
				port := named(t, "pod", ":0").Port()
				for family, pod := range podAddrs {
					at := netip.AddrPortFrom(pod.Addr(), port)
					ask := func(user, want string) {
						t.Helper()
						before := s.came.Load()
						got := asked(t, func(ctx context.Context) (net.Conn, error) {
							c, err := out.Dial(ctx, at.String())
							if err != nil {
								return nil, err
							}
							return veiled{c.(*net.TCPConn)}, nil
						}, user)
						who, from, _ := strings.Cut(got, " ")
						if source := m.sources[family]; who != want || want == "pod" && source != "" && !strings.HasPrefix(strings.Trim(from, "["), source) {
							t.Errorf("%v: %q answered, not %s", at, got, want)
						}
						if n := s.came.Load() - before; n != 1 {
							t.Errorf("%v: the sidecar had %d connections", at, n)
						}
					}
					ask("alice", "pod")
					alices := relayedTo(t, named(t, "alice", "127.0.0.1:0").String())
					all := steal(t, in, protocol.Steal{Port: port}, alices)
					ask("alice", "alice")
					all.Release()
					nobodys := steal(t, in, protocol.Steal{Port: port}, holder(refusing))
					ask("alice", "pod")
					nobodys.Release()
					some := steal(t, in, protocol.Steal{Port: port, Filter: user("alice")}, alices)
					ask("alice", "alice")
					ask("bob", "pod")
					some.Release()

					copies := newRecorder(t)
					mirror := steal(t, in, protocol.Steal{Port: port, Mirror: true}, copies)
					for range 2 {
						ask("alice", "pod")
						if rec := copies.next(); !strings.HasPrefix(string(rec.bytes), "GET ") || rec.err != nil {
							t.Errorf("%v: a copy of %.20q, %v, from %v", at, rec.bytes, rec.err, rec.Client)
						}
					}
					mirror.Release()
					ask("alice", "pod")
				}
			})
		}
	}
}

// asked is what a request by a connection of its own is answered.
func asked(t *testing.T, dial func(context.Context) (net.Conn, error), user string) string {
	t.Helper()
	tr := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }}
	r, err := http.NewRequest("GET", "http://pod/", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("X-User", user)
	a, err := (&http.Client{Transport: tr, Timeout: 30 * time.Second}).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer a.Body.Close()
	b, err := io.ReadAll(a.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
