package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

func TestContext(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	client, hello := agenttest.New(t, a.addr)
	if hello.Version != protocol.Version || hello.Build != protocol.Build || hello.Hostname != "web-7d4b9" {
		t.Errorf("hello: %+v", hello)
	}
	if !slices.Contains(hello.Addrs, podV4) || !slices.Contains(hello.Addrs, podV6) || len(hello.Addrs) != 2 {
		t.Errorf("addresses: %v", hello.Addrs)
	}
	for _, able := range hello.Abilities {
		if able.Err != "" {
			t.Errorf("ability %s: %s", able.Name, able.Err)
		}
	}
	if args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", a.Process.Pid)); err != nil || !strings.HasPrefix(string(args), "mirrord-agent\x00") {
		t.Errorf("agent's arguments: %q, %v", args, err)
	}

	environ, err := client.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply))
	if err != nil || !slices.Contains(strings.Split(string(environ), "\x00"), "COLOUR=blue") {
		t.Errorf("environment: %q, %v", environ, err)
	}
	var open protocol.OpenReply
	content, err := client.Ask(protocol.KindOpen, protocol.Open{Path: "/config", Inline: 64 << 10}, &open)
	if err != nil || string(content) != "colour: blue\n" || open.Path != "/etc/shop/..2026/config.yaml" {
		t.Errorf("file: %+v %q, %v", open, content, err)
	}

	// The pod's own loopback, from the pod.
	stream := client.Stream()
	if _, err := protocol.Call(stream, protocol.KindConnect, connectTo("127.0.0.1"), new(protocol.ConnectReply)); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Ask(protocol.KindConnect, connectTo("127.0.0.2:1"), new(protocol.ConnectReply)); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("connecting to a closed port: %v", err)
	}
}

func connectTo(addr string) map[string]string {
	if !strings.Contains(addr, ":") {
		addr = net.JoinHostPort(addr, strconv.Itoa(podPort))
	}
	return map[string]string{"addr": addr}
}

// All that a client has is given back when it is gone.
func TestClientEnds(t *testing.T) {
	p := newPod(t)
	a := startFor(t, p)
	before := descriptors(t, a)
	client, _ := agenttest.New(t, a.addr)
	client.Steal(podPort)
	for range 10 {
		if _, err := client.Ask(protocol.KindOpen, protocol.Open{Path: "/config"}, new(protocol.OpenReply)); err != nil {
			t.Fatal(err)
		}
		if _, err := protocol.Call(client.Stream(), protocol.KindConnect, connectTo(podV4+":8080"), new(protocol.ConnectReply)); err != nil {
			t.Fatal(err)
		}
		stream, _ := client.Offered()
		relayed(t, stream)
	}
	if n := descriptors(t, a); n < before+30 {
		t.Errorf("%d descriptors, then %d", before, n)
	}
	client.End()
	a.logs("client went")
	p.dial(t, false, podV4).hearsPod()
	second, _ := agenttest.New(t, a.addr)
	second.Steal(podPort)
	second.End()
	a.logs("client went")
	if err := a.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if rest := a.rest(); strings.Contains(rest, "err=") && strings.Contains(rest, "level=ERROR") {
		t.Errorf("agent said %s", rest)
	}
}

func descriptors(t *testing.T, a *agent) int {
	t.Helper()
	list, err := os.ReadDir(filepath.Join("/proc", strconv.Itoa(a.Process.Pid), "fd"))
	if err != nil {
		t.Fatal(err)
	}
	return len(list)
}

func TestIdleEnd(t *testing.T) {
	agenttest.Namespace(t)
	a := start(t, nil, "--idle", "1ms")
	if rest := a.rest(); !strings.Contains(rest, "no client for 1ms") {
		t.Errorf("agent said %s", rest)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
}

// The idle time runs while there is no client, from the last one's end.
func TestIdleClients(t *testing.T) {
	agenttest.Namespace(t)
	const idle = 500 * time.Millisecond
	a := start(t, nil, "--idle", idle.String())
	for began := time.Now(); time.Since(began) < 2*idle; { // they come and go
		client, _ := agenttest.New(t, a.addr)
		client.End()
		a.logs("client went")
	}
	one, _ := agenttest.New(t, a.addr)
	two, _ := agenttest.New(t, a.addr)
	one.End()
	for began := time.Now(); time.Since(began) < 2*idle; {
		if _, err := two.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply)); err != nil {
			t.Fatal(err)
		}
	}
	last := time.Now()
	two.End()
	if rest := a.rest(); !strings.Contains(rest, "no client for 500ms") {
		t.Errorf("agent said %s", rest)
	}
	if waited := time.Since(last); waited < idle {
		t.Errorf("agent ended %v after its last client", waited)
	}
	if err := a.Wait(); err != nil {
		t.Errorf("agent ended with %v", err)
	}
}

// What cannot be served is said at once, with what it is for want of.
func TestCannotStart(t *testing.T) {
	p := newPod(t)
	pid := strconv.Itoa(p.pid)
	for name, test := range map[string]struct {
		env  []string
		args []string
		want []string
	}{
		"no process":    {nil, []string{"--pid", "4194304"}, []string{"finding process 4194304", "no such process"}},
		"no container":  {nil, []string{"--container", strings.Repeat("ab", 32)}, []string{"finding container abab", "hostPID"}},
		"not an id":     {nil, []string{"--container", "web"}, []string{`"web" is not a container id`}},
		"both":          {nil, []string{"--container", strings.Repeat("ab", 32), "--pid", pid}, []string{"name one"}},
		"build":         {nil, []string{"--build", "other"}, []string{"build " + protocol.Build, "not other"}},
		"no SYS_ADMIN":  {[]string{dropVar + "=" + strconv.Itoa(unix.CAP_SYS_ADMIN)}, []string{"--pid", pid}, []string{"entering net namespace", "CAP_SYS_ADMIN"}},
		"no SYS_PTRACE": {[]string{dropVar + "=" + strconv.Itoa(unix.CAP_SYS_PTRACE)}, []string{"--pid", pid}, []string{"entering net namespace", "CAP_SYS_PTRACE"}},
		"address":       {nil, []string{"--listen", "127.0.0.1:x"}, []string{"listen"}},
		"argument":      {nil, []string{"extra"}, []string{`unexpected argument "extra"`}},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, test.env, test.args...)
			said := a.rest()
			for _, want := range test.want {
				if !strings.Contains(said, want) {
					t.Errorf("agent said %q, want %q", said, want)
				}
			}
			_ = a.Wait()
			if code := a.ProcessState.ExitCode(); code != 1 {
				t.Errorf("exit code %d", code)
			}
		})
	}
}

// An agent that lacks what the target may do with files says so.
func TestCannotAct(t *testing.T) {
	p := newPod(t)
	for name, test := range map[string]struct{ env, want string }{
		"all there":       {"", ""},
		"no DAC_OVERRIDE": {fmt.Sprintf("%s=%d", dropVar, unix.CAP_DAC_OVERRIDE), "lacks: DAC_OVERRIDE"},
	} {
		t.Run(name, func(t *testing.T) {
			a := start(t, []string{test.env}, "--pid", strconv.Itoa(p.pid))
			_, hello := agenttest.New(t, a.addr)
			i := slices.IndexFunc(hello.Abilities, func(a protocol.Ability) bool { return a.Name == protocol.AbilityWrite })
			if i < 0 || !strings.Contains(hello.Abilities[i].Err, test.want) || (test.want == "") != (hello.Abilities[i].Err == "") {
				t.Errorf("abilities: %+v", hello.Abilities)
			}
		})
	}
}

// Without the capability for sk_lookup ports are stolen all the same.
func TestStealsWithoutBPF(t *testing.T) {
	agenttest.Namespace(t)
	a := start(t, []string{fmt.Sprintf("%s=%d,%d", dropVar, unix.CAP_SYS_ADMIN, unix.CAP_BPF)})
	client, _ := agenttest.New(t, a.addr)
	var reply protocol.StealReply
	if _, err := protocol.Call(client.Stream(), protocol.KindSteal, protocol.Steal{Port: podPort}, &reply); err != nil || reply.Redirect != "TPROXY" {
		t.Errorf("redirect %q, %v", reply.Redirect, err)
	}
}

// Without the capabilities to steal the rest is served, and the hello says so.
func TestCannotSteal(t *testing.T) {
	agenttest.Namespace(t)
	a := start(t, []string{fmt.Sprintf("%s=%d,%d,%d", dropVar, unix.CAP_SYS_ADMIN, unix.CAP_BPF, unix.CAP_NET_ADMIN)})
	client, hello := agenttest.New(t, a.addr)
	i := slices.IndexFunc(hello.Abilities, func(a protocol.Ability) bool { return a.Name == protocol.AbilityRedirect })
	if i < 0 || !strings.Contains(hello.Abilities[i].Err, "CAP_NET_ADMIN") {
		t.Errorf("abilities: %+v", hello.Abilities)
	}
	_, err := client.Ask(protocol.KindSteal, protocol.Steal{Port: podPort}, new(protocol.StealReply))
	if !errors.Is(err, unix.EPERM) || !strings.Contains(err.Error(), "stealing port 8080") {
		t.Errorf("steal: %v", err)
	}
	if _, err := client.Ask(protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply)); err != nil {
		t.Error(err)
	}
}
