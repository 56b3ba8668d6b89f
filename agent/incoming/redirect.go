package incoming

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"syscall"

	"golang.org/x/sys/unix"
)

// Limits of a redirect.
const (
	maxPorts = 1024
	maxConns = 16384 // connections at one time, and so exempt sources; some 25 KiB each
)

// A redirect brings new connections to the stolen ports to its listeners. It
// consists of kernel objects that die with the process, and leaves established
// connections where they are, both when it begins and when it ends.
//
// It sees a port as the pod's sockets do: after address translation, so that
// what a mesh redirects to its sidecar is the sidecar's, and what the sidecar
// then sends to the container may be stolen.
type redirect interface {
	Name() string
	Listeners() []*net.TCPListener
	Asked(*net.TCPConn) (netip.AddrPort, error) // the address that a connection's client asked for
	Owns(addr netip.AddrPort) bool              // it is a listener's own

	Add(port uint16) error     // brings the port's new connections here
	Suspend(port uint16) error // does not, until the next Add, which finds room
	Remove(port uint16) error

	// Exempt leaves the connection of a socket, which is bound to from, to
	// the pod's container until undone.
	Exempt(fd int, from netip.AddrPort) (undo func(), err error)

	Detach() error // ends the redirect and its listeners, in that order
	Close() error  // also what Exempt needs; nothing may use it any more
}

// Names of redirects, as New takes them.
const (
	SkLookup = "sk_lookup"
	TPROXY   = "TPROXY"
	REDIRECT = "REDIRECT"
)

// redirects are all there are, best first.
var redirects = []struct {
	name string
	make func() (redirect, error)
}{{SkLookup, newLookup}, {TPROXY, newTransparent}, {REDIRECT, newTranslation}}

// choose makes the first that works here, or tries only one of them.
func choose(log *slog.Logger, only string) (redirect, error) {
	var all error
	for _, way := range redirects {
		if only != "" && only != way.name {
			continue
		}
		r, err := way.make()
		if err == nil {
			if all != nil {
				log.Info("redirecting in another way", "redirect", way.name, "err", all)
			}
			return r, nil
		}
		all = errors.Join(all, fmt.Errorf("redirecting by %s: %w", way.name, err))
	}
	if all == nil {
		return nil, fmt.Errorf("redirecting by %q: there is no such way", only)
	}
	return nil, all
}

// doors are a redirect's listeners, one for each family that the namespace has.
type doors struct {
	listeners []*net.TCPListener
}

// Where doors are. On loopback nobody outside reaches them directly.
var (
	onLoopback = [][2]string{{"tcp4", "127.0.0.1:0"}, {"tcp6", "[::1]:0"}}
	everywhere = [][2]string{{"tcp4", "0.0.0.0:0"}, {"tcp6", "[::]:0"}}
)

// Listen opens them; prepare, if it is not nil, has their sockets first.
func (d *doors) Listen(at [][2]string, prepare func(network, address string, c syscall.RawConn) error) error {
	lc := net.ListenConfig{KeepAlive: -1, Control: func(network, address string, c syscall.RawConn) error {
		err := c.Control(func(fd uintptr) {
			// Who may not mark makes no rules either that look at marks.
			_ = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_MARK, ownMark)
			keepAlive(int(fd))
		})
		if err == nil && prepare != nil {
			err = prepare(network, address, c)
		}
		return err
	}}
	lc.SetMultipathTCP(false) // such a socket does not go into a BPF map: EOPNOTSUPP
	var lacks error
	for _, door := range at {
		l, err := lc.Listen(context.Background(), door[0], door[1])
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			lacks = errors.Join(lacks, err) // the pod has only the other family
			continue
		}
		if err != nil {
			return err
		}
		d.listeners = append(d.listeners, l.(*net.TCPListener))
	}
	if len(d.listeners) == 0 {
		return lacks
	}
	return nil
}

// keepAlive has those who vanish be missed. What is accepted is as its listener,
// so that it takes no calls for each connection.
func keepAlive(fd int) {
	for option, value := range map[int]int{unix.TCP_KEEPIDLE: 15, unix.TCP_KEEPINTVL: 15, unix.TCP_KEEPCNT: 9} { // as Go has them
		_ = unix.SetsockoptInt(fd, unix.SOL_TCP, option, value)
	}
	_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1)
}

func (d *doors) Listeners() []*net.TCPListener { return d.listeners }

func (*doors) Asked(c *net.TCPConn) (netip.AddrPort, error) { return addrOf(c.LocalAddr()), nil }

func (d *doors) Owns(addr netip.AddrPort) bool {
	for _, l := range d.listeners {
		if addrOf(l.Addr()) == addr {
			return true
		}
	}
	return false
}

func (d *doors) Close() {
	for _, l := range d.listeners {
		l.Close()
	}
}
