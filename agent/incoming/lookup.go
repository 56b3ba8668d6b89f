package incoming

import (
	"errors"
	"fmt"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// lookup redirects by a program that the kernel asks which socket a new
// connection is for, after all rules have been applied to it. It sees neither
// packets nor established connections, and needs no tracking of them. Nothing
// of it is pinned.
type lookup struct {
	doors
	ports   *ebpf.Map // stolen port → whether its connections are brought here now
	exempt  *ebpf.Map // source → 1: our own connections to the pod's container
	sockets *ebpf.Map // family → listener
	program *ebpf.Program
	link    *link.NetNsLink
}

func newLookup() (redirect, error) {
	r := new(lookup)
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

func (r *lookup) load() error {
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

func (r *lookup) attach() error {
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

// listen has the program know the listeners.
func (r *lookup) listen() error {
	if err := r.doors.Listen(onLoopback, nil); err != nil {
		return err
	}
	for _, l := range r.listeners {
		key := socketV4
		if addrOf(l.Addr()).Addr().Is6() {
			key = socketV6
		}
		raw, err := l.SyscallConn()
		if err != nil {
			return err
		}
		var update error
		err = raw.Control(func(fd uintptr) { update = r.sockets.Update(key, uint64(fd), ebpf.UpdateAny) })
		if err = errors.Join(err, update); err != nil {
			return fmt.Errorf("putting listener %s into BPF map: %w", l.Addr(), err)
		}
	}
	return nil
}

// The values of the map of ports.
const (
	suspended uint32 = iota
	redirected
)

func (r *lookup) Add(port uint16) error {
	if err := r.ports.Put(uint32(port), redirected); err != nil {
		return fmt.Errorf("redirecting port %d: %w", port, err)
	}
	return nil
}

// Suspend leaves the port its place in the map, so that Add has one.
func (r *lookup) Suspend(port uint16) error {
	if err := r.ports.Update(uint32(port), suspended, ebpf.UpdateExist); err != nil {
		return fmt.Errorf("suspending redirect of port %d: %w", port, err)
	}
	return nil
}

func (r *lookup) Remove(port uint16) error {
	if err := r.ports.Delete(uint32(port)); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
		return fmt.Errorf("giving port %d back: %w", port, err)
	}
	return nil
}

// Exempt goes by the source: the program does not see marks.
func (r *lookup) Exempt(_ int, from netip.AddrPort) (undo func(), err error) {
	key := sourceOf(from)
	if err := r.exempt.Put(key[:], uint32(1)); err != nil { // an array would be reflected on
		return func() {}, fmt.Errorf("exempting %v from the redirect: %w", from, err)
	}
	return func() { _ = r.exempt.Delete(key[:]) }, nil
}

func (r *lookup) Detach() error {
	var err error
	if r.link != nil {
		err = r.link.Close()
		r.link = nil
	}
	r.doors.Close()
	return err
}

func (*lookup) Name() string { return SkLookup }

func (r *lookup) Close() error {
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
