package debugtest

import (
	"bytes"
	"os"
	"strings"
	"testing"

	"github.com/google/go-dap"
)

// Args are the arguments of a request that has no type of its own.
type Args map[string]any

// Launch starts a debuggee, which waits for Run. What it prints comes as events.
func (c *Client) Launch(args Args) {
	c.t.Helper()
	whole := Args{"request": "launch", "mode": "debug", "outputMode": "remote"}
	for name, value := range args {
		whole[name] = value
	}
	c.Do("launch", whole)
	Next[*dap.InitializedEvent](c)
}

// Run ends the configuration: the debuggee runs.
func (c *Client) Run() {
	c.t.Helper()
	c.Do("configurationDone", nil)
}

// Break replaces the breakpoints of a file.
func (c *Client) Break(file string, list ...dap.SourceBreakpoint) {
	c.t.Helper()
	m := c.Do("setBreakpoints", dap.SetBreakpointsArguments{Source: dap.Source{Path: file}, Breakpoints: list})
	for _, b := range m.(*dap.SetBreakpointsResponse).Body.Breakpoints {
		if !b.Verified {
			c.t.Fatalf("no breakpoint in %s: %+v", file, b)
		}
	}
}

// Mark finds the line of a source file that holds text.
func Mark(t testing.TB, file, text string) int {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := bytes.Cut(b, []byte(text))
	if !ok {
		t.Fatalf("%s has no line with %q", file, text)
	}
	return bytes.Count(before, []byte("\n")) + 1
}

// Stopped waits until the debuggee stops for a reason, and returns where.
func (c *Client) Stopped(reason string) (thread int) {
	c.t.Helper()
	e := Next[*dap.StoppedEvent](c)
	if e.Body.Reason != reason {
		c.t.Fatalf("stopped by %+v, want %s", e.Body, reason)
	}
	return e.Body.ThreadId
}

// Resume has thread go on: continue, next, stepIn, stepOut.
func (c *Client) Resume(command string, thread int) {
	c.t.Helper()
	c.Do(command, Args{"threadId": thread})
}

// Stack returns up to n frames of a thread.
func (c *Client) Stack(thread, n int) []dap.StackFrame {
	c.t.Helper()
	m := c.Do("stackTrace", dap.StackTraceArguments{ThreadId: thread, Levels: n})
	return m.(*dap.StackTraceResponse).Body.StackFrames
}

// Locals returns a frame's variables and their values.
func (c *Client) Locals(frame int) map[string]string {
	c.t.Helper()
	scopes := c.Do("scopes", dap.ScopesArguments{FrameId: frame}).(*dap.ScopesResponse).Body.Scopes
	values := map[string]string{}
	for _, s := range scopes {
		m := c.Do("variables", dap.VariablesArguments{VariablesReference: s.VariablesReference})
		for _, v := range m.(*dap.VariablesResponse).Body.Variables {
			values[v.Name] = v.Value
		}
	}
	return values
}

// Evaluate returns an expression's value in a frame.
func (c *Client) Evaluate(frame int, expression string) string {
	c.t.Helper()
	m := c.Do("evaluate", dap.EvaluateArguments{Expression: expression, FrameId: frame, Context: "repl"})
	return m.(*dap.EvaluateResponse).Body.Result
}

// Set gives a frame's variable a value.
func (c *Client) Set(frame int, name, value string) {
	c.t.Helper()
	scopes := c.Do("scopes", dap.ScopesArguments{FrameId: frame}).(*dap.ScopesResponse).Body.Scopes
	c.Do("setVariable", dap.SetVariableArguments{VariablesReference: scopes[0].VariablesReference, Name: name, Value: value})
}

// Goroutines returns those of package main.
func (c *Client) Goroutines() (names []string) {
	c.t.Helper()
	for _, th := range c.Do("threads", nil).(*dap.ThreadsResponse).Body.Threads {
		if strings.Contains(th.Name, " main.") {
			names = append(names, th.Name)
		}
	}
	return names
}

// Restart starts the debuggee anew, built anew if it was built, and runs it.
func (c *Client) Restart(rebuild bool) {
	c.t.Helper()
	c.Do("restart", Args{"arguments": Args{"request": "launch", "rebuild": rebuild}})
	Next[*dap.InitializedEvent](c)
	c.Run()
}

// Runs tells whether a function is on some goroutine's stack.
func (c *Client) Runs(function string) bool {
	c.t.Helper()
	for _, th := range c.Do("threads", nil).(*dap.ThreadsResponse).Body.Threads {
		for _, f := range c.Stack(th.Id, 50) {
			if f.Name == function {
				return true
			}
		}
	}
	return false
}

// Disconnect ends the debug session.
func (c *Client) Disconnect(terminate bool) {
	c.t.Helper()
	c.Do("disconnect", dap.DisconnectArguments{TerminateDebuggee: terminate})
}

// Exit waits until the debuggee has ended, and returns its exit code.
func (c *Client) Exit() int {
	c.t.Helper()
	e := Next[*dap.ExitedEvent](c)
	Next[*dap.TerminatedEvent](c)
	return e.Body.ExitCode
}

// Printed waits until the debuggee has printed text, after what was printed when
// Printed was called before.
func (c *Client) Printed(text string) {
	c.t.Helper()
	for printed := ""; !strings.Contains(printed, text); {
		if e := Next[*dap.OutputEvent](c); e.Body.Category == "stdout" || e.Body.Category == "stderr" {
			printed += e.Body.Output
		}
	}
}

// Out is all that the debuggee has printed so far.
func (c *Client) Out() (text string) {
	for _, m := range c.all {
		if e, ok := m.(*dap.OutputEvent); ok && e.Body.Category == "stdout" {
			text += e.Body.Output
		}
	}
	return text
}
