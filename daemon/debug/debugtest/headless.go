package debugtest

import (
	"net"
	"testing"
	"time"

	"github.com/go-delve/delve/service/api"
	"github.com/go-delve/delve/service/rpc2"
)

// A Headless is a client of Delve's own protocol, version 2, which GoLand speaks.
type Headless struct {
	*rpc2.RPCClient
	t testing.TB
}

// DialHeadless connects to a dlv --headless.
func DialHeadless(t testing.TB, addr string) *Headless {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &Headless{rpc2.NewClientFromConn(conn), t}
}

// Break sets a breakpoint.
func (h *Headless) Break(file string, line int) {
	h.t.Helper()
	if _, err := h.CreateBreakpoint(&api.Breakpoint{File: file, Line: line}); err != nil {
		h.t.Fatal(err)
	}
}

// Run has the debuggee go on; what comes is where it stops next.
func (h *Headless) Run() <-chan *api.DebuggerState { return h.Continue() }

// Wait waits for a stop that is no end, and returns the goroutine.
func (h *Headless) Wait(stop <-chan *api.DebuggerState) (goroutine int64) {
	h.t.Helper()
	select {
	case s := <-stop:
		if s == nil || s.Err != nil || s.Exited || s.SelectedGoroutine == nil {
			h.t.Fatalf("it stopped so: %+v", s)
		}
		return s.SelectedGoroutine.ID
	case <-time.After(patience):
		h.t.Fatal("it does not stop")
	}
	return 0
}

// Value evaluates an expression in a goroutine's first frame.
func (h *Headless) Value(goroutine int64, expression string) string {
	h.t.Helper()
	v, err := h.EvalVariable(api.EvalScope{GoroutineID: goroutine}, expression, api.LoadConfig{FollowPointers: true, MaxStringLen: 512, MaxStructFields: -1})
	if err != nil {
		h.t.Fatalf("%s: %v", expression, err)
	}
	return v.Value
}

// Where names the functions of a goroutine's first frames.
func (h *Headless) Where(goroutine int64, n int) (functions []string) {
	h.t.Helper()
	frames, err := h.Stacktrace(goroutine, n-1, 0, 0, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for _, f := range frames {
		functions = append(functions, f.Function.Name())
	}
	return functions
}
