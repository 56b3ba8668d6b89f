package incoming

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// What passes to the pod's container comes from its client's address: of a port
// that somebody steals by a filter, and of one whose holder takes nothing.
func TestPassedFromClient(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0, 1)
	for i := range 2 * len(redirects) {
		way, strict := redirects[i%len(redirects)], i >= len(redirects)
		t.Run(fmt.Sprintf("%s, mistrusted: %t", way.name, strict), func(t *testing.T) {
			if strict {
				mistrust(t)
			}
			before := tables(t)
			t.Cleanup(func() { // after in's end
				if after := tables(t); !slices.Equal(after, before) {
					t.Errorf("before the agent there were %q, after it %q", before, after)
				}
			})
			in := newBy(t, way.name)
			port := named(t, "pod", ":0").Port()
			alices := relayedTo(t, named(t, "alice", "127.0.0.1:0").String())
			for _, q := range []protocol.Steal{{Port: port}, {Port: port, Filter: user("alice")}} {
				client := alices
				if q.Filter == nil {
					client = holder(refusing)
				}
				s := steal(t, in, q, client)
				for family, pod := range podAddrs {
					at := netip.AddrPortFrom(pod.Addr(), port).String()
					var wg sync.WaitGroup
					for range 4 { // clients
						wg.Go(func() {
							for range 25 {
								got := answerTo(t, func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at) }, "bob")
								who, from, _ := strings.Cut(got, " ")
								if a, err := netip.ParseAddrPort(from); who != "pod" || err != nil || a.Addr() != neighbourAddrs[family].Addr() {
									t.Errorf("%s %v: answered by %s", at, q.Filter, got)
								}
							}
						})
					}
					wg.Wait()
					if q.Filter != nil {
						got := answerTo(t, func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at) }, "alice")
						if !strings.HasPrefix(got, "alice") {
							t.Errorf("%s: alice's request was answered by %s", at, got)
						}
					}
				}
				s.Release()
			}
		})
	}
}

// tables are those of nftables in the namespace.
func tables(t *testing.T) (names []string) {
	t.Helper()
	all, err := new(nftables.Conn).ListTables()
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range all {
		names = append(names, n.Name)
	}
	return names
}

// mistrust has the namespace track connections, and drop packets that belong to none,
// or come from where it would not send an answer.
func mistrust(t *testing.T) {
	t.Helper()
	const name = "/proc/sys/net/ipv4/conf/all/rp_filter" // lo's and pod's own count where they are greater
	before, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(name, before, 0o644) })
	if err := os.WriteFile(name, []byte("1"), 0o644); err != nil {
		t.Fatal(err)
	}
	c := new(nftables.Conn)
	table := c.AddTable(&nftables.Table{Name: "mistrust", Family: nftables.TableFamilyINet})
	t.Cleanup(func() {
		c.DelTable(table)
		if err := c.Flush(); err != nil {
			t.Error(err)
		}
	})
	invalid := []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
	for name, hook := range map[string]*nftables.ChainHook{"pre": nftables.ChainHookPrerouting, "in": nftables.ChainHookInput, "out": nftables.ChainHookOutput, "post": nftables.ChainHookPostrouting} {
		chain := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeFilter, Hooknum: hook, Priority: nftables.ChainPriorityFilter})
		c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: append(invalid, &expr.Verdict{Kind: expr.VerdictDrop})})
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
}

// A connection that its client has from just a port that we would have is left
// alone: those that were there before, one that we have taken, and a later one.
func TestPassedFromSamePort(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0)
	in := newTest(t)
	port := echo(t)
	at := netip.AddrPortFrom(podAddrs[0].Addr(), port)
	from := func(port uint16) *net.TCPConn {
		t.Helper()
		var c net.Conn
		var err error
		apart(func() {
			if err = setNamespace(out); err == nil {
				d := net.Dialer{LocalAddr: &net.TCPAddr{Port: int(port)}, Timeout: 30 * time.Second}
				c, err = d.Dial("tcp", at.String())
			}
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		_ = c.SetDeadline(time.Now().Add(30 * time.Second))
		return c.(*net.TCPConn)
	}
	says := func(c net.Conn) {
		t.Helper()
		if _, err := io.WriteString(c, "words"); err != nil {
			t.Fatal(err)
		}
		b := make([]byte, 5)
		if _, err := io.ReadFull(c, b); err != nil || string(b) != "words" {
			t.Fatalf("%q, %v", b, err)
		}
	}
	before := []*net.TCPConn{from(firstGuise), from(firstGuise + 2)} // of which we know nothing
	steal(t, in, protocol.Steal{Port: port}, holder(refusing))
	taken := from(firstGuise + 1) // by us, for the pod
	says(taken)
	r := in.guises[0].replies.Load()
	r.mu.Lock()
	ready := r.guests[guest{neighbourAddrs[0].Addr(), port}].ready[0]
	r.mu.Unlock()
	for _, c := range append(before, taken, from(ready)) {
		says(c)
	}
}
