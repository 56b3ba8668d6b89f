package layer

import (
	"encoding/binary"
	"log/slog"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	"mirrord/protocol/ide"
)

// Pitfall 12: a rule that tests an argument costs its call the kernel's bitmap
// of allowed calls, so only the two that need one have one. What carries data
// without an address has no rule at all, but for the kin of sendmsg, whose
// addresses the program cannot see.
func TestPitfall12NoRuleOnTheDataPath(t *testing.T) {
	for _, h := range hooks {
		if h.Test != seccomp.Always && h.Call != seccomp.Sendto && h.Call != seccomp.Recvfrom {
			t.Errorf("%v tests an argument", h.Call)
		}
	}
}

// What the policy cannot decide about is not trapped.
func TestProgramFollowsPolicy(t *testing.T) {
	for name, tt := range map[string]struct {
		set            ide.Policy
		want, unwanted []seccomp.Call
	}{
		"nothing":   {ide.Policy{FSMode: "local"}, []seccomp.Call{seccomp.IoUringSetup}, []seccomp.Call{seccomp.Openat, seccomp.Connect, seccomp.Bind, seccomp.Uname, seccomp.Execve}},
		"files":     {ide.Policy{FSMode: "read"}, []seccomp.Call{seccomp.Openat, seccomp.Fstat, seccomp.Bind}, []seccomp.Call{seccomp.Connect, seccomp.Listen, seccomp.Getpeername}},
		"names":     {ide.Policy{FSMode: "local", DNS: true}, []seccomp.Call{seccomp.Openat, seccomp.Connect}, []seccomp.Call{seccomp.Bind}},
		"listeners": {ide.Policy{FSMode: "local", Steal: true}, []seccomp.Call{seccomp.Bind, seccomp.Accept4, seccomp.Getpeername}, []seccomp.Call{seccomp.Connect, seccomp.Openat}},
		"tcp":       {ide.Policy{FSMode: "local", OutgoingTCP: true}, []seccomp.Call{seccomp.Connect}, []seccomp.Call{seccomp.Sendmsg, seccomp.Recvmsg}},
		"udp":       {ide.Policy{FSMode: "local", OutgoingUDP: true}, []seccomp.Call{seccomp.Sendmsg, seccomp.Recvmmsg}, []seccomp.Call{seccomp.Openat}},
		"mirror":    {ide.Policy{FSMode: "local", Mirror: true}, []seccomp.Call{seccomp.Bind, seccomp.Listen}, []seccomp.Call{seccomp.Connect}},
		"programs":  {ide.Policy{FSMode: "local", SkipProcesses: []string{"go"}}, []seccomp.Call{seccomp.Execve, seccomp.Execveat}, []seccomp.Call{seccomp.Openat}},
		"hostname":  {ide.Policy{FSMode: "local", Hostname: true}, []seccomp.Call{seccomp.Uname}, []seccomp.Call{seccomp.Openat}},
	} {
		p, err := policy.New(tt.set, policy.Client{})
		if err != nil {
			t.Fatal(err)
		}
		have := map[seccomp.Call]bool{}
		for _, r := range New(slog.New(slog.DiscardHandler), Config{Policy: p, Daemon: &Client{}}).Program() {
			have[r.Call] = true
		}
		for _, c := range tt.want {
			if !have[c] {
				t.Errorf("%s: %v is not trapped", name, c)
			}
		}
		for _, c := range tt.unwanted {
			if have[c] {
				t.Errorf("%s: %v is trapped", name, c)
			}
		}
	}
}

// The whole program is one of each architecture, and its calls are those that we mean.
func TestProgramOfEachArchitecture(t *testing.T) {
	p, err := policy.New(ide.Policy{FSMode: "write", DNS: true, OutgoingTCP: true, OutgoingUDP: true, Steal: true, Hostname: true}, policy.Client{})
	if err != nil {
		t.Fatal(err)
	}
	rules := New(slog.New(slog.DiscardHandler), Config{Policy: p, Daemon: &Client{}}).Program()
	for audit, a := range map[uint32]seccomp.Arch{unix.AUDIT_ARCH_X86_64: seccomp.AMD64, unix.AUDIT_ARCH_AARCH64: seccomp.ARM64} {
		raw, err := seccomp.Program(a, rules)
		if err != nil {
			t.Fatal(err)
		}
		ins, _ := bpf.Disassemble(raw)
		vm, err := bpf.NewVM(ins)
		if err != nil {
			t.Fatal(err)
		}
		for call, want := range map[seccomp.Call]int{
			seccomp.Openat: unix.SECCOMP_RET_USER_NOTIF, seccomp.Accept4: unix.SECCOMP_RET_USER_NOTIF,
			seccomp.Connect: unix.SECCOMP_RET_USER_NOTIF, seccomp.IoUringSetup: unix.SECCOMP_RET_ERRNO,
		} {
			nr, ok := a.Number(call)
			if !ok {
				t.Fatalf("%v has no number", call)
			}
			data := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(nr)), audit)
			got, err := vm.Run(append(data, make([]byte, 56)...))
			if err != nil || got&unix.SECCOMP_RET_ACTION_FULL != want {
				t.Errorf("%#x: %v (%d) came to %#x, %v", audit, call, nr, got, err)
			}
		}
	}
}
