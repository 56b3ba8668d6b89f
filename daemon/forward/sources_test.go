package forward

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// Connections whose clients end them first leave our port in TIME_WAIT. There are more
// of them in a minute than one address has ports.
func TestIncomingManySources(t *testing.T) {
	const inside = "MIRRORD_TEST_SOURCES"
	if os.Getenv(inside) == "" {
		cmd := exec.Command("/proc/self/exe", "-test.run=^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		out, err := cmd.CombinedOutput()
		if errors.Is(err, unix.EPERM) {
			t.Skipf("making a network namespace: %v", err)
		}
		if err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	if out, err := exec.Command("ip", "link", "set", "lo", "up").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	const ports = 16
	if err := os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", fmt.Appendf(nil, "40000 %d", 40000+ports-1), 0); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp4", "127.0.0.1:8080")
	if err != nil {
		t.Fatal(err)
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
			t.Fatalf("connection %d: %v", i, err)
		}
		for _, end := range []chan error{heard, served} {
			if err := <-end; err != nil {
				t.Fatalf("connection %d: %v", i, err)
			}
		}
	}
}
