package main_test

import (
	"bytes"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"mirrord/daemon/debug/debugtest"
)

// broken goes to a directory with a program that does not compile.
func broken(t *testing.T) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module broken\n", "main.go": "package main\n\nfunc main() { nowhere() }\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	t.Chdir(dir)
}

// What is wrong is told as Delve tells it, and nothing else is said.
func TestBadInput(t *testing.T) {
	dlv, _ := programs(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, tt := range []struct {
		name  string
		args  string
		path  string
		words string
	}{
		{"build error", "debug --headless --listen=127.0.0.1:0", os.Getenv("PATH"), `(?m)^\./main\.go:3:15: undefined: nowhere$`},
		{"build error of a test", "test --headless --listen=127.0.0.1:0", os.Getenv("PATH"), `(?m)^\./main\.go:3:15: undefined: nowhere`},
		{"no Go", "debug --headless --listen=127.0.0.1:0", "/nonexistent", `exec: "go": executable file not found in \$PATH`},
		{"no program", "exec --headless --listen=127.0.0.1:0 ./none", os.Getenv("PATH"), `no such file`},
		{"no executable", "exec --headless --listen=127.0.0.1:0 ./main.go", os.Getenv("PATH"), `not an executable`},
		{"port taken", "dap --listen=" + l.Addr().String(), os.Getenv("PATH"), `listen tcp 127\.0\.0\.1:\d+: bind: address already in use`},
		{"unknown flag", "dap --frob", os.Getenv("PATH"), `unknown flag: --frob`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			broken(t)
			t.Setenv("PATH", tt.path)
			run := func(cmd *exec.Cmd) (code int, said string) {
				var out bytes.Buffer
				cmd.Stdout, cmd.Stderr = &out, &out
				var exit *exec.ExitError
				if err := cmd.Run(); err != nil && !errors.As(err, &exit) {
					t.Fatal(err)
				}
				return cmd.ProcessState.ExitCode(), regexp.MustCompile(`__debug_bin\d+|debug\.test\d+|at: 127\.0\.0\.1:\d+`).ReplaceAllString(out.String(), "OUTPUT")
			}
			args := strings.Fields(tt.args)
			code, plain := run(exec.Command(dlv, args...))
			if code == 0 || !regexp.MustCompile(tt.words).MatchString(plain) {
				t.Errorf("Delve ends with %d and says %q, want %s", code, plain, tt.words)
			}
			w := newWorld(t)
			codeInside, inside := run(w.dlv(t, args...))
			if codeInside != code {
				t.Errorf("inside the layer it ends with %d, not %d", codeInside, code)
			}
			if diff := cmp.Diff(plain, inside); diff != "" {
				t.Errorf("inside the layer it says (-without +inside):\n%s", diff)
			}
		})
	}
}

// A build error of an editor's launch is told in the editor, as the compiler
// wrote it, and the next launch works.
func TestBuildError(t *testing.T) {
	dlv, debuggee := programs(t)
	killAll(t, debuggee)
	broken(t)
	run := func(cmd *exec.Cmd) string {
		p := debugtest.Start(t, cmd)
		c := p.Dial()
		c.Refused("launch", debugtest.Args{"request": "launch", "mode": "debug", "program": "."})
		c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"exit"}})
		c.Run()
		c.Exit()
		c.Disconnect(true)
		p.Wait()
		return c.Transcript()
	}
	plain := run(exec.Command(dlv, "dap", "--listen=127.0.0.1:0"))
	w := newWorld(t)
	inside := run(w.dlv(t, "dap", "--listen=127.0.0.1:0"))
	if words := `main.go:3:15: undefined: nowhere`; !strings.Contains(inside, words) {
		t.Errorf("the editor is not told %q", words)
	}
	if diff := cmp.Diff(plain, inside); diff != "" {
		t.Errorf("inside the layer the editor sees (-without +inside):\n%s", diff)
	}
}
