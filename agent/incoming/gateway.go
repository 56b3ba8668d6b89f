package incoming

import (
	"bufio"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"os"
	"strings"
)

// gateways lists the addresses that the namespace's default routes go to. It
// lists none where one is link-local: such gateways (Calico's, AWS's) are no
// address of the node, and probes come from elsewhere.
func gateways() ([]netip.Addr, error) {
	var all []netip.Addr
	for name, parse := range map[string]func([]string) (netip.Addr, bool){
		"route":      defaultV4,
		"ipv6_route": defaultV6,
	} {
		f, err := os.Open("/proc/thread-self/net/" + name)
		if os.IsNotExist(err) {
			continue // no IPv6
		}
		if err != nil {
			return nil, fmt.Errorf("reading routes: %w", err)
		}
		list, err := parseRoutes(f, parse)
		f.Close()
		if err != nil {
			return nil, fmt.Errorf("reading routes of %s: %w", name, err)
		}
		all = append(all, list...)
	}
	for _, a := range all {
		if a.IsLinkLocalUnicast() {
			return nil, nil
		}
	}
	return all, nil
}

func parseRoutes(r io.Reader, parse func([]string) (netip.Addr, bool)) ([]netip.Addr, error) {
	var list []netip.Addr
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if a, ok := parse(strings.Fields(lines.Text())); ok && !a.IsUnspecified() {
			list = append(list, a)
		}
	}
	return list, lines.Err()
}

// defaultV4 is the gateway of a line of net/route: interface, destination,
// gateway (hexadecimal, as the machine orders them), flags, three more, mask.
func defaultV4(f []string) (netip.Addr, bool) {
	if len(f) < 8 || f[1] != "00000000" || f[7] != "00000000" {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(f[2])
	if err != nil || len(b) != 4 {
		return netip.Addr{}, false
	}
	var a [4]byte
	binary.NativeEndian.PutUint32(a[:], binary.BigEndian.Uint32(b))
	return netip.AddrFrom4(a), true
}

// defaultV6 is the gateway of a line of net/ipv6_route: destination, its
// prefix's length, source, its prefix's length, gateway, all in hexadecimal.
func defaultV6(f []string) (netip.Addr, bool) {
	if len(f) < 5 || strings.Trim(f[0]+f[1], "0") != "" {
		return netip.Addr{}, false
	}
	b, err := hex.DecodeString(f[4])
	if err != nil {
		return netip.Addr{}, false
	}
	return netip.AddrFromSlice(b)
}
