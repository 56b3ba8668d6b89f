package main

import (
	"net"
	"net/netip"
	"os"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming"
	"mirrord/protocol"
)

const serviceIP = "10.96.0.10"

// serve makes a service of the pod, by rules in its node's namespace as those of
// kube-proxy's mode iptables: a destination of the service is the pod's, and where
// the pod asks itself by the service, it is asked by the node.
func (p *pod) serve(t *testing.T) {
	t.Helper()
	node, err := netlink.LinkByName("node0")
	if err != nil {
		t.Fatal(err)
	}
	toService := &net.IPNet{IP: net.ParseIP("10.96.0.0"), Mask: net.CIDRMask(16, 32)}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: node.Attrs().Index, Dst: toService}); err != nil {
		t.Fatal(err)
	}
	inside, err := netlink.NewHandleAt(p.network)
	if err != nil {
		t.Fatal(err)
	}
	defer inside.Close()
	if err := inside.RouteAdd(&netlink.Route{Dst: toService, Gw: net.ParseIP(nodeV4)}); err != nil {
		t.Fatal(err)
	}
	const forward = "/proc/sys/net/ipv4/ip_forward"
	was, err := os.ReadFile(forward)
	if err == nil {
		err = os.WriteFile(forward, []byte("1"), 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.WriteFile(forward, was, 0) })

	c := new(nftables.Conn)
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "services"})
	t.Cleanup(func() {
		c.DelTable(table)
		_ = c.Flush()
	})
	chain := func(name string, hook *nftables.ChainHook, priority *nftables.ChainPriority, rules ...[]expr.Any) {
		ch := c.AddChain(&nftables.Chain{Name: name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: priority})
		for _, r := range rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: r})
		}
	}
	lead := rule(address(16, expr.CmpOpEq, serviceIP), tcp(), []expr.Any{
		&expr.Immediate{Register: 1, Data: netip.MustParseAddr(podV4).AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: unix.NFPROTO_IPV4, RegAddrMin: 1},
	})
	chain("in", nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, lead)
	chain("own", nftables.ChainHookOutput, nftables.ChainPriorityNATDest, lead)
	chain("after", nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource,
		rule(address(12, expr.CmpOpEq, podV4), address(16, expr.CmpOpEq, podV4), []expr.Any{&expr.Masq{}}))
	if err := c.Flush(); err != nil {
		t.Fatalf("the service's rules: %v", err)
	}
}

// Who asks for a service has its pod's debuggee as he had the pod, which may be
// himself. The test cluster's kube-proxy has mode nftables.
func TestServiceByIptables(t *testing.T) {
	for _, redirect := range []string{incoming.SkLookup, incoming.TPROXY, incoming.REDIRECT} {
		t.Run(redirect, func(t *testing.T) {
			p := newPod(t)
			p.serve(t)
			client, _ := agenttest.New(t, startFor(t, p, "--redirect", redirect).addr)
			for _, inside := range []bool{false, true} {
				p.dial(t, inside, serviceIP).hearsPod()
				steal := client.Steal(podPort)
				k := p.dial(t, inside, serviceIP)
				stream, in := client.Offered()
				if in.Client.Addr().String() != nodeV4 || in.Local.Addr().String() != podV4 {
					t.Errorf("offered %+v", in)
				}
				relayed(t, stream)
				k.says("hello")
				k.hears("debuggee heard hello")

				k = p.dial(t, inside, serviceIP)
				stream, _ = client.Offered()
				if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
					t.Fatal(err)
				}
				k.hearsPod()
				release(t, steal)
				p.dial(t, inside, serviceIP).hearsPod()
			}
		})
	}
}
