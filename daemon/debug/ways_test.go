package main_test

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mirrord/daemon/debug/debugtest"
)

// module goes to a directory with a program and its test, each of which prints
// word.
func module(t *testing.T) (edit func(word string)) {
	t.Helper()
	t.Chdir(t.TempDir())
	edit = func(word string) {
		for name, text := range map[string]string{
			"go.mod":       "module edited\n",
			"main.go":      "package main\n\nfunc main() { println(word) }\n\nconst word = `" + word + "`\n",
			"main_test.go": "package main\n\nimport \"testing\"\n\nfunc TestWord(t *testing.T) { println(word) }\n",
		} {
			if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}
	return edit
}

// What Delve builds, and after an edit builds anew, is the debuggee.
func TestBuilds(t *testing.T) {
	dlv, _ := programs(t)
	for _, mode := range []string{"debug", "test"} {
		t.Run(mode, func(t *testing.T) {
			edit := module(t)
			run := func(cmd *exec.Cmd) string {
				edit("first")
				p := debugtest.Start(t, cmd)
				c := p.Dial()
				c.Launch(debugtest.Args{"mode": mode, "program": ".", "outputMode": "local", "stopOnEntry": true})
				c.Run()
				c.Stopped("entry")
				edit("second")
				c.Restart(true)
				if code := c.Exit(); code != 0 {
					t.Errorf("exit code %d", code)
				}
				c.Disconnect(true)
				p.Wait()
				if said := p.Stderr(); said != "second\n" {
					t.Errorf("%v: the debuggee said %q", cmd.Args, said)
				}
				return c.Transcript()
			}
			plain := run(exec.Command(dlv, "dap", "--listen=127.0.0.1:0"))
			w := newWorld(t)
			inside := run(w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			if diff := cmp.Diff(plain, inside); diff != "" {
				t.Errorf("inside the layer the editor sees (-without +inside):\n%s", diff)
			}
			if left, err := os.ReadDir("."); err != nil || len(left) != 3 {
				t.Errorf("left in the directory: %v, %v", left, err)
			}
		})
	}
}

// An editor that listens itself, as VS Code does for a terminal of its own, is
// called.
func TestClientAddr(t *testing.T) {
	_, debuggee := programs(t)
	killAll(t, debuggee)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	w := newWorld(t)
	cmd := w.dlv(t, "dap", "--client-addr="+l.Addr().String())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	c := debugtest.New(t, conn)
	c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"environment", "TEST_REMOTE"}})
	c.Run()
	c.Exit()
	if want := "TEST_REMOTE=\"the target's\" true\nend\n"; c.Out() != want {
		t.Errorf("it printed %q, want %q", c.Out(), want)
	}
	c.Disconnect(true)
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// Delve's own terminal, and a trace, say what they say without the layer.
func TestTerminal(t *testing.T) {
	dlv, debuggee := programs(t)
	killAll(t, debuggee)
	for _, tt := range []struct{ args, input, words string }{
		{"exec --allow-non-terminal-interactive=true " + debuggee + " -- count", "break main.count\ncontinue\nprint n\nstepout\ncontinue\nexit\n", "total 10"},
		{"trace --exec " + debuggee + " main.add -- count", "", "main.add("},
	} {
		run := func(cmd *exec.Cmd) string {
			var out bytes.Buffer
			cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(tt.input), &out, &out
			if err := cmd.Run(); err != nil {
				t.Errorf("%v: %v", cmd.Args, err)
			}
			// What the debuggee prints comes between Delve's lines when it likes.
			lines := strings.Split(debugtest.Normal(strings.ReplaceAll(out.String(), "(dlv) ", "")), "\n")
			slices.Sort(lines)
			return strings.Join(lines, "\n")
		}
		plain := run(exec.Command(dlv, strings.Fields(tt.args)...))
		w := newWorld(t)
		inside := run(w.dlv(t, strings.Fields(tt.args)...))
		if !strings.Contains(inside, tt.words) {
			t.Errorf("dlv %s says %q, without %q", tt.args, inside, tt.words)
		}
		if diff := cmp.Diff(plain, inside); diff != "" {
			t.Errorf("inside the layer dlv %s says (-without +inside):\n%s", tt.args, diff)
		}
	}
}
