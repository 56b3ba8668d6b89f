package main

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/agent/incoming"
	"mirrord/protocol"
)

// A mesh has a proxy in the pod, to which rules redirect what comes in and goes out.
// The toy proxy of the tests takes the word "sealed" from its clients' lines, as a
// real one does TLS.
type mesh struct {
	name    string
	user    uint32 // the proxy's
	in, out uint16 // its ports
	from    string // the address from which it connects to the program
	to      string // the address to which it does; "": the one that was asked for
	rules   func(m *mesh) (in, out [][]expr.Any)
}

var meshes = []mesh{
	{"Istio's rules", 1337, 15006, 15001, "127.0.0.6", "", func(m *mesh) (in, out [][]expr.Any) {
		return [][]expr.Any{
				rule(tcp(), redirect(m.in)),
			}, [][]expr.Any{
				rule(outLo(), address(12, expr.CmpOpEq, "127.0.0.6"), accept()),
				rule(outLo(), address(16, expr.CmpOpNeq, "127.0.0.1"), user(expr.CmpOpEq, m.user), tcp(), redirect(m.in)),
				rule(outLo(), user(expr.CmpOpNeq, m.user), accept()),
				rule(user(expr.CmpOpEq, m.user), accept()),
				rule(address(16, expr.CmpOpEq, "127.0.0.1"), accept()),
				rule(tcp(), redirect(m.out)),
			}
	}},
	{"Linkerd's rules", 2102, 4143, 4140, "127.0.0.1", "127.0.0.1", func(m *mesh) (in, out [][]expr.Any) {
		return [][]expr.Any{
				rule(tcp(), redirect(m.in)),
			}, [][]expr.Any{
				rule(user(expr.CmpOpEq, m.user), accept()),
				rule(outLo(), accept()),
				rule(tcp(), redirect(m.out)),
			}
	}},
}

func rule(parts ...[]expr.Any) (all []expr.Any) {
	for _, p := range parts {
		all = append(all, p...)
	}
	return all
}

func compare(load expr.Any, op expr.CmpOp, data []byte) []expr.Any {
	return []expr.Any{load, &expr.Cmp{Op: op, Register: 1, Data: data}}
}

func tcp() []expr.Any {
	return compare(&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1}, expr.CmpOpEq, []byte{unix.IPPROTO_TCP})
}

func outLo() []expr.Any {
	return compare(&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: 1}, expr.CmpOpEq, append([]byte("lo"), make([]byte, unix.IFNAMSIZ-2)...))
}

func user(op expr.CmpOp, id uint32) []expr.Any {
	return compare(&expr.Meta{Key: expr.MetaKeySKUID, Register: 1}, op, binary.NativeEndian.AppendUint32(nil, id))
}

// address compares the one at an offset of the IPv4 header: 12 is the source, 16
// the destination (RFC 791).
func address(offset uint32, op expr.CmpOp, addr string) []expr.Any {
	return compare(&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4}, op, netip.MustParseAddr(addr).AsSlice())
}

func redirect(port uint16) []expr.Any {
	return []expr.Any{&expr.Immediate{Register: 1, Data: binary.BigEndian.AppendUint16(nil, port)}, &expr.Redir{RegisterProtoMin: 1}}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }

// join makes the pod one of the mesh's.
func (m *mesh) join(t *testing.T, p *pod) {
	t.Helper()
	out := p.beside(t, &syscall.Credential{Uid: m.user, Gid: m.user}, "sidecar",
		fmt.Sprintf("IN=:%d", m.in), fmt.Sprintf("OUT=:%d", m.out), "FROM="+m.from, "TO="+m.to)
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the proxy said %q, %v", line, err)
	}

	c, err := nftables.New(nftables.WithNetNSFd(int(p.network)))
	if err != nil {
		t.Fatal(err)
	}
	table := c.AddTable(&nftables.Table{Family: nftables.TableFamilyIPv4, Name: "mesh"})
	in, after := m.rules(m)
	for _, chain := range []struct {
		name  string
		hook  *nftables.ChainHook
		rules [][]expr.Any
	}{{"in", nftables.ChainHookPrerouting, in}, {"out", nftables.ChainHookOutput, after}} {
		ch := c.AddChain(&nftables.Chain{
			Name: chain.name, Table: table, Type: nftables.ChainTypeNAT, Hooknum: chain.hook, Priority: nftables.ChainPriorityNATDest,
		})
		for _, r := range chain.rules {
			c.AddRule(&nftables.Rule{Table: table, Chain: ch, Exprs: r})
		}
	}
	if err := c.Flush(); err != nil {
		t.Fatalf("the mesh's rules: %v", err)
	}
}

// sidecarMain is a mesh's proxy.
func sidecarMain() error {
	in, err := net.Listen("tcp4", os.Getenv("IN"))
	if err != nil {
		return err
	}
	out, err := net.Listen("tcp4", os.Getenv("OUT"))
	if err != nil {
		return err
	}
	go func() {
		for {
			c, err := out.Accept()
			if err != nil {
				return
			}
			to, err := originalTo(c)
			fmt.Fprintln(c, "the mesh has it for", to, err)
			c.Close()
		}
	}()
	fmt.Println("ready")
	for {
		c, err := in.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			if err := inbound(c); err != nil {
				fmt.Fprintln(os.Stderr, "proxy:", err)
			}
		}()
	}
}

func inbound(c net.Conn) error {
	to, err := originalTo(c)
	if err != nil {
		return err
	}
	if addr := os.Getenv("TO"); addr != "" {
		to = netip.AddrPortFrom(netip.MustParseAddr(addr), to.Port())
	}
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(os.Getenv("FROM"))}}
	program, err := d.Dial("tcp4", to.String())
	if err != nil {
		return err
	}
	defer program.Close()
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for lines := bufio.NewScanner(program); lines.Scan(); {
			fmt.Fprintln(c, "sealed", lines.Text())
		}
	})
	for lines := bufio.NewScanner(c); lines.Scan(); {
		plain, ok := strings.CutPrefix(lines.Text(), "sealed ")
		if !ok {
			return errors.New("a line that is not sealed")
		}
		fmt.Fprintln(program, plain)
	}
	return program.(*net.TCPConn).CloseWrite()
}

// originalTo is where a connection went before it was redirected: SO_ORIGINAL_DST
// of linux/netfilter_ipv4.h, a struct sockaddr_in.
func originalTo(c net.Conn) (to netip.AddrPort, err error) {
	raw, err := c.(*net.TCPConn).SyscallConn()
	if err != nil {
		return to, err
	}
	ctl := raw.Control(func(fd uintptr) {
		var a *unix.IPv6Mreq // which is as long
		if a, err = unix.GetsockoptIPv6Mreq(int(fd), unix.SOL_IP, unix.SO_ORIGINAL_DST); err == nil {
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte(a.Multiaddr[4:8])), binary.BigEndian.Uint16(a.Multiaddr[2:]))
		}
	})
	return to, errors.Join(ctl, err)
}

// In a mesh a port is stolen and mirrored behind the proxy, which goes on opening what
// its clients have sealed; what is not taken reaches the program without a second way through it,
// and the debuggee's own connections leave by it as the program's do.
func TestMesh(t *testing.T) {
	redirects := []string{incoming.SkLookup, incoming.TPROXY, incoming.REDIRECT}
	for i := range len(redirects) * len(meshes) {
		m, redirect := meshes[i/len(redirects)], redirects[i%len(redirects)]
		t.Run(m.name+", "+redirect, func(t *testing.T) {
			p := newPod(t)
			m.join(t, p)
			hears := func(k *talk, who string) {
				t.Helper()
				k.says("sealed hello")
				k.hears("sealed " + who + " heard hello")
			}
			hears(p.dial(t, false, podV4), "pod")

			client, _ := agenttest.New(t, startFor(t, p, "--redirect", redirect).addr)
			steal := client.Steal(podPort)
			k := p.dial(t, false, podV4)
			stream, in := client.Offered()
			if in.Client.Addr().String() != m.from || in.Port != podPort {
				t.Errorf("offered %+v", in)
			}
			relayed(t, stream)
			hears(k, "debuggee")

			k = p.dial(t, false, podV4)
			stream, _ = client.Offered()
			if err := protocol.WriteError(stream, "incoming", unix.ECONNREFUSED); err != nil {
				t.Fatal(err)
			}
			hears(k, "pod")

			out, err := client.Bulk.Open()
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			elsewhere := netip.MustParseAddrPort(nodeV4 + ":9")
			if _, err := protocol.Call(out, protocol.KindConnect, protocol.Connect{Addr: elsewhere}, new(protocol.ConnectReply)); err != nil {
				t.Fatal(err)
			}
			words := make([]byte, protocol.MaxDatagram)
			n, err := protocol.ReadDatagram(out, words)
			if want := fmt.Sprintf("the mesh has it for %v <nil>\n", elsewhere); err != nil || string(words[:n]) != want {
				t.Errorf("outside: %q, %v; want %q", words[:n], err, want)
			}

			release(t, steal)
			mirror(t, client, podPort)
			hears(p.dial(t, false, podV4), "pod")
			copied, in := client.Offered()
			if in.Client.Addr().String() != m.from {
				t.Errorf("copied is what came from %v", in.Client)
			}
			if err := protocol.WriteMessage(copied, protocol.KindIncoming, protocol.IncomingReply{}, nil); err != nil {
				t.Fatal(err)
			}
			if n, err := protocol.ReadDatagram(copied, words); err != nil || string(words[:n]) != "hello\n" {
				t.Errorf("the copy says %q, %v", words[:n], err)
			}
		})
	}
}
