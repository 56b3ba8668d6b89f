// Package agenttest is what the agent's tests share: network namespaces of
// their own, and a client that talks to an agent as the daemon does.
package agenttest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

const insideVar = "MIRRORD_TEST_NAMESPACE"

// Main is a TestMain that runs the package's tests in a network namespace of
// their own, which has nothing but a loopback, and checks that they leave no
// goroutine.
func Main(m *testing.M) {
	if os.Getenv(insideVar) == "" && os.Geteuid() == 0 {
		os.Exit(inside())
	}
	if os.Getenv(insideVar) != "" {
		if err := LoopbackUp(); err != nil {
			fmt.Fprintln(os.Stderr, "agenttest:", err)
			os.Exit(1)
		}
	}
	// The clock of expressions' time limits stops by itself.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/dlclark/regexp2.runClock"))
}

// inside runs this program again in a new namespace.
func inside() int {
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Env = append(os.Environ(), insideVar+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the parent, for Pdeathsig, is this thread
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return max(exit.ExitCode(), 1)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "agenttest: making a network namespace:", err)
		return 1
	}
	return 0
}

// Namespace skips a test that does not run in a namespace of its own.
func Namespace(t testing.TB) {
	t.Helper()
	if os.Getenv(insideVar) == "" {
		t.Skip("needs root, to make a network namespace")
	}
}

// LoopbackUp brings the loopback of the thread's namespace up.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("finding loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("bringing loopback up: %w", err)
	}
	return nil
}
