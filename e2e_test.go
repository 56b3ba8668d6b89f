package mirrord_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests in e2e_*.go do what a user does, on a real cluster with the sample
// shop deployed: `./task test` sets the environment up. Each runs bin/mirrord
// with a daemon of the tests' own.

// patience bounds every wait: a test that needs it has failed.
const patience = 60 * time.Second

var kubeconfig = os.Getenv("MIRRORD_TEST_KUBECONFIG")

func TestMain(m *testing.M) {
	asHelper()
	if kubeconfig == "" {
		os.Exit(m.Run())
	}
	dir, err := os.MkdirTemp("", "mirrord-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("XDG_RUNTIME_DIR", dir)
	os.Unsetenv("KUBECONFIG")
	code := m.Run()
	if out, err := exec.Command("bin/mirrord", "daemon", "stop").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "stopping the daemon: %v\n%s", err, out)
		code = 1
	}
	if left := processesWith("XDG_RUNTIME_DIR=" + dir); len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left running after the tests:\n%s\n", strings.Join(left, "\n"))
		code = 1
	}
	if code != 0 {
		log, _ := os.ReadFile(filepath.Join(dir, "mirrord", "daemon.log"))
		fmt.Fprintf(os.Stderr, "the daemon's log ends:\n%s\n", log[max(0, len(log)-8<<10):])
	}
	os.RemoveAll(dir)
	os.Exit(code)
}

// processesWith lists the processes that have a variable in their environment.
func processesWith(variable string) (left []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/environ")
	for _, path := range all {
		env, _ := os.ReadFile(path)
		if pid := filepath.Base(filepath.Dir(path)); pid != fmt.Sprint(os.Getpid()) && bytes.Contains(env, []byte(variable)) {
			cmd, _ := os.ReadFile("/proc/" + pid + "/cmdline")
			if len(cmd) > 0 { // else it is a zombie of somebody's
				left = append(left, pid+" "+string(bytes.ReplaceAll(cmd, []byte{0}, []byte(" "))))
			}
		}
	}
	return left
}

func needCluster(t *testing.T) {
	t.Helper()
	if kubeconfig == "" {
		t.Skip("needs a cluster with the sample shop: ./task test makes one and sets MIRRORD_TEST_KUBECONFIG")
	}
}

// kubectl runs the cluster's own kubectl and returns what it prints.
func kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := tryKubectl(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func tryKubectl(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, kubectlPath(), append([]string{"--kubeconfig", kubeconfig}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("kubectl %s: %w\n%s", strings.Join(args, " "), err, &stderr)
	}
	return string(out), nil
}

func kubectlPath() string { return filepath.Join(filepath.Dir(kubeconfig), "kubectl") }

// ask sends a request from the shop's client pod.
func ask(t *testing.T, url string) string {
	t.Helper()
	return kubectl(t, "exec", "-n", "shop", "client", "--", "/shop", "get", url)
}

// podOf returns the name and address of a pod with a label.
func podOf(t *testing.T, label string) (name, ip string) {
	t.Helper()
	out := kubectl(t, "get", "pod", "-n", "shop", "-l", label, "-o", "jsonpath={.items[0].metadata.name} {.items[0].status.podIP}")
	name, ip, ok := strings.Cut(out, " ")
	if !ok {
		t.Fatalf("no pod with %s: %q", label, out)
	}
	return name, ip
}

// A debuggee is a running `mirrord exec`.
type debuggee struct {
	t     *testing.T
	cmd   *exec.Cmd
	lines chan string // of its standard output, closed at its end

	mu     sync.Mutex
	stderr bytes.Buffer // guarded by mu
}

func (d *debuggee) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.Write(p)
}

func (d *debuggee) errors() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.stderr.String()
}

// told waits until the user has been told something.
func (d *debuggee) told(words string) {
	d.t.Helper()
	for deadline := time.Now().Add(patience); ; {
		if strings.Contains(d.errors(), words) {
			return
		}
		if time.Now().After(deadline) {
			d.t.Fatalf("the user is not told %q but %q", words, d.errors())
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// mirrord makes a command of bin/mirrord.
func mirrord(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	bin, err := filepath.Abs("bin/mirrord")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(bin); err != nil {
		t.Fatalf("%v: ./task build makes it", err)
	}
	return exec.Command(bin, args...)
}

// execute starts `mirrord exec` on the shop's web with further flags and a
// command, which env is added for.
func execute(t *testing.T, env []string, args ...string) *debuggee {
	t.Helper()
	cmd := mirrord(t, append([]string{"exec", "--kubeconfig", kubeconfig, "-n", "shop", "-t", "deployment/web"}, args...)...)
	return started(t, cmd, env)
}

func started(t *testing.T, cmd *exec.Cmd, env []string) *debuggee {
	t.Helper()
	return startedWith(t, cmd, append(os.Environ(), env...))
}

// startedWith starts a command whose whole environment is env.
func startedWith(t *testing.T, cmd *exec.Cmd, env []string) *debuggee {
	t.Helper()
	d := &debuggee{t: t, cmd: cmd, lines: make(chan string, 1000)}
	cmd.Env = env
	cmd.Stderr = d
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(d.lines)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			d.lines <- scan.Text()
		}
	}()
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			cmd.Process.Kill()
			cmd.Wait()
		}
		if t.Failed() {
			t.Logf("standard error of %v:\n%s", cmd.Args, d.errors())
		}
	})
	return d
}

// line waits for a line of standard output that begins with prefix.
func (d *debuggee) line(prefix string) string {
	d.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case l, ok := <-d.lines:
			if !ok {
				d.t.Fatalf("the debuggee ended without saying %q; %s", prefix, d.errors())
			}
			if strings.HasPrefix(l, prefix) {
				return l
			}
		case <-timeout:
			d.t.Fatalf("the debuggee did not say %q; %s", prefix, d.errors())
		}
	}
}

// wait returns the exit code, or minus the signal that ended the launcher.
func (d *debuggee) wait() int {
	d.t.Helper()
	timer := time.AfterFunc(patience, func() { d.cmd.Process.Kill() })
	defer timer.Stop()
	for range d.lines {
	}
	d.cmd.Wait()
	status := d.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}

func (d *debuggee) signal(s os.Signal) {
	d.t.Helper()
	if err := d.cmd.Process.Signal(s); err != nil {
		d.t.Fatal(err)
	}
}
