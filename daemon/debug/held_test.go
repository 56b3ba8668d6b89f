package main_test

import (
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"

	"mirrord/daemon/debug/debugtest"
	wire "mirrord/protocol/layer"
)

// A goroutine that waits in a remote call holds up neither a breakpoint nor a
// step, and has its answer in the end: the target answers when the debuggee has
// been stopped.
func TestStopWhileACallIsHeld(t *testing.T) {
	for _, call := range []string{"held connect", "held dial", "held open", "held read"} {
		t.Run(call, func(t *testing.T) {
			_, debuggee := programs(t)
			killAll(t, debuggee)
			w := newWorld(t)
			w.write(t, "/app/held", "")
			w.write(t, "/app/slow", "")
			arrived, release := make(chan struct{}), make(chan struct{})
			arrive := sync.OnceFunc(func() { close(arrived) })
			let := sync.OnceFunc(func() { close(release) })
			t.Cleanup(let)
			w.Hold = func(q *wire.Request) {
				switch {
				case q.Path == "/app/held":
					<-arrived
				case q.Path == "/app/connected":
					arrive()
				case q.Path == "/app/slow", q.Op == wire.OpConnect && call == "held connect":
					arrive()
					<-release
				}
			}
			w.Dial = func(netip.AddrPort) (net.Conn, error) {
				if call == "held dial" {
					arrive()
					<-release
				}
				return silent(release)
			}
			p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{call}})
			c.Break(source(t), at(t, "held"))
			c.Run()
			main := c.Stopped("breakpoint")
			if !c.Runs("main.hold.func1") {
				t.Error("no goroutine is in the call that is held")
			}
			c.Resume("next", main)
			c.Stopped("step")
			c.Printed("here")
			if out := c.Out(); strings.Contains(out, "released") {
				t.Errorf("before it was answered it printed %q", out)
			}
			c.Resume("continue", main)
			let()
			c.Printed("released")
			if code := c.Exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			c.Disconnect(true)
			if code := p.Wait(); code != 0 {
				t.Errorf("dlv ended with %d", code)
			}
		})
	}
}

// silent returns a connection to who says nothing, and hangs up when it may.
func silent(release <-chan struct{}) (net.Conn, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go func() {
		defer l.Close()
		if c, err := l.Accept(); err == nil {
			<-release
			c.Close()
		}
	}()
	return net.Dial("tcp", l.Addr().String())
}
