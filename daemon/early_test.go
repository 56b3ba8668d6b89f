package main

import (
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"mirrord/layer/keeper"
)

var initialised = regexp.MustCompile(`(?m)^init (\S+) @`)

// The keeper does its work before the daemon's packages are initialised.
func TestEarly(t *testing.T) {
	cmd := exec.Command("/proc/self/exe")
	cmd.Args = []string{keeper.Name}
	cmd.Env = []string{"GODEBUG=inittrace=1"}
	out, _ := cmd.CombinedOutput() // it has not what it needs to go on
	found := false
	for _, m := range initialised.FindAllStringSubmatch(string(out), -1) {
		found = found || m[1] == "os/signal"
		for _, late := range []string{"mirrord/", "k8s.io/", "unicode", "fmt", "net"} {
			if strings.HasPrefix(m[1], late) {
				t.Errorf("%s is initialised before", m[1])
			}
		}
	}
	if !found {
		t.Errorf("os/signal is not initialised before:\n%s", out)
	}
}
