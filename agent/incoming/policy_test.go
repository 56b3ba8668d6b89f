package incoming

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// Who may not come to the pod may not come to the debuggee either. After REDIRECT a rule
// of the namespace itself does not know the port any more; those of a NetworkPolicy are
// outside of it.
func TestPolicy(t *testing.T) {
	agenttest.Namespace(t)
	out := newNeighbour(t, 0)
	for _, way := range redirects {
		if way.name == REDIRECT {
			continue
		}
		t.Run(way.name, func(t *testing.T) {
			in := newBy(t, way.name)
			port := named(t, "pod", ":0").Port()
			at := netip.AddrPortFrom(podAddrs[0].Addr(), port)
			steal(t, in, protocol.Steal{Port: port}, relayedTo(t, named(t, "alice", "127.0.0.1:0").String()))
			c := new(nftables.Conn)
			table := c.AddTable(&nftables.Table{Name: "policy", Family: nftables.TableFamilyINet})
			chain := c.AddChain(&nftables.Chain{Name: "in", Table: table, Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookInput, Priority: nftables.ChainPriorityFilter})
			c.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: []expr.Any{
				&expr.Meta{Key: expr.MetaKeyNFPROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.NFPROTO_IPV4}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: neighbourAddrs[0].Addr().AsSlice()},
				&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_TCP}},
				&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
				&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)},
				&expr.Reject{Type: unix.NFT_REJECT_TCP_RST},
			}})
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			_, err := out.Dial(t.Context(), at.String())
			if !errors.Is(err, unix.ECONNREFUSED) {
				t.Errorf("with a rule against it: %v", err)
			}
			c.DelTable(table)
			if err := c.Flush(); err != nil {
				t.Fatal(err)
			}
			got := answerTo(t, func(ctx context.Context) (net.Conn, error) { return out.Dial(ctx, at.String()) }, "alice")
			if !strings.HasPrefix(got, "alice") {
				t.Errorf("without it: answered by %s", got)
			}
		})
	}
}
