package incoming

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// Limits of the redirect's maps.
const (
	maxPorts = 1024
	maxConns = 16384 // connections at one time, and so exempt sources; some 25 KiB each
)

// A redirect brings new connections to the stolen ports to its listeners. It
// consists of kernel objects that are not pinned: they die with the process.
type redirect struct {
	ports     *ebpf.Map // stolen port → whether its connections are brought here now
	exempt    *ebpf.Map // source → 1: our own connections to the pod's container
	sockets   *ebpf.Map // family → listener
	program   *ebpf.Program
	link      *link.NetNsLink
	listeners []*net.TCPListener // on loopback: nobody outside reaches them directly
}

func newRedirect() (*redirect, error) {
	r := new(redirect)
	if err := r.load(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	// The program must be detached before its listeners close, or clients are
	// refused in between. The kernel closes a killed process's higher
	// descriptors first, hence this order; no port is in the map yet.
	if err := r.attach(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if err := r.listen(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *redirect) load() error {
	var err error
	newMap := func(t ebpf.MapType, key, value, entries uint32) *ebpf.Map {
		if err != nil {
			return nil
		}
		var m *ebpf.Map
		m, err = ebpf.NewMap(&ebpf.MapSpec{Type: t, KeySize: key, ValueSize: value, MaxEntries: entries})
		return m
	}
	r.ports = newMap(ebpf.Hash, 4, 4, maxPorts)
	r.exempt = newMap(ebpf.Hash, uint32(len(source{})), 4, maxConns)
	r.sockets = newMap(ebpf.SockMap, 4, 8, 2)
	if err != nil {
		return fmt.Errorf("creating BPF map: %w", wanting(err))
	}
	r.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name:         "mirrord_steal",
		Type:         ebpf.SkLookup,
		AttachType:   ebpf.AttachSkLookup,
		Instructions: lookupProgram(r.ports, r.exempt, r.sockets),
		License:      "MIT",
	})
	if err != nil {
		return fmt.Errorf("loading sk_lookup program: %w", wanting(err))
	}
	return nil
}

func (r *redirect) attach() error {
	ns, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer ns.Close()
	if r.link, err = link.AttachNetNs(int(ns.Fd()), r.program); err != nil {
		return fmt.Errorf("attaching sk_lookup program: %w", wanting(err))
	}
	return nil
}

// listen makes a listener for each family that the namespace has.
func (r *redirect) listen() error {
	var lc net.ListenConfig
	lc.SetMultipathTCP(false) // such a socket does not go into a map: EOPNOTSUPP
	var lacks error
	for key, addr := range map[uint32]string{socketV4: "127.0.0.1:0", socketV6: "[::1]:0"} {
		l, err := lc.Listen(context.Background(), "tcp", addr)
		if errors.Is(err, unix.EADDRNOTAVAIL) || errors.Is(err, unix.EAFNOSUPPORT) {
			lacks = err // the pod has only the other family
			continue
		}
		if err != nil {
			return err
		}
		tl := l.(*net.TCPListener)
		r.listeners = append(r.listeners, tl)
		raw, err := tl.SyscallConn()
		if err != nil {
			return err
		}
		var update error
		err = raw.Control(func(fd uintptr) { update = r.sockets.Update(key, uint64(fd), ebpf.UpdateAny) })
		if err = errors.Join(err, update); err != nil {
			return fmt.Errorf("putting listener %s into BPF map: %w", tl.Addr(), err)
		}
	}
	if len(r.listeners) == 0 {
		return lacks
	}
	return nil
}

// The values of the map of ports.
const (
	suspended uint32 = iota
	redirected
)

// Add starts bringing port's new connections here.
func (r *redirect) Add(port uint16) error {
	if err := r.ports.Put(uint32(port), redirected); err != nil {
		return fmt.Errorf("redirecting port %d: %w", port, err)
	}
	return nil
}

// Suspend leaves port's new connections to the pod's container until Add is
// called again. The port keeps its place in the map, so that Add has one.
func (r *redirect) Suspend(port uint16) error {
	if err := r.ports.Update(uint32(port), suspended, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("suspending redirect of port %d: %w", port, err)
	}
	return nil
}

// Remove leaves port's new connections to the pod's container again.
func (r *redirect) Remove(port uint16) error {
	if err := r.ports.Delete(uint32(port)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("giving port %d back: %w", port, err)
	}
	return nil
}

// Exempt leaves connections from a source to the pod's container until undone.
func (r *redirect) Exempt(from netip.AddrPort) (undo func(), err error) {
	key := sourceOf(from)
	if err := r.exempt.Put(key, uint32(1)); err != nil {
		return func() {}, fmt.Errorf("exempting %v from the redirect: %w", from, err)
	}
	return func() { _ = r.exempt.Delete(key) }, nil
}

// Owns reports whether addr is that of one of the redirect's own listeners.
func (r *redirect) Owns(addr netip.AddrPort) bool {
	for _, l := range r.listeners {
		if l.Addr().(*net.TCPAddr).AddrPort() == addr {
			return true
		}
	}
	return false
}

// Detach ends the redirect and its listeners, in that order.
func (r *redirect) Detach() error {
	var err error
	if r.link != nil {
		err = r.link.Close()
		r.link = nil
	}
	for _, l := range r.listeners {
		l.Close()
	}
	return err
}

// Close gives everything back. Nothing may use the redirect any more.
func (r *redirect) Close() error {
	err := r.Detach()
	r.program.Close()
	for _, m := range []*ebpf.Map{r.ports, r.exempt, r.sockets} {
		m.Close()
	}
	return err
}

// wanting says what would have let an operation through.
func wanting(err error) error {
	if errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w (it needs CAP_SYS_ADMIN, or CAP_BPF and CAP_NET_ADMIN)", err)
	}
	return fmt.Errorf("%w (it needs Linux 5.9 or newer with CONFIG_BPF_SYSCALL)", err)
}
