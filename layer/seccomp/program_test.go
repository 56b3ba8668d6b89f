package seccomp

import (
	"encoding/binary"
	"testing"
	"unsafe"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// data is a seccomp_data as x/net's machine sees it: it loads big endian words.
func data(arch uint32, nr uint32, args ...uint64) []byte {
	b := binary.BigEndian.AppendUint32(nil, nr)
	b = binary.BigEndian.AppendUint32(b, arch)
	b = append(b, make([]byte, 8)...)
	for i := range 6 {
		var v uint64
		if i < len(args) {
			v = args[i]
		}
		b = binary.BigEndian.AppendUint32(b, uint32(v)) // low half first, as in memory
		b = binary.BigEndian.AppendUint32(b, uint32(v>>32))
	}
	return b
}

func TestProgram(t *testing.T) {
	rules := []Rule{
		{Call: Openat},
		{Call: Open},
		{Call: Recvfrom, Arg: 4, Test: NotNull},
		{Call: IoUringSetup, Errno: unix.ENOSYS},
	}
	const i386 = 0x40000003
	enosys := retErrno | int(unix.ENOSYS)
	for _, tt := range []struct {
		name string
		arch Arch
		in   []byte
		want int
	}{
		{"amd64 openat", AMD64, data(AMD64.audit, 257), retNotify},
		{"amd64 open", AMD64, data(AMD64.audit, 2), retNotify},
		{"amd64 read", AMD64, data(AMD64.audit, 0, 3), retAllow},
		{"amd64 arm64's openat", AMD64, data(AMD64.audit, 56), retAllow},
		{"amd64 recvfrom without address", AMD64, data(AMD64.audit, 45, 3, 4, 5, 6, 0, 7), retAllow},
		{"amd64 recvfrom low half", AMD64, data(AMD64.audit, 45, 3, 4, 5, 6, 1), retNotify},
		{"amd64 recvfrom high half", AMD64, data(AMD64.audit, 45, 3, 4, 5, 6, 1<<40), retNotify},
		{"amd64 io_uring_setup", AMD64, data(AMD64.audit, 425), enosys},
		{"amd64 x32 openat", AMD64, data(AMD64.audit, x32Bit|257), enosys},
		{"amd64 i386 open", AMD64, data(i386, 5), enosys},
		{"arm64 openat", ARM64, data(ARM64.audit, 56), retNotify},
		{"arm64 has no open", ARM64, data(ARM64.audit, 2), retAllow},
		{"arm64 recvfrom without address", ARM64, data(ARM64.audit, 207), retAllow},
		{"arm64 recvfrom", ARM64, data(ARM64.audit, 207, 0, 0, 0, 0, 8), retNotify},
		{"arm64 io_uring_setup", ARM64, data(ARM64.audit, 425), enosys},
		{"arm64 32 bit", ARM64, data(0x40000028, 5), enosys},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw, err := Program(tt.arch, rules)
			if err != nil {
				t.Fatal(err)
			}
			ins, ok := bpf.Disassemble(raw)
			if !ok {
				t.Fatal("the program does not disassemble")
			}
			vm, err := bpf.NewVM(ins)
			if err != nil {
				t.Fatal(err)
			}
			got, err := vm.Run(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("returned %#x, want %#x", got, tt.want)
			}
		})
	}
}

func byNumber(a Arch) []Call {
	list := make([]Call, a.Numbers())
	for c := Call(1); c < numCalls; c++ {
		if n, ok := a.Number(c); ok {
			list[n] = c
		}
	}
	return list
}

// The program of every call there is, run on each architecture for every
// number: what is in the table is trapped, what is not is allowed, and what
// takes an address is trapped with one.
func TestProgramOfAllCalls(t *testing.T) {
	rules := []Rule{{Call: IoUringSetup, Errno: unix.ENOSYS}}
	for c := Call(1); c < IoUringSetup; c++ {
		r := Rule{Call: c}
		if c == Sendto || c == Recvfrom {
			r.Arg, r.Test = 4, NotNull
		}
		rules = append(rules, r)
	}
	for name, a := range map[string]Arch{"amd64": AMD64, "arm64": ARM64} {
		raw, err := Program(a, rules)
		if err != nil {
			t.Fatal(err)
		}
		ins, _ := bpf.Disassemble(raw)
		vm, err := bpf.NewVM(ins)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		byNumber := byNumber(a)
		for nr := range uint32(1024) {
			var c Call
			if int(nr) < len(byNumber) {
				c = byNumber[nr]
			}
			for argument, want := range map[uint64]int{0: retNotify, 1: retNotify, 1 << 40: retNotify} {
				switch {
				case c == 0 || argument == 0 && (c == Sendto || c == Recvfrom):
					want = retAllow
				case c == IoUringSetup:
					want = retErrno | int(unix.ENOSYS)
				}
				got, err := vm.Run(data(a.audit, nr, 0, 0, 0, 0, argument))
				if err != nil || got != want {
					t.Errorf("%s: %d (%v) with argument %#x came to %#x, %v; want %#x", name, nr, c, argument, got, err, want)
				}
			}
			if got, err := vm.Run(data(a.audit^1, nr)); err != nil || got != retErrno|int(unix.ENOSYS) {
				t.Errorf("%s: %d of another architecture came to %#x, %v", name, nr, got, err)
			}
		}
	}
}

// Every call has a name and a number somewhere, and no number stands for two.
func TestCalls(t *testing.T) {
	for name, a := range map[string]Arch{"amd64": AMD64, "arm64": ARM64} {
		seen := map[int]Call{}
		for c := Call(1); c < numCalls; c++ {
			if calls[c].name == "" {
				t.Errorf("call %d has no name", c)
			}
			n, ok := a.Number(c)
			if !ok {
				continue
			}
			if other, dup := seen[n]; dup {
				t.Errorf("%s: %v and %v are both %d", name, c, other, n)
			}
			seen[n] = c
			if n >= a.Numbers() {
				t.Errorf("%s: %v is %d, of %d", name, c, n, a.Numbers())
			}
		}
	}
}

// Pitfall 3: the sizes of the kernel's structs are part of the ioctls' numbers.
func TestPitfall03Structs(t *testing.T) {
	for _, tt := range []struct {
		request uint32
		size    uintptr
	}{
		{ioctlReceive, unsafe.Sizeof(Notification{})},
		{ioctlSend, unsafe.Sizeof(response{})},
		{ioctlValid, unsafe.Sizeof(uint64(0))},
		{ioctlAddFD, unsafe.Sizeof(addfd{})},
	} {
		if got := uintptr(tt.request >> 16 & 0x3fff); got != tt.size {
			t.Errorf("ioctl %#x is for %d bytes, the struct has %d", tt.request, got, tt.size)
		}
	}
}
