package forward

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
)

// doomedMark makes the test's binary a daemon that is to be killed.
const doomedMark = "MIRRORD_TEST_DOOMED"

// doomed holds one outgoing connection, for the source that it reads, and says
// where its endpoint is.
func doomed() error {
	var text string
	if _, err := fmt.Scanln(&text); err != nil {
		return err
	}
	source, err := netip.ParseAddrPort(text)
	if err != nil {
		return err
	}
	p1, p2 := net.Pipe()
	c, err := yamux.Client(p1, nil)
	if err != nil {
		return err
	}
	if _, err := yamux.Server(p2, nil); err != nil {
		return err
	}
	o, err := NewOutgoing(quiet, func(context.Context, netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		s, err := c.Open()
		if err == nil {
			err = protocol.WriteDatagram(s, []byte("up"))
		}
		return s, protocol.ConnectReply{}, err
	})
	if err != nil {
		return err
	}
	e, err := o.Connect(context.Background(), netip.AddrPort{}, source, nil)
	if err != nil {
		return err
	}
	fmt.Println(e.Addr)
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// A daemon that is killed leaves no connection that seems to have ended in order.
func TestKilledDaemonResets(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), doomedMark+"=1")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Wait()
	defer cmd.Process.Kill()
	c := dialFrom(t, "127.0.0.4", func(from netip.AddrPort) netip.AddrPort {
		fmt.Fprintln(in, from)
		var text string
		if _, err := fmt.Fscanln(out, &text); err != nil {
			t.Fatal(err)
		}
		to, err := netip.ParseAddrPort(text)
		if err != nil {
			t.Fatal(err)
		}
		return to
	})
	io.WriteString(c, "it is relayed") // then the daemon has it, and there is nothing unread to be reset for
	cmd.Process.Kill()
	for err == nil {
		_, err = c.Read(make([]byte, 10))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("after the kill: %v", err)
	}
}

// An orderly end loses nothing that the debuggee has yet to read.
func TestOrderlyEndLosesNothing(t *testing.T) {
	ours, agent := streams(t)
	o, err := NewOutgoing(quiet, func(context.Context, netip.AddrPort) (net.Conn, protocol.ConnectReply, error) {
		return ours, protocol.ConnectReply{}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	c := dialFrom(t, "127.0.0.4", func(from netip.AddrPort) netip.AddrPort {
		e, err := o.Connect(t.Context(), netip.AddrPort{}, from, nil)
		if err != nil {
			t.Fatal(err)
		}
		return e.Addr
	}).(*net.TCPConn)
	if err := c.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	chunk := bytes.Repeat([]byte("x"), 32<<10)
	const chunks = 64
	go func() {
		for range chunks {
			protocol.WriteDatagram(agent, chunk)
		}
		protocol.WriteDatagram(agent, nil) // the direction's end
		agent.Close()
	}()
	got, err := io.ReadAll(c)
	if err != nil || len(got) != chunks*len(chunk) {
		t.Errorf("the debuggee read %d bytes, %v", len(got), err)
	}
}
