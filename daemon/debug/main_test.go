package main_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"mirrord/layer/launch"
	"mirrord/layer/layertest"
	"mirrord/protocol/ide"
)

const launcherEnv = "TEST_LAUNCHER"

// The test program is its own keeper and, with launcherEnv, the launcher that
// the command line is; dlv is built.
func TestMain(m *testing.M) {
	launch.Keeper()
	if os.Getenv(launcherEnv) != "" {
		runLauncher()
	}
	os.Setenv("GORACE", "atexit_sleep_ms=0") // else each launcher sleeps for a second at its end
	// Of its own: a Delve that is killed leaves a debuggee's FIFOs there.
	temp, err := os.MkdirTemp("", "debug")
	if err == nil {
		err = os.Setenv("TMPDIR", temp)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	os.RemoveAll(temp)
	os.Exit(code)
}

var built struct {
	sync.Once
	dir string
	err error
}

// programs builds dlv and the debuggee, once.
func programs(t *testing.T) (dlv, debuggee string) {
	t.Helper()
	built.Do(func() {
		built.dir, built.err = os.MkdirTemp("", "built")
		for _, args := range [][]string{
			{"-o", built.dir + "/dlv", "mirrord/daemon/debug"},
			{"-gcflags=all=-N -l", "-o", built.dir + "/debuggee", "./testdata/debuggee"},
		} {
			cmd := exec.Command("go", append([]string{"build"}, args...)...)
			cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
			if out, err := cmd.CombinedOutput(); err != nil {
				built.err = errors.Join(built.err, fmt.Errorf("%v: %w\n%s", cmd.Args, err, out))
			}
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.dir + "/dlv", built.dir + "/debuggee"
}

// source is the debuggee's, as its debug information names it.
func source(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/debuggee/main.go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// An errand is what a launcher is told, in launcherEnv.
type errand struct {
	Socket, Dir string
	Path        string
	Argv, Env   []string
	Set         map[string]string
	Unset       []string
}

// A world is a daemon with a target whose environment is set and unset.
type world struct {
	*layertest.Daemon
	set   map[string]string
	unset []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Daemon: layertest.New(t), set: map[string]string{"TEST_REMOTE": "the target's"}}
	w.write(t, "/etc/shop/config.yaml", "color: blue\n")
	return w
}

func (w *world) write(t *testing.T, name, text string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(w.Root+name), 0o755), os.WriteFile(w.Root+name, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// dlv makes a launcher of Delve.
func (w *world) dlv(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	w.Settle()
	dlv, _ := programs(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	e := errand{Socket: w.Socket, Path: dlv, Argv: append([]string{"dlv"}, args...), Env: os.Environ(), Set: w.set, Unset: w.unset}
	if e.Dir, err = os.Getwd(); err != nil {
		t.Fatal(err)
	}
	b, err := json.Marshal(e)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), launcherEnv+"="+string(b))
	return cmd
}

// runLauncher is the command line's part.
func runLauncher() {
	var e errand
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	check(json.Unmarshal([]byte(os.Getenv(launcherEnv)), &e))
	debugger := launch.Delve
	if slices.Contains(e.Argv, "dap") {
		debugger = launch.DelveServer
	}
	l, err := launch.New()
	check(err)
	exit, err := l.Run(context.Background(), slog.New(slog.NewTextHandler(os.Stderr, nil)), launch.Config{
		Path: e.Path, Argv: e.Argv, Env: e.Env, Dir: e.Dir, Set: e.Set, Unset: e.Unset, Debugger: debugger,
		Policy: ide.Policy{
			FSMode: "read", Mounts: []string{"/etc/shop", "/app"}, OutgoingTCP: true, Steal: true, Hostname: true,
			Local: []string{`^/root/`, "^" + strings.ReplaceAll(filepath.Dir(e.Path), ".", `\.`)},
		},
		Hostname: "web-1", Addrs: []netip.Addr{layertest.Local}, Socket: e.Socket, Session: "test",
		Message: func(msg string) { fmt.Fprintln(os.Stderr, msg) },
	})
	l.Close()
	check(err)
	exit.End()
}
