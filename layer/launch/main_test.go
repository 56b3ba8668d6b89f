package launch

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"mirrord/layer/keeper"
	"mirrord/layer/layertest"
	"mirrord/protocol/ide"
)

// The test program is its own keeper, and with launcherEnv a launcher, as the
// command line is.
func TestMain(m *testing.M) {
	Keeper()
	if os.Getenv(launcherEnv) != "" {
		runLauncher()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else each launcher sleeps for a second at its end
	os.Exit(m.Run())
}

func children(pid int) ([]int, error) { return keeper.Children(pid) }

const launcherEnv = "TEST_LAUNCHER"

// A world is a daemon with a target, and what a launcher must be told of it.
type world struct {
	*layertest.Daemon
	policy ide.Policy
	dir    string
	env    []string
	set    map[string]string // the target's environment
	again  func(context.Context) (socket, session string, err error)
	native bool   // what is run is a debugger
	read   func() // if set, is called with each message, as a terminal that may hold it up
}

func newWorld(t testing.TB) *world {
	t.Helper()
	w := &world{Daemon: layertest.New(t), dir: t.TempDir(), env: []string{"NODE_EXTRA_CA_CERTS="}, policy: ide.Policy{
		FSMode: "read", Mounts: []string{"/etc/shop"}, Steal: true,
		OutgoingTCP: true, OutgoingUDP: true, DNS: true, Hostname: true,
		// where these programs live on test machines
		Local: []string{`^/root/(\.pyenv|go|sdk)`},
	}}
	for name, text := range map[string]string{
		"/etc/shop/config.yaml": "color: blue\n",
		"/etc/hosts":            "127.0.0.1 localhost\n",
		"/etc/resolv.conf":      "nameserver 10.96.0.10\noptions timeout:1 attempts:1\n",
		"/app/big":              strings.Repeat("0123456789abcdef", 1<<16),
		"/app/dir/a":            "a",
		"/app/dir/b":            "bb",
	} {
		w.write(t, name, text)
	}
	if err := os.Symlink("/etc/shop/config.yaml", w.Root+"/app/link"); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(t testing.TB, name, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.Root+name), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.Root+name, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// A result is what a debuggee came to.
type result struct {
	Exit
	err      error
	out      string
	messages []string
}

// run runs a debuggee inside the layer, in this process.
func (w *world) run(t testing.TB, argv ...string) result {
	t.Helper()
	out, err := os.CreateTemp(t.TempDir(), "out")
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var r result
	var mu sync.Mutex
	debugger := NoDebugger
	if w.native {
		debugger = Native
	}
	// Shell words do for the output; stdin and stderr are the test's.
	line := append([]string{"/bin/sh", "-c", `exec "$@" >` + out.Name(), "sh"}, argv...)
	l, err := New()
	if err != nil {
		return result{err: err}
	}
	r.Exit, r.err = l.Run(context.Background(), slog.New(slog.DiscardHandler), Config{
		Argv: line, Debugger: debugger, Set: w.set, Env: append(os.Environ(), w.env...), Dir: w.dir, Policy: w.policy,
		Hostname: "web-1", Addrs: []netip.Addr{layertest.Local, layertest.Local6}, Socket: w.Socket, Session: "test",
		Again: w.again,
		Message: func(msg string) {
			if w.read != nil {
				w.read()
			}
			mu.Lock()
			defer mu.Unlock()
			r.messages = append(r.messages, msg)
		},
	})
	l.Close() // now all is said
	b, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	r.out = string(b)
	return r
}

// want runs a debuggee that must end well and print text.
func (w *world) want(t testing.TB, text string, argv ...string) {
	t.Helper()
	r := w.run(t, argv...)
	if r.err != nil || r.Exit != (Exit{}) {
		t.Errorf("%q: exit %+v, error %v, output %q", argv, r.Exit, r.err, r.out)
	}
	if r.out != text {
		t.Errorf("%q printed %q, want %q", argv, r.out, text)
	}
}

// build compiles a C program of testdata.
func build(t testing.TB, name string) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), strings.TrimSuffix(name, ".c"))
	cmd := exec.Command("cc", "-O1", "-Wall", "-Wextra", "-Werror", "-pthread", "-o", out, filepath.Join("..", "testdata", name))
	if b, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building %s: %v\n%s", name, err, b)
	}
	return out
}
