package main_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
)

// The debuggee has the target's environment, where the launch request does not
// say otherwise.
func TestEnvironment(t *testing.T) {
	_, debuggee := programs(t)
	killAll(t, debuggee)
	t.Setenv("TEST_HERE", "here")
	for _, name := range []string{"TEST_BOTH", "TEST_FORGOTTEN", "TEST_EMPTY", "TEST_PART", "TEST_NONE"} {
		t.Setenv(name, "here")
	}
	w := newWorld(t)
	for _, name := range []string{"TEST_BOTH", "TEST_EMPTY", "TEST_PART", "TEST_NONE", "TEST_NEW"} {
		w.set[name] = "the target's"
	}
	w.unset = []string{"TEST_FORGOTTEN"}
	p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	c.Launch(debugtest.Args{
		"mode": "exec", "program": debuggee,
		"args": []string{
			"environment", "TEST_HERE", "TEST_BOTH", "TEST_REMOTE", "TEST_FORGOTTEN",
			"TEST_NEW", "TEST_EMPTY", "TEST_PART", "TEST_NONE", "TEST_OWN",
		},
		"env": debugtest.Args{"TEST_NEW": "mine", "TEST_EMPTY": "", "TEST_PART": "he", "TEST_NONE": nil, "TEST_OWN": "mine"},
	})
	c.Run()
	c.Exit()
	const want = `TEST_HERE="here" true
TEST_BOTH="the target's" true
TEST_REMOTE="the target's" true
TEST_FORGOTTEN="" false
TEST_NEW="mine" true
TEST_EMPTY="" true
TEST_PART="he" true
TEST_NONE="" false
TEST_OWN="mine" true
end
`
	if got := c.Out(); got != want {
		t.Errorf("it sees\n%s, want\n%s", got, want)
	}
	c.Disconnect(true)
	p.Wait()
}

// A debuggee that Delve starts without tracing it is one all the same, and what
// Delve builds it with is not.
func TestWithoutDebugging(t *testing.T) {
	w := newWorld(t)
	p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	dir := t.TempDir()
	// Delve (1.27) may lose the end of what it sends to the client itself: it waits for
	// the process before it has read all.
	printed := filepath.Join(dir, "printed")
	c.Do("launch", debugtest.Args{
		"request": "launch", "mode": "debug", "noDebug": true, "stdoutTo": printed, "program": filepath.Dir(source(t)),
		"output": filepath.Join(dir, "debuggee"), "args": []string{"fork"},
	})
	debugtest.Next[*dap.TerminatedEvent](c)
	const want = "/etc/shop/config.yaml: \"color: blue\\n\" <nil>\n\"color: blue\\nthe target's\\n\" <nil>\nend\n"
	if got, err := os.ReadFile(printed); err != nil || string(got) != want {
		t.Errorf("it printed %q, %v, want %q", got, err, want)
	}
	c.Disconnect(true)
	p.Wait()
}
