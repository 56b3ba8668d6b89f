package incoming

import (
	"net/netip"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"golang.org/x/sys/unix"
)

// Offsets in struct bpf_sk_lookup (linux/bpf.h).
const (
	ctxFamily     = 8
	ctxProtocol   = 12
	ctxRemoteIP4  = 16 // network order, 0 for IPv6
	ctxRemoteIP6  = 20
	ctxRemotePort = 36 // network order, two bytes
	ctxLocalPort  = 60 // host order
)

// Keys of the map of sockets.
const (
	socketV4 uint32 = iota
	socketV6
)

// A source is the remote end of a connection as the program sees it, the key
// of the map of exempt ones: IPv4 4 | IPv6 16 | port 2 | zero 2.
type source [24]byte

func sourceOf(a netip.AddrPort) (s source) {
	if ip := a.Addr().Unmap(); ip.Is4() {
		v4 := ip.As4()
		copy(s[:4], v4[:])
	} else {
		v6 := ip.As16()
		copy(s[4:20], v6[:])
	}
	s[20], s[21] = byte(a.Port()>>8), byte(a.Port())
	return s
}

// Where the program keeps its keys on its stack.
const (
	stackKey    = -4
	stackSource = stackKey - 4 - int16(len(source{}))
)

// lookupProgram gives connections to a redirected port, but for those from an
// exempt source, to the socket of their family. Whatever else happens the
// kernel's own lookup decides: the pod's container answers.
func lookupProgram(ports, exempt, sockets *ebpf.Map) asm.Instructions {
	lookup := func(m *ebpf.Map, key int16) asm.Instructions {
		return asm.Instructions{
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, int32(key)),
			asm.FnMapLookupElem.Call(),
		}
	}
	join := func(parts ...asm.Instructions) (all asm.Instructions) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	remote := func(field, at int16, size asm.Size) asm.Instructions {
		return asm.Instructions{
			asm.LoadMem(asm.R2, asm.R6, field, size),
			asm.StoreMem(asm.RFP, stackSource+at, asm.R2, asm.Word),
		}
	}
	return join(
		asm.Instructions{
			asm.Mov.Reg(asm.R6, asm.R1),
			asm.LoadMem(asm.R2, asm.R6, ctxProtocol, asm.Word),
			asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
			asm.LoadMem(asm.R2, asm.R6, ctxLocalPort, asm.Word),
			asm.StoreMem(asm.RFP, stackKey, asm.R2, asm.Word),
		},
		lookup(ports, stackKey),
		asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.LoadMem(asm.R2, asm.R0, 0, asm.Word),
			asm.JEq.Imm(asm.R2, int32(suspended), "pass"),
		},

		remote(ctxRemoteIP4, 0, asm.Word),
		remote(ctxRemoteIP6, 4, asm.Word),
		remote(ctxRemoteIP6+4, 8, asm.Word),
		remote(ctxRemoteIP6+8, 12, asm.Word),
		remote(ctxRemoteIP6+12, 16, asm.Word),
		remote(ctxRemotePort, 20, asm.Half),
		lookup(exempt, stackSource),
		asm.Instructions{
			asm.JNE.Imm(asm.R0, 0, "pass"),

			asm.Mov.Imm(asm.R3, int32(socketV4)),
			asm.LoadMem(asm.R2, asm.R6, ctxFamily, asm.Word),
			asm.JNE.Imm(asm.R2, unix.AF_INET6, "family"),
			asm.Mov.Imm(asm.R3, int32(socketV6)),
			asm.StoreMem(asm.RFP, stackKey, asm.R3, asm.Word).WithSymbol("family"),
		},
		lookup(sockets, stackKey),
		asm.Instructions{
			asm.JEq.Imm(asm.R0, 0, "pass"),
			asm.Mov.Reg(asm.R7, asm.R0),
			asm.Mov.Reg(asm.R1, asm.R6),
			asm.Mov.Reg(asm.R2, asm.R7),
			asm.Mov.Imm(asm.R3, 0),
			asm.FnSkAssign.Call(),
			asm.Mov.Reg(asm.R1, asm.R7),
			asm.FnSkRelease.Call(),
			asm.Mov.Imm(asm.R0, 1).WithSymbol("pass"), // SK_PASS
			asm.Return(),
		},
	)
}
