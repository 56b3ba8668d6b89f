package main_test

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
)

// at is a breakpoint of the debuggee.
func at(t *testing.T, mark string) dap.SourceBreakpoint {
	t.Helper()
	return dap.SourceBreakpoint{Line: debugtest.Mark(t, source(t), "// mark: "+mark)}
}

// Each script is what an editor does.
var scripts = []struct {
	name string
	args []string // the debuggee's
	mode string   // of output; Delve may lose remote output after a restart
	run  func(t *testing.T, c *debugtest.Client)
}{
	{"step", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Break(source(t), at(t, "loop"))
		c.Run()
		main := c.Stopped("breakpoint")
		c.Break(source(t))
		for _, command := range []string{"stepIn", "next", "stepOut", "next", "next"} {
			c.Resume(command, main)
			if again := c.Stopped("step"); again != main {
				t.Errorf("%s ended in goroutine %d, not %d", command, again, main)
			}
			if top := c.Stack(main, 1)[0]; command != "stepIn" { // where results are not set yet
				c.Locals(top.Id)
			}
		}
		c.Resume("continue", main)
		if code := c.Exit(); code != 0 {
			t.Errorf("exit code %d", code)
		}
		c.Disconnect(false)
	}},
	{"evaluate", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Break(source(t), at(t, "counted"))
		c.Run()
		main := c.Stopped("breakpoint")
		top := c.Stack(main, 0)[0].Id
		if total := c.Evaluate(top, "total + 1"); total != "11" {
			t.Errorf("total + 1 is %s", total)
		}
		c.Evaluate(top, "os.Args[1]")
		c.Evaluate(top, "call add(total, 5)")
		c.Refused("evaluate", dap.EvaluateArguments{Expression: "no_such", FrameId: c.Stack(main, 1)[0].Id, Context: "repl"})
		c.Set(c.Stack(main, 1)[0].Id, "n", "7")
		c.Resume("continue", main)
		c.Exit()
		c.Disconnect(true)
	}},
	{"goroutines", []string{"workers"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Break(source(t), at(t, "waiting"))
		c.Run()
		main := c.Stopped("breakpoint")
		if names := c.Goroutines(); len(names) != 4 {
			t.Errorf("the goroutines of main are %q", names)
		}
		c.Resume("continue", main)
		c.Exit()
		c.Disconnect(true)
	}},
	{"conditional breakpoint", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		b := at(t, "loop")
		b.Condition = "i == 3"
		c.Break(source(t), b)
		c.Run()
		main := c.Stopped("breakpoint")
		if i := c.Evaluate(c.Stack(main, 1)[0].Id, "i"); i != "3" {
			t.Errorf("stopped when i was %s", i)
		}
		c.Resume("continue", main)
		c.Exit()
		c.Disconnect(true)
	}},
	{"hit count", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		b := at(t, "loop")
		b.HitCondition = "% 2"
		c.Break(source(t), b)
		c.Run()
		for _, want := range []string{"1", "3"} {
			main := c.Stopped("breakpoint")
			if i := c.Evaluate(c.Stack(main, 1)[0].Id, "i"); i != want {
				t.Errorf("stopped when i was %s, want %s", i, want)
			}
			c.Resume("continue", main)
		}
		c.Exit()
		c.Disconnect(true)
	}},
	{"log point", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		b := at(t, "loop")
		b.LogMessage = "i is {i}, {total} so far"
		c.Break(source(t), b)
		c.Run()
		c.Printed("i is 4, 6 so far")
		c.Exit()
		c.Disconnect(true)
	}},
	{"function breakpoint", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Do("setFunctionBreakpoints", dap.SetFunctionBreakpointsArguments{Breakpoints: []dap.FunctionBreakpoint{{Name: "main.count"}}})
		c.Run()
		main := c.Stopped("function breakpoint")
		if top := c.Stack(main, 1)[0]; top.Name != "main.count" {
			t.Errorf("stopped in %s", top.Name)
		}
		c.Resume("continue", main)
		c.Exit()
		c.Disconnect(true)
	}},
	{"pause", []string{"loop"}, "remote", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Printed("looping")
		c.Resume("pause", 1)
		c.Stopped("pause")
		c.Resume("continue", 1)
		c.Resume("pause", 1)
		c.Stopped("pause")
		c.Disconnect(true)
	}},
	{"restart", []string{"count"}, "local", func(t *testing.T, c *debugtest.Client) {
		c.Break(source(t), at(t, "counted"))
		c.Run()
		c.Stopped("breakpoint")
		c.Restart(false)
		main := c.Stopped("breakpoint")
		c.Resume("continue", main)
		c.Exit()
		c.Disconnect(true)
	}},
	{"restart while it runs", []string{"loop"}, "local", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Resume("pause", 1)
		c.Stopped("pause")
		c.Resume("continue", 1)
		c.Restart(false)
		c.Resume("pause", 1)
		c.Stopped("pause") // to restart it
		c.Stopped("pause")
		c.Disconnect(true)
	}},
	{"panic", []string{"panic"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Run()
		main := c.Stopped("exception")
		e := c.Do("exceptionInfo", debugtest.Args{"threadId": main}).(*dap.ExceptionInfoResponse)
		if e.Body.ExceptionId != "panic" || e.Body.Description != `"out of order"` {
			t.Errorf("the exception is %+v", e.Body)
		}
		c.Resume("continue", main)
		if code := c.Exit(); code != 2 {
			t.Errorf("exit code %d", code)
		}
		c.Disconnect(true)
	}},
	{"crash", []string{"crash"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Run()
		main := c.Stopped("exception")
		c.Stack(main, 3)
		c.Resume("continue", main)
		if code := c.Exit(); code != 2 {
			t.Errorf("exit code %d", code)
		}
		c.Disconnect(true)
	}},
	{"killed", []string{"killed"}, "remote", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Exit()
		c.Disconnect(true)
	}},
	{"exit", []string{"exit"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Run()
		if code := c.Exit(); code != 3 {
			t.Errorf("exit code %d", code)
		}
		c.Disconnect(true)
	}},
	{"disconnect while it runs", []string{"loop"}, "remote", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Printed("looping")
		c.Disconnect(true)
	}},
	{"disconnect without terminating", []string{"loop"}, "remote", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Printed("looping")
		c.Disconnect(false)
	}},
	{"disconnect while it is stopped", []string{"count"}, "remote", func(t *testing.T, c *debugtest.Client) {
		c.Break(source(t), at(t, "loop"))
		c.Run()
		c.Stopped("breakpoint")
		c.Disconnect(true)
	}},
	{"terminate", []string{"loop"}, "remote", func(_ *testing.T, c *debugtest.Client) {
		c.Run()
		c.Printed("looping")
		c.Refused("terminate", nil)
		c.Disconnect(true)
	}},
}

// What an editor sees of a debug session is the same inside the layer.
func TestScripts(t *testing.T) {
	dlv, debuggee := programs(t)
	for _, s := range scripts {
		t.Run(s.name, func(t *testing.T) {
			killAll(t, debuggee)
			run := func(cmd *exec.Cmd) string {
				p := debugtest.Start(t, cmd)
				c := p.Dial()
				c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": s.args, "outputMode": s.mode})
				s.run(t, c)
				c.End()
				if code := p.Wait(); code != 0 {
					t.Errorf("%v ended with %d", cmd.Args, code)
				}
				// To end a debuggee that runs Delve halts it, and tells so if it is in time.
				return strings.ReplaceAll(c.Transcript(), `{"body":{"allThreadsStopped":true,"reason":"pause"},"event":"stopped"}`+"\n", "")
			}
			plain := run(exec.Command(dlv, "dap", "--listen=127.0.0.1:0"))
			w := newWorld(t)
			inside := run(w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			if diff := cmp.Diff(plain, inside); diff != "" {
				t.Errorf("inside the layer the editor sees (-without +inside):\n%s", diff)
			}
			if left := processesOf(t, debuggee); len(left) > 0 {
				t.Errorf("left running: %v", left)
			}
		})
	}
}
