// Package seccomp is the layer's hold on the kernel: the program that says which
// system calls are trapped, the notifications of those calls, and the memory
// and descriptors of the task that waits for an answer.
//
// Rules of the program:
//
//   - a call without a rule is allowed, and the kernel's bitmap of allowed
//     calls makes that free;
//   - it searches by halves: the kernel runs it for each number that there is when
//     it is installed, for that bitmap, and later for the calls with a rule;
//   - calls of another architecture (i386 on x86-64, x32) are answered ENOSYS:
//     they would pass by the layer unseen;
//   - io_uring_setup is answered ENOSYS: a ring opens and connects unseen.
//     Programs fall back to ordinary calls.
package seccomp

import (
	"errors"
	"fmt"
	"slices"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// ErrNested: the thread is already under a program that notifies, and the
// kernel allows one in a line of descent.
var ErrNested = errors.New("a seccomp program with a listener is already installed")

// ErrUnsupported: the kernel has no notification, or something forbids it.
var ErrUnsupported = errors.New("the kernel does not offer seccomp notification")

// A Rule traps, or refuses, one call.
type Rule struct {
	Call  Call
	Arg   int        // with NotNull: the argument that is tested
	Test  Test       // which calls the rule is about; others are allowed
	Errno unix.Errno // not 0: answer this without asking anybody
}

// A Test limits a rule by an argument.
type Test uint8

const (
	Always  Test = iota
	NotNull      // the 64 bits of the argument are not all zero
)

// What a program returns, and where it finds the facts (seccomp_data).
const (
	retAllow  = 0x7fff0000
	retNotify = 0x7fc00000
	retErrno  = 0x00050000

	offNumber = 0
	offArch   = 4
	offArgs   = 16
	x32Bit    = 0x40000000
)

// Program assembles rules for a. Rules for calls that a does not have are left out.
func Program(a Arch, rules []Rule) ([]bpf.RawInstruction, error) {
	p := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: a.audit, SkipTrue: 1},
		bpf.RetConstant{Val: retErrno | uint32(unix.ENOSYS)},
		bpf.LoadAbsolute{Off: offNumber, Size: 4},
	}
	if a.x32 {
		p = append(p,
			bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: x32Bit, SkipFalse: 1},
			bpf.RetConstant{Val: retErrno | uint32(unix.ENOSYS)})
	}
	sorted := make([]numbered, 0, len(rules))
	for _, r := range rules {
		if nr, ok := a.Number(r.Call); ok {
			sorted = append(sorted, numbered{r, nr})
		}
	}
	slices.SortFunc(sorted, func(a, b numbered) int { return a.nr - b.nr })
	raw, err := bpf.Assemble(search(p, sorted))
	if err != nil {
		return nil, fmt.Errorf("assembling the seccomp program: %w", err)
	}
	return raw, nil
}

type numbered struct {
	Rule
	nr int
}

// search appends what finds a call's rule among those of list.
func search(p []bpf.Instruction, list []numbered) []bpf.Instruction {
	const few = 3 // are faster to look at one after the other
	if len(list) <= few {
		for _, r := range list {
			p = append(p, r.assemble()...)
		}
		return append(p, bpf.RetConstant{Val: retAllow})
	}
	half := len(list) / 2
	p = append(p, bpf.JumpIf{Cond: bpf.JumpGreaterOrEqual, Val: uint32(list[half].nr), SkipFalse: 1}, nil)
	jump := len(p) - 1 // over the first half, which may be more than a JumpIf can skip
	p = search(p, list[:half])
	p[jump] = bpf.Jump{Skip: uint32(len(p) - 1 - jump)}
	return search(p, list[half:])
}

func (r numbered) assemble() []bpf.Instruction {
	ret := bpf.RetConstant{Val: retNotify}
	if r.Errno != 0 {
		ret.Val = retErrno | uint32(r.Errno)
	}
	if r.Test == Always {
		return []bpf.Instruction{
			bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.nr), SkipFalse: 1},
			ret,
		}
	}
	low := uint32(offArgs + 8*r.Arg) // both architectures are little endian
	return []bpf.Instruction{
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: uint32(r.nr), SkipFalse: 6},
		bpf.LoadAbsolute{Off: low, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: 0, SkipTrue: 2},
		bpf.LoadAbsolute{Off: low + 4, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: 0, SkipTrue: 1},
		ret,
		bpf.RetConstant{Val: retAllow},
	}
}
