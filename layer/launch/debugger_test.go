package launch

import (
	"os/exec"
	"strings"
	"testing"
)

// gdb and what it starts for itself are on this machine; what it traces is not,
// each time that it runs it, nor are its children.
func TestNativeDebugger(t *testing.T) {
	if _, err := exec.LookPath("gdb"); err != nil {
		t.Skip("needs gdb")
	}
	w := newWorld(t)
	w.native, w.set = true, map[string]string{"GREETING": "the target's", "OTHER": "the target's"}
	r := w.run(t, "gdb", "-nx", "-q", "-batch", "-iex", "set debuginfod enabled off",
		"-ex", "shell cat /etc/shop/config.yaml 2>/dev/null || echo none of this machine",
		"-ex", "run",
		"-ex", "set environment GREETING the developer's", "-ex", "unset environment OTHER",
		"-ex", "run",
		"-ex", "shell cat /etc/shop/config.yaml 2>/dev/null || echo nor later",
		"--args", "/bin/sh", "-c", `cat /etc/shop/config.yaml; (cat /etc/shop/config.yaml); echo "greeting $GREETING, other $OTHER"`)
	if r.err != nil || r.Code != 0 {
		t.Fatalf("exit code %d, %v", r.Code, r.err)
	}
	var got []string
	for _, line := range strings.Split(r.out, "\n") {
		for _, word := range []string{"none of", "nor later", "color:", "greeting"} {
			if strings.HasPrefix(line, word) {
				got = append(got, line)
			}
		}
	}
	want := []string{
		"none of this machine",
		"color: blue", "color: blue", "greeting the target's, other the target's",
		"color: blue", "color: blue", "greeting the developer's, other ",
		"nor later",
	}
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("it says %q, want %q; all of it:\n%s", got, want, r.out)
	}
	if len(r.messages) > 0 {
		t.Errorf("its user is told %q", r.messages)
	}
}

// Who has taken a program for a debugger hears of it.
func TestNoDebugger(t *testing.T) {
	w := newWorld(t)
	w.native = true
	r := w.run(t, "/bin/sh", "-c", "cat /etc/shop/config.yaml")
	want := "/bin/sh has debugged nothing, so nothing was in the context of the target"
	if r.err != nil || strings.Contains(r.out, "color") || len(r.messages) != 1 || r.messages[0] != want {
		t.Errorf("%v, it says %q, its user is told %q", r.err, r.out, r.messages)
	}
}
