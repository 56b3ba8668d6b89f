package node

import (
	"fmt"
	"net"
	"os"

	"github.com/vishvananda/netlink"
)

// network gives the node an address and no way out: a pod that calls anything
// but the cluster is told at once that it is unreachable.
func network() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding the loopback link: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("setting the loopback link up: %w", err)
	}
	// A bridge without ports: a dummy link would do, but fewer kernels have one.
	eth0 := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}}
	if err := netlink.LinkAdd(eth0); err != nil {
		return fmt.Errorf("adding the link eth0: %w", err)
	}
	addr, err := netlink.ParseAddr(addressNet)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", addressNet, err)
	}
	if err := netlink.AddrAdd(eth0, addr); err != nil {
		return fmt.Errorf("adding the address %s: %w", addressNet, err)
	}
	if err := netlink.LinkSetUp(eth0); err != nil {
		return fmt.Errorf("setting eth0 up: %w", err)
	}
	// A Service's address needs some route before kube-proxy's rules see the packet.
	_, dst, err := net.ParseCIDR(services)
	if err != nil {
		return fmt.Errorf("parsing %s: %w", services, err)
	}
	if err := netlink.RouteAdd(&netlink.Route{LinkIndex: eth0.Index, Dst: dst}); err != nil {
		return fmt.Errorf("adding a route to %s: %w", services, err)
	}
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_forward", []byte("1"), 0); err != nil {
		return fmt.Errorf("letting pods reach each other: %w", err)
	}
	return nil
}
