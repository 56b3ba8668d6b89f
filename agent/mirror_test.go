package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// A mirror sees what comes on every way, while the pod answers. It is gone
// with a killed agent.
func TestMirror(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, _ := agenttest.New(t, a.addr)
	mirror(t, client, podPort)
	for _, way := range ways {
		p.dial(t, way.inside, way.host).hearsPod()
		copied, in := client.Offered()
		if in.Port != podPort || in.Client.Addr().String() != way.source {
			t.Errorf("%s: offered %+v", way.name, in)
		}
		if err := protocol.WriteMessage(copied, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
			t.Fatal(err)
		}
		heard, buf := "", make([]byte, protocol.MaxDatagram)
		for n := -1; n != 0; heard += string(buf[:n]) {
			var err error
			if n, err = protocol.ReadDatagram(copied, buf); err != nil {
				t.Fatalf("%s: %v", way.name, err)
			}
		}
		if heard != "hello\n" {
			t.Errorf("%s: %q", way.name, heard)
		}
	}
	if n := packetSockets(t, p.pid); n != 1 {
		t.Errorf("%d packet sockets", n)
	}
	a.kill()
	if n := packetSockets(t, p.pid); n != 0 {
		t.Errorf("%d packet sockets after the agent's end", n)
	}
}

// Of the capabilities for stealing a mirror needs none.
func TestMirrorCapability(t *testing.T) {
	agenttest.Namespace(t)
	a := start(t, []string{fmt.Sprintf("%s=%d,%d,%d", dropVar, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN)})
	client, _ := agenttest.New(t, a.addr)
	addr := netip.MustParseAddrPort(a.addr)
	mirror(t, client, addr.Port()) // its own, for want of another server
	agenttest.New(t, a.addr)
	if _, in := client.Offered(); in.Local != addr {
		t.Errorf("offered %+v", in)
	}

	a = start(t, []string{fmt.Sprintf("%s=%d", dropVar, unix.CAP_NET_RAW)})
	client, _ = agenttest.New(t, a.addr)
	_, err := client.Ask(protocol.KindSteal, protocol.Steal{Port: podPort, Mirror: true}, new(protocol.StealReply))
	if err == nil || !strings.Contains(err.Error(), "mirroring port 8080") || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Errorf("mirror: %v", err)
	}
}

func mirror(t *testing.T, client *agenttest.Client, port uint16) {
	t.Helper()
	var reply protocol.StealReply
	q := protocol.Steal{Port: port, Mirror: true}
	if _, err := protocol.Call(client.Stream(), protocol.KindSteal, q, &reply); err != nil || reply.Redirect != "packet" {
		t.Fatalf("mirroring port %d: %+v, %v", port, reply, err)
	}
}

// packetSockets counts those of a process's network namespace.
func packetSockets(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "net/packet"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Count(string(b), "\n") - 1 // a heading
}
