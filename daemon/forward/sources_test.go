package forward

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Connections whose clients end them first leave our port in TIME_WAIT. There are more
// of them in a minute than one address has ports.
func TestIncomingManySources(t *testing.T) {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the namespace is this thread's
		done <- manySources(t)
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

func manySources(t *testing.T) error {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		t.Skipf("making a network namespace: %v", err)
	}
	lo, err := netlink.LinkByName("lo")
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return err
	}
	const ports = 16
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0); err != nil {
		return err
	}
	l, err := net.Listen("tcp4", "127.0.0.1:8080")
	if err != nil {
		return err
	}
	defer l.Close()
	in := newIncoming(t)
	for i := range 4 * ports {
		served := make(chan error, 1)
		go func() {
			c, err := l.Accept()
			if err == nil {
				_, err = io.Copy(io.Discard, c)
				c.Close()
			}
			served <- err
		}()
		ours, agent := streams(t)
		heard := make(chan error, 1)
		go func() {
			_, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply))
			if err == nil {
				err = protocol.WriteDatagram(agent, nil) // the client's end
			}
			if err == nil {
				_, err = io.Copy(io.Discard, agent)
			}
			agent.Close()
			heard <- err
		}()
		at := Listener{Addr: netip.MustParseAddrPort("127.0.0.1:8080")}
		if err := in.Deliver(t.Context(), NewOffer(ours, false), Peer{}, at, nil); err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		for _, end := range []chan error{heard, served} {
			if err := <-end; err != nil {
				return fmt.Errorf("connection %d: %w", i, err)
			}
		}
	}
	return nil
}
