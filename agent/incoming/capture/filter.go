package capture

import (
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// MaxPorts is how many ports a ring can watch: the length of a filter is
// limited to 4096 instructions.
const MaxPorts = 1024

// Offsets from the network header.
const (
	v4Fragment = 6
	v4Protocol = 9
	v6Next     = 6
	v6Header   = 40
)

// Offsets from TCP's header.
const (
	tcpSource = 0
	tcpDest   = 2
	tcpFlags  = 13
)

// filter lets packets of TCP through that came here for one of ports, and
// resets that left from one. What a host says to itself passes by twice; the
// other copy is left out.
func filter(ports []uint16) []bpf.Instruction {
	drop := bpf.RetConstant{Val: 0}
	prog := []bpf.Instruction{
		bpf.LoadExtension{Num: bpf.ExtProto},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IPV6, SkipTrue: 8},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.ETH_P_IP, SkipTrue: 1},
		drop,
		bpf.LoadAbsolute{Off: v4Fragment, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 3}, // not the first
		bpf.LoadMemShift{Off: 0},
		bpf.LoadAbsolute{Off: v4Protocol, Size: 1},
		bpf.Jump{Skip: 3},
		drop,
		bpf.LoadConstant{Dst: bpf.RegX, Val: v6Header},
		bpf.LoadAbsolute{Off: v6Next, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.IPPROTO_TCP, SkipTrue: 1},
		drop,

		bpf.LoadExtension{Num: bpf.ExtType},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_HOST, SkipTrue: 6},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: unix.PACKET_OUTGOING, SkipTrue: 1},
		drop,
		bpf.LoadIndirect{Off: tcpFlags, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsNotSet, Val: uint32(flagRST), SkipTrue: 4},
		bpf.LoadIndirect{Off: tcpSource, Size: 2},
		bpf.Jump{Skip: 1},
		bpf.LoadIndirect{Off: tcpDest, Size: 2},
		bpf.Jump{Skip: 1},
		drop,
	}
	for _, p := range ports {
		prog = append(prog,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: uint32(p), SkipTrue: 1},
			bpf.RetConstant{Val: 1 << 30}, // all of it
		)
	}
	return append(prog, drop)
}

func assemble(prog []bpf.Instruction) ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(prog)
	if err != nil {
		return nil, err
	}
	all := make([]unix.SockFilter, len(raw))
	for i, in := range raw {
		all[i] = unix.SockFilter{Code: in.Op, Jt: in.Jt, Jf: in.Jf, K: in.K}
	}
	return all, nil
}
