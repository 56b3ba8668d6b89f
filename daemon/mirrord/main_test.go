package main

import (
	"errors"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"mirrord/layer/keeper"
)

// TestMain is also the command mirrord.
func TestMain(m *testing.M) {
	if os.Args[0] == "mirrord" {
		main()
	}
	os.Exit(m.Run())
}

var initialised = regexp.MustCompile(`(?m)^init (\S+) @`)

// trace runs this program as args say and lists the packages it initialised.
func trace(args ...string) (packages []string, out string) {
	cmd := &exec.Cmd{Path: "/proc/self/exe", Args: args, Env: []string{"GODEBUG=inittrace=1"}}
	b, _ := cmd.CombinedOutput() // the keeper has not what it needs to go on
	for _, m := range initialised.FindAllStringSubmatch(string(b), -1) {
		packages = append(packages, m[1])
	}
	return packages, string(b)
}

// The keeper does its work before the command line's packages are initialised.
func TestEarly(t *testing.T) {
	packages, out := trace(keeper.Name, "3") // its socket, which is not there
	found := false
	for _, p := range packages {
		found = found || p == "os/signal"
		for _, late := range []string{"mirrord/", "unicode", "fmt", "net"} {
			if strings.HasPrefix(p, late) {
				t.Errorf("%s is initialised before", p)
			}
		}
	}
	if !found {
		t.Errorf("os/signal is not initialised before:\n%s", out)
	}
}

// What only the daemon needs is not in this program: it would be initialised at each start.
func TestSmall(t *testing.T) {
	packages, out := trace("mirrord", "version")
	found := false
	for _, p := range packages {
		found = found || p == "mirrord/daemon/early"
		for _, big := range []string{"k8s.io/", "github.com/hanwen/", "github.com/go-delve/", "mirrord/daemon/session", "crypto/tls", "crypto/rand"} {
			if strings.HasPrefix(p, big) {
				t.Errorf("%s is in it", p)
			}
		}
	}
	if !found {
		t.Errorf("this is not mirrord:\n%s", out)
	}
}

// Who has mirrord without mirrord-full is told so.
func TestAlone(t *testing.T) {
	want := regexp.MustCompile(`^mirrord: (starting the daemon: )?executing /\S*/mirrord-full, which belongs beside mirrord: no such file or directory\n$`)
	for _, args := range [][]string{{"daemon"}, {"ls"}} {
		cmd := &exec.Cmd{Path: "/proc/self/exe", Args: append([]string{"mirrord"}, args...), Env: []string{"XDG_RUNTIME_DIR=" + t.TempDir()}}
		out, err := cmd.CombinedOutput()
		if e, ok := errors.AsType[*exec.ExitError](err); !ok || e.ExitCode() != 125 || !want.Match(out) {
			t.Errorf("mirrord %s: %v, said %q", strings.Join(args, " "), err, out)
		}
	}
}
