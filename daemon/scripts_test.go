package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"mirrord/daemon/files"
	"mirrord/daemon/files/browse"
	"mirrord/daemon/rpc"
	"mirrord/layer/launch"
)

var update = os.Getenv("UPDATE_SCRIPTS") != "" // write what commands print into the scripts

// TestMain is also the commands mirrord and dlv that the scripts run, and what that
// starts: its keeper, its file server, its daemon.
func TestMain(m *testing.M) {
	launch.Keeper()
	files.Serve()
	browse.Serve()
	testscript.Main(m, map[string]func(){"mirrord": main, "dlv": main})
}

// What a user sees.
func TestScripts(t *testing.T) {
	buildDelve(t)
	runScripts(t, "../testdata/scripts")
}

// buildDelve puts mirrord-dlv where mirrord looks for it, beside itself.
func buildDelve(t *testing.T) {
	self, err := exec.LookPath("mirrord")
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("go", "build", "-o", filepath.Join(filepath.Dir(self), "mirrord-dlv"), "mirrord/daemon/debug")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building mirrord-dlv: %v\n%s", err, out)
	}
}

// What a user sees of a cluster: the test cluster with the sample shop.
func TestClusterScripts(t *testing.T) {
	if os.Getenv("MIRRORD_TEST_KUBECONFIG") == "" {
		t.Skip("needs a cluster with the sample shop: ./task test makes one and sets MIRRORD_TEST_KUBECONFIG")
	}
	runScripts(t, "../testdata/scripts/cluster")
}

// runScripts gives each script a home, a runtime directory and so a daemon of
// its own, which ends with it.
func runScripts(t *testing.T, dir string) {
	testscript.Run(t, testscript.Params{
		Dir:                 dir,
		RequireExplicitExec: true,
		UpdateScripts:       update,
		Setup: func(e *testscript.Env) error {
			run := filepath.Join(e.WorkDir, ".run")
			e.Setenv("XDG_RUNTIME_DIR", run)
			e.Setenv("GORACE", "atexit_sleep_ms=0") // else each command sleeps for a second at its end
			e.Setenv("HOME", filepath.Join(e.WorkDir, ".home"))
			if kubeconfig := os.Getenv("MIRRORD_TEST_KUBECONFIG"); kubeconfig != "" && filepath.Base(dir) == "cluster" {
				e.Setenv("KUBECONFIG", kubeconfig)
			}
			e.Defer(func() {
				if err := endDaemon(filepath.Join(run, "mirrord")); err != nil {
					t.Error(err)
				}
			})
			return errors.Join(os.Mkdir(run, 0o700), os.Mkdir(filepath.Join(e.WorkDir, ".home"), 0o700))
		},
	})
}

func endDaemon(dir string) error {
	ctx := context.Background()
	c, err := rpc.Dial(ctx, dir, "test", nil)
	if errors.Is(err, rpc.ErrNoDaemon) {
		return nil
	}
	if err != nil {
		return err
	}
	defer c.Close()
	return c.Shutdown(ctx, true)
}
