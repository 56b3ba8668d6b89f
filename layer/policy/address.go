package policy

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const dnsPort = 53

// A Proto is a transport.
type Proto uint8

const (
	TCP Proto = 1 << iota
	UDP
)

// A destination is one entry of outgoing.filter.local.
type destination struct {
	protos Proto
	prefix netip.Prefix // not valid: any address
	port   uint16       // 0: any
	rule   string
}

// Connect decides about sending to addr.
//
// Port 53 is the target's resolver, on loopback too: a resolv.conf of the
// target may name 127.0.0.1. Of UDP, nothing that the configuration sends
// through the target is ever sent from here instead.
func (p *Policy) Connect(proto Proto, addr netip.AddrPort) Verdict {
	ip := addr.Addr().Unmap()
	for _, d := range p.exempt {
		if d.protos&proto != 0 && (d.port == 0 || d.port == addr.Port()) && (!d.prefix.IsValid() || d.prefix.Contains(ip.WithZone(""))) {
			return Verdict{Kind: Local, Rule: d.rule}
		}
	}
	if addr.Port() == dnsPort && !ip.IsMulticast() {
		if p.set.DNS {
			return Verdict{Kind: Remote, Rule: "dns"}
		}
		if proto == UDP {
			return Verdict{Kind: Local, Rule: "dns is off"}
		}
	}
	switch {
	case ip.IsLoopback():
		return Verdict{Kind: Local, Rule: "loopback"}
	case ip.IsUnspecified():
		return Verdict{Kind: Local, Rule: "unspecified address"}
	case ip.IsMulticast(), ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return Verdict{Kind: Local, Rule: "multicast or broadcast"}
	case ip.Is6() && ip.IsLinkLocalUnicast(): // its zone is one of this machine's links
		return Verdict{Kind: Local, Rule: "link-local IPv6 address"}
	case proto == TCP && !p.set.OutgoingTCP:
		return Verdict{Kind: Local, Rule: "outgoing.tcp is off"}
	case proto == UDP && !p.set.OutgoingUDP:
		return Verdict{Kind: Local, Rule: "outgoing.udp is off"}
	}
	return Verdict{Kind: Remote, Rule: "outgoing"}
}

// resolverSockets are answered on this machine by daemons that know this
// machine's names only. Without them the C library reads resolv.conf.
var resolverSockets = []string{
	"/run/nscd/socket",
	"/run/systemd/resolve/io.systemd.Resolve",
	"/run/systemd/resolve/io.systemd.Resolve.Monitor",
}

// Unix decides about connecting to the unix socket at path.
func (p *Policy) Unix(path string) Verdict {
	if p.set.DNS {
		for _, s := range resolverSockets {
			if strings.TrimPrefix(path, "/var") == s {
				return Verdict{Kind: Refused, Rule: "dns: a resolver of this machine"}
			}
		}
	}
	return Verdict{Kind: Local, Rule: "unix sockets are local"}
}

func (p *Policy) addExempt(list []string) error {
	var errs []error
	for _, entry := range list {
		d, err := parseDestination(entry)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		p.exempt = append(p.exempt, d...)
	}
	return errors.Join(errs...)
}

// parseDestination reads [proto://]ip|cidr|localhost[:port]. An empty host or
// 0.0.0.0 stands for any address.
func parseDestination(entry string) ([]destination, error) {
	d := destination{protos: TCP | UDP, rule: fmt.Sprintf("outgoing.filter.local %q", entry)}
	host := entry
	if scheme, rest, ok := strings.Cut(entry, "://"); ok {
		switch scheme {
		case "tcp":
			d.protos = TCP
		case "udp":
			d.protos = UDP
		default:
			return nil, fmt.Errorf("outgoing.filter.local %q: %q is not tcp or udp", entry, scheme)
		}
		host = rest
	}
	host, port, err := splitPort(host)
	if err != nil {
		return nil, fmt.Errorf("outgoing.filter.local %q: %w", entry, err)
	}
	d.port = port
	if host == "localhost" {
		v6 := d
		d.prefix, v6.prefix = netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")
		return []destination{d, v6}, nil
	}
	if prefix, err := netip.ParsePrefix(host); err == nil {
		d.prefix = prefix.Masked()
		return []destination{d}, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if !ip.IsUnspecified() {
			d.prefix = netip.PrefixFrom(ip.Unmap(), ip.Unmap().BitLen())
		}
		return []destination{d}, nil
	}
	if host == "" {
		return []destination{d}, nil
	}
	return nil, fmt.Errorf("outgoing.filter.local %q: the layer sees addresses, not names: give the address of %q", entry, host)
}

func splitPort(s string) (host string, port uint16, err error) {
	i := strings.LastIndexByte(s, ':')
	bracketed := strings.HasPrefix(s, "[")
	if i < 0 || !bracketed && strings.Count(s, ":") > 1 || bracketed && i < strings.IndexByte(s, ']') {
		return strings.Trim(s, "[]"), 0, nil
	}
	n, err := strconv.ParseUint(s[i+1:], 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("%q is not a port", s[i+1:])
	}
	return strings.Trim(s[:i], "[]"), uint16(n), nil
}
