package mirrord_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
)

const ordinaryUser = 1000

// programVar names the mirrord of a test whose user is not root.
const programVar = "MIRRORD_TEST_ORDINARY"

// beOrdinary has mirrord run as somebody who is not root, with what he may read: its
// programs and a kubeconfig, in a directory of the test's.
func beOrdinary(t *testing.T) (dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "mirrord") // t.TempDir's parents may be closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	home := filepath.Join(dir, "home")
	if err := errors.Join(os.Mkdir(home, 0o700), os.Chown(home, ordinaryUser, ordinaryUser), os.Chown(dir, ordinaryUser, ordinaryUser)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"mirrord", "mirrord-full", "mirrord-dlv"} {
		copyFile(t, filepath.Join("bin", name), filepath.Join(dir, name))
	}
	copyFile(t, kubeconfig, filepath.Join(dir, "kubeconfig"))
	setenv(t, programVar, filepath.Join(dir, "mirrord"))
	setenv(t, "HOME", home)
	setenv(t, "PATH", "/usr/local/bin:/usr/bin:/bin") // root's own are closed to others
	run := ownDaemon(t)
	if err := os.Chown(filepath.Dir(run), ordinaryUser, ordinaryUser); err != nil {
		t.Fatal(err)
	}
	return dir
}

// copyFile copies a file for others to read and run.
func copyFile(t *testing.T, from, to string) {
	t.Helper()
	b, err := os.ReadFile(from)
	if err == nil {
		err = os.WriteFile(to, b, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Somebody who is not root has the cluster, what is left when his daemon is killed, and
// the debugger, as root has.
func TestNotRootOnCluster(t *testing.T) {
	t.Parallel()
	if os.Getuid() != 0 {
		t.Skip("needs root, to become somebody else")
	}
	namespace, address := ownShop(t)
	dir := beOrdinary(t)
	onPod := func(command string, flags ...string) []string {
		return append([]string{command, "--kubeconfig", filepath.Join(dir, "kubeconfig"), "-n", namespace, "-t", "pod/web"}, flags...)
	}
	l := loadFrom(t, namespace, "client", address)
	script := filepath.Join(dir, "worker.py")
	copyFile(t, worker, script)
	w := startWorkerOf(t, script, onPod("exec", "--steal")...)
	works := func() {
		t.Helper()
		w.wants("100", "open /shop")
		w.wants("connected", "dial %s 8080", podIP(t, namespace, "client"))
		l.until(50, fromDebuggee)
	}
	w.wants("listening", "serve")
	works()
	for _, pid := range []int{onlyDaemon(t, runtimeDir(t)), w.cmd.Process.Pid} {
		if uid := owner(t, pid); uid != ordinaryUser {
			t.Errorf("process %d is user %d's", pid, uid)
		}
	}
	killDaemon(t, runtimeDir(t))
	works()
	w.finish()

	program := filepath.Join(dir, "debuggee")
	copyFile(t, buildFor(t, "./daemon/debug/testdata/debuggee"), program)
	source, err := filepath.Abs("daemon/debug/testdata/debuggee/main.go")
	if err != nil {
		t.Fatal(err)
	}
	p := debugtest.Start(t, mirrord(t, onPod("dlv", "--", "dap", "--listen=127.0.0.1:0", "--only-same-user=false")...))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": program, "args": []string{"idle", podIP(t, namespace, "client") + ":8080"}})
	c.Break(source, dap.SourceBreakpoint{Line: debugtest.Mark(t, source, "// mark: answered")})
	c.Run()
	main := c.Stopped("breakpoint")
	c.Break(source)
	c.Resume("continue", main)
	if code := c.Exit(); code != 0 || !strings.Contains(c.Out(), "answer 1 <nil>") {
		t.Errorf("exit code %d, printed %q", code, c.Out())
	}
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv's exit code is %d", code)
	}
}

// owner is whose a process is.
func owner(t *testing.T, pid int) int {
	t.Helper()
	info, err := os.Stat(fmt.Sprint("/proc/", pid))
	if err != nil {
		t.Fatal(err)
	}
	return int(info.Sys().(*syscall.Stat_t).Uid)
}
