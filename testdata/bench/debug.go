package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/google/go-dap"
)

// debugging is Delve inside the layer; the direct way is Delve alone.
func debugging(p *programs) *scene {
	w := newWorld(p, "debug")
	program := filepath.Join(p.dir, "stops")
	debug := func(r row, kind string, args ...string) row {
		work := append([]string{w.static, "work", "debug", kind, program}, args...)
		way := func(command ...string) figure {
			return w.mine(append(append(work[:len(work):len(work)], "--"), command...)...)
		}
		r.unit, r.slow = "ms", true
		r.direct = way(p.cli+"-dlv", "dap", "--listen=127.0.0.1:0")
		r.ours = way(p.cli, "dlv", "--agent", agentAddr, "-f", w.config, "--", "dap", "--listen=127.0.0.1:0")
		return r
	}
	begin := func(ctx context.Context) error {
		build := exec.CommandContext(ctx, "go", "build", "-gcflags=all=-N -l", "-o", program, "./testdata/bench/stops")
		if out, err := build.CombinedOutput(); err != nil {
			return fmt.Errorf("building the debuggee: %w\n%s", err, out)
		}
		return w.begin(ctx)
	}
	return &scene{group: "debug", begin: begin, pin: w.pin, end: w.end, rows: []row{
		debug(row{name: "debug/start, to main.main"}, "start"),
		debug(row{name: "debug/restart, to main.main", goal: 1.2, enough: 1000}, "restart"),
		debug(row{name: "debug/breakpoint", goal: 1.2}, "breakpoint"),
		// Nobody has the address: each connect takes seconds.
		debug(row{name: "debug/breakpoint beside a held call", goal: 1.2}, "breakpoint", nobodyAddr+":80"),
	}}
}

// How often an editor's user does it, for the median.
const (
	restarts    = 3
	breakpoints = 30
)

// debugWork drives a DAP server as an editor does, and returns milliseconds:
//
//	start PROGRAM [ARGUMENT] -- COMMAND   from the command's start to the first breakpoint
//	restart …                             from the request to that
//	breakpoint …                          from one to the next
func debugWork(args []string) (ms float64, err error) {
	i := 0
	for i < len(args) && args[i] != "--" {
		i++
	}
	if i < 2 || i+1 >= len(args) {
		return 0, fmt.Errorf("no debug work %q", args)
	}
	began := time.Now()
	e, err := newEditor(args[i+1:])
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, e.end()) }()
	kind := args[0]
	breakAt := []string{"main.main"}
	if kind == "breakpoint" {
		breakAt = []string{"main.stop"}
	}
	if err := e.launch(args[1], args[2:i], breakAt); err != nil {
		return 0, err
	}
	times := []float64{since(began)}
	switch kind {
	case "restart":
		times = nil
		for range restarts {
			began = time.Now()
			if err := e.restart(); err != nil {
				return 0, err
			}
			times = append(times, since(began))
		}
	case "breakpoint":
		times = nil
		for range breakpoints {
			began = time.Now()
			if err := e.resume(); err != nil {
				return 0, err
			}
			times = append(times, since(began))
		}
	}
	return median(times), nil
}

func since(t time.Time) float64 { return float64(time.Since(t)) / float64(time.Millisecond) }

// An editor is a DAP client and the server that it has started.
type editor struct {
	cmd    *exec.Cmd
	conn   net.Conn
	in     *bufio.Reader
	seq    int
	thread int // that has stopped
	at     []dap.FunctionBreakpoint
}

func newEditor(command []string) (*editor, error) {
	e := &editor{cmd: exec.Command(command[0], command[1:]...)}
	var stderr bytes.Buffer
	e.cmd.Stderr = &stderr
	out, err := e.cmd.StdoutPipe()
	if err == nil {
		err = e.cmd.Start()
	}
	if err != nil {
		return nil, err
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	_, addr, ok := strings.Cut(strings.TrimSpace(line), "listening at: ")
	if !ok {
		return nil, fmt.Errorf("%q said %q, not where it listens: %w\n%s", command, line, errors.Join(err, e.cmd.Wait()), &stderr)
	}
	if e.conn, err = net.Dial("tcp", addr); err != nil {
		return nil, errors.Join(err, e.cmd.Process.Kill(), e.cmd.Wait())
	}
	e.in = bufio.NewReader(e.conn)
	return e, nil
}

// send sends a request.
func (e *editor) send(command string, args any) error {
	e.seq++
	b, err := json.Marshal(map[string]any{"seq": e.seq, "type": "request", "command": command, "arguments": args})
	if err != nil {
		return err
	}
	return dap.WriteBaseMessage(e.conn, b)
}

// until reads messages until done says so.
func (e *editor) until(what string, done func(dap.Message) bool) error {
	for {
		m, err := dap.ReadProtocolMessage(e.in)
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if r, ok := m.(*dap.ErrorResponse); ok {
			return fmt.Errorf("waiting for %s: %s: %s", what, r.Message, r.Body.Error.Format)
		}
		if done(m) {
			return nil
		}
	}
}

// do sends a request and waits for its response.
func (e *editor) do(command string, args any) error {
	if err := e.send(command, args); err != nil {
		return err
	}
	seq := e.seq
	return e.until("the response to "+command, func(m dap.Message) bool {
		r, ok := m.(dap.ResponseMessage)
		return ok && r.GetResponse().RequestSeq == seq
	})
}

func (e *editor) initialized() error {
	return e.until("initialized", func(m dap.Message) bool { _, ok := m.(*dap.InitializedEvent); return ok })
}

func (e *editor) stopped() error {
	return e.until("a stop", func(m dap.Message) bool {
		s, ok := m.(*dap.StoppedEvent)
		if ok {
			e.thread = s.Body.ThreadId
		}
		return ok
	})
}

// launch starts the debuggee and returns when it has stopped in a function.
func (e *editor) launch(program string, args, functions []string) error {
	for _, name := range functions {
		e.at = append(e.at, dap.FunctionBreakpoint{Name: name})
	}
	return inTurn(
		e.ask("initialize", dap.InitializeRequestArguments{AdapterID: "go", PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true}),
		e.say("launch", map[string]any{"request": "launch", "mode": "exec", "program": program, "args": args, "outputMode": "remote"}),
		e.begin,
	)
}

// begin answers the server that is ready, as it is after each start.
func (e *editor) begin() error {
	return inTurn(
		e.initialized,
		e.ask("setFunctionBreakpoints", dap.SetFunctionBreakpointsArguments{Breakpoints: e.at}),
		e.say("configurationDone", nil),
		e.stopped,
	)
}

// restart has the debuggee start anew and stop as at first.
func (e *editor) restart() error {
	return inTurn(e.say("restart", map[string]any{"arguments": map[string]any{"request": "launch", "rebuild": false}}), e.begin)
}

// resume has it go on to the next stop.
func (e *editor) resume() error {
	return inTurn(e.say("continue", dap.ContinueArguments{ThreadId: e.thread}), e.stopped)
}

func inTurn(steps ...func() error) error {
	for _, step := range steps {
		if err := step(); err != nil {
			return err
		}
	}
	return nil
}

func (e *editor) say(command string, args any) func() error {
	return func() error { return e.send(command, args) }
}

func (e *editor) ask(command string, args any) func() error {
	return func() error { return e.do(command, args) }
}

// end ends debuggee and server.
func (e *editor) end() error {
	err := e.send("disconnect", dap.DisconnectArguments{TerminateDebuggee: true})
	if err != nil {
		_ = e.cmd.Process.Signal(os.Interrupt)
	}
	_ = e.cmd.Wait()
	e.conn.Close()
	return err
}
