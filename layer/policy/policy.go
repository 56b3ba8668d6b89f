// Package policy decides: this path, address, port or process is Local or
// Remote, and which rule says so. It is pure: it reads nothing but what it was
// made from, so whoever makes one of the same configuration agrees with the layer.
//
// Paths are decided in this order; the first that speaks wins:
//
//  1. /proc, and of /dev what is about the process itself, are the machine's: Local
//  2. mode local: Local, but the resolver's files where DNS is the target's
//  3. the user's not_found, read_write, read_only, local
//  4. what else is in /sys and /dev: Local
//  5. default not_found: credentials of the developer's own tools
//  6. default read-only: names and certificates as the target has them
//  7. the debuggee's own directory, program, home and temporary files, what its
//     editor has named beside them, and the directories that lead there: Local
//  8. the target's volume mounts: Remote
//  9. default local: code, libraries, the machine's directories
//  10. the mode
//
// A Remote path may be changed by mode write, and in each mode where the user's
// read_write says so. What else is Remote is for reading: read_only, the default
// read-only set, the resolver's files, and all in the other modes, where the
// peer writes locally. That a path is Remote for its ".." alone gives no right.
//
// What differs from the peer: a volume mount comes before the default local set
// (a ConfigMap at /etc/shop is what one wants to see), but the debuggee's own
// places come before both (else a pod's volume at /tmp or /src would hide the
// project), and the whole home is one of them, not its dot files only.
package policy

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"path"
	"strings"
	"time"

	"mirrord/protocol/ide"
)

// A Kind is what is to be done with a call.
type Kind uint8

const (
	Local    Kind = iota // the developer's kernel carries it out
	Remote               // the target does
	NotFound             // a path that does not exist: ENOENT
	Refused              // neither: Local would leak, Remote is not possible
)

func (k Kind) String() string {
	return [...]string{"local", "remote", "not found", "refused"}[k]
}

// A Verdict is a decision and the rule that made it.
type Verdict struct {
	Kind Kind
	Rule string
	Path string // the path to use instead, where a mapping applies
	// Writable: a Remote path may be changed, as far as the target's user may.
	Writable bool
}

// Moved tells whether a path is Local as another one than the debuggee says.
func (v Verdict) Moved() bool { return v.Kind == Local && v.Path != "" }

func (v Verdict) String() string {
	switch {
	case v.Kind == Remote && v.Writable:
		return "remote, read-write"
	case v.Kind == Remote:
		return "remote, read-only"
	}
	return v.Kind.String()
}

// A Client is what a policy must know of the debuggee's surroundings.
type Client struct {
	Home       string // its $HOME
	Dir        string // its working directory
	Executable string // its program
	Temp       string // its $TMPDIR, "" for /tmp
}

// A Policy decides. Its methods may be called from any goroutine.
type Policy struct {
	set     ide.Policy
	rules   []rule // the user's, in order
	mapping []mapping
	cache   cache // of what rules and mapping said

	mounts   []string
	local    []string        // the client's own places
	leading  map[string]bool // the directories above them
	notFound []string

	exempt      []destination // outgoing.filter.local
	ports       map[uint16]bool
	ignorePorts map[uint16]bool
	skip        map[string]bool
}

// New makes a policy of the session's configuration. The error tells of every
// pattern that cannot be read.
func New(set ide.Policy, c Client) (*Policy, error) {
	p := &Policy{set: set, ports: ports(set.Ports), ignorePorts: ports(set.IgnorePorts), skip: map[string]bool{}, leading: map[string]bool{}}
	switch set.FSMode {
	case "local", "localwithoverrides", "read", "write":
	default:
		return nil, fmt.Errorf("fs mode %q is not local, localwithoverrides, read or write", set.FSMode)
	}
	err := errors.Join(
		p.addRules("not_found", Verdict{Kind: NotFound}, set.NotFound),
		p.addRules("read_write", Verdict{Kind: Remote, Writable: true}, set.ReadWrite),
		p.addRules("read_only", Verdict{Kind: Remote}, set.ReadOnly),
		p.addRules("local", Verdict{Kind: Local}, set.Local),
		p.addMapping(set.Mapping),
		p.addExempt(set.OutgoingLocal),
	)
	if err != nil {
		return nil, err
	}
	for _, m := range set.Mounts {
		if m = path.Clean(m); strings.HasPrefix(m, "/") && m != "/" {
			p.mounts = append(p.mounts, m)
		}
	}
	for _, dir := range append([]string{c.Dir, c.Executable, c.Home, cmp.Or(c.Temp, "/tmp")}, set.Places...) {
		if dir = path.Clean(dir); strings.HasPrefix(dir, "/") && dir != "/" {
			p.local = append(p.local, dir)
			for up := path.Dir(dir); up != "/"; up = path.Dir(up) {
				p.leading[up] = true
			}
		}
	}
	if home := path.Clean(c.Home); strings.HasPrefix(home, "/") && home != "/" {
		for _, name := range []string{".config/gcloud", ".kube", ".azure"} {
			p.notFound = append(p.notFound, home+"/"+name)
		}
	}
	for _, name := range set.SkipProcesses {
		p.skip[name] = true
	}
	return p, nil
}

// Files tells whether any path can be other than Local.
func (p *Policy) Files() bool { return p.set.FSMode != "local" || p.set.DNS }

// CacheTime is how long what is known of the target's files may be kept, if no
// change is heard of; false: there is no limit.
func (p *Policy) CacheTime() (limit time.Duration, ok bool) {
	if p.set.CacheTime == nil {
		return 0, false
	}
	return time.Duration(*p.set.CacheTime) * time.Second, true
}

// Tree tells whether any path can be but the resolver's files.
func (p *Policy) Tree() bool { return p.set.FSMode != "local" }

// Sockets tells whether any connection can be other than Local.
func (p *Policy) Sockets() bool { return p.set.OutgoingTCP || p.set.OutgoingUDP || p.set.DNS }

// Datagrams tells whether any datagram can be other than Local.
func (p *Policy) Datagrams() bool { return p.set.OutgoingUDP || p.set.DNS }

// Incoming tells whether any port can be stolen or mirrored.
func (p *Policy) Incoming() bool { return p.set.Steal || p.set.Mirror }

// Mirror tells whether listeners get copies only.
func (p *Policy) Mirror() bool { return p.set.Mirror && !p.set.Steal }

// Hostname tells whether uname(2) is to name the target.
func (p *Policy) Hostname() bool { return p.set.Hostname }

// Listen decides about a listener at an address.
func (p *Policy) Listen(at netip.AddrPort) Verdict {
	port := at.Port()
	switch {
	case !p.Incoming():
		return Verdict{Kind: Local, Rule: "incoming is off"}
	case port == 0:
		return Verdict{Kind: Local, Rule: "port 0 is the kernel's choice"}
	case p.set.IgnoreLocalhost && at.Addr().Unmap().IsLoopback():
		return Verdict{Kind: Local, Rule: "incoming.ignore_localhost"}
	case p.ignorePorts[port]:
		return Verdict{Kind: Local, Rule: "incoming.ignore_ports"}
	case p.ports != nil && !p.ports[port]:
		return Verdict{Kind: Local, Rule: "not in incoming.ports"}
	}
	if p.Mirror() {
		return Verdict{Kind: Remote, Rule: "incoming.mode mirror"}
	}
	return Verdict{Kind: Remote, Rule: "incoming.mode steal"}
}

// TargetPort is the target's port that is taken for a listener's.
func (p *Policy) TargetPort(port uint16) uint16 { return paired(p.set.PortMapping, 0, port) }

// ListenerPort is the listener's for a port of the target.
func (p *Policy) ListenerPort(port uint16) uint16 { return paired(p.set.PortMapping, 1, port) }

// BindPort is where on this machine a listener on a port is to be.
func (p *Policy) BindPort(port uint16) uint16 { return paired(p.set.ListenPorts, 0, port) }

// paired is the other port of the pair that has port on a side, else port.
func paired(pairs [][2]uint16, side int, port uint16) uint16 {
	for _, pair := range pairs {
		if pair[side] == port {
			return pair[1-side]
		}
	}
	return port
}

// Process decides about a process by the name of its program and its argv[0]:
// Remote if its calls are served.
func (p *Policy) Process(executable, argv0 string) Verdict {
	for _, name := range []string{path.Base(executable), path.Base(argv0)} {
		if p.skip[name] {
			return Verdict{Kind: Local, Rule: "skip_processes " + name}
		}
	}
	return Verdict{Kind: Remote, Rule: "served"}
}

// Skips tells whether some processes are not served.
func (p *Policy) Skips() bool { return len(p.skip) > 0 }

func ports(list []uint16) map[uint16]bool {
	if len(list) == 0 {
		return nil
	}
	m := make(map[uint16]bool, len(list))
	for _, port := range list {
		m[port] = true
	}
	return m
}
