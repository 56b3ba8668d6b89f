package mirrord_test

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// The tests in e2e_*.go do what a user does, on a real cluster with the sample
// shop deployed: `./task test` sets the environment up. Each runs bin/mirrord
// with a daemon of the tests' own. They wait more than they work, so that those
// whose namespace is their own run beside each other. Those that share the shop,
// take the cluster's parts away or hold a cost to a limit run alone before.

// patience bounds every wait: a test that needs it has failed.
const patience = 60 * time.Second

var kubeconfig = os.Getenv("MIRRORD_TEST_KUBECONFIG")

func TestMain(m *testing.M) {
	asHelper()
	code := m.Run
	if kubeconfig != "" {
		code = func() int { return onCluster(m) }
	}
	os.Exit(inBuilds(code))
}

// onCluster runs the tests with a daemon of theirs.
func onCluster(m *testing.M) int {
	dir, err := os.MkdirTemp("", "mirrord-e2e")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
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
	return code
}

// builds are the programs that tests have built, once for all.
var builds struct {
	dir string
	all sync.Map // of a command's words to the func that waits for it
}

func inBuilds(run func() int) int {
	dir, err := os.MkdirTemp("", "mirrord-builds")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	builds.dir = dir
	return run()
}

// built is a static Go program.
func built(t *testing.T, program string, flags ...string) (path string) {
	t.Helper()
	once := sync.OnceValues(func() (string, error) {
		dir, err := os.MkdirTemp(builds.dir, "")
		if err != nil {
			return "", err
		}
		path := filepath.Join(dir, filepath.Base(program))
		cmd := exec.Command("go", append(append([]string{"build", "-o", path}, flags...), program)...)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("building %s: %w\n%s", program, err, out)
		}
		return path, nil
	})
	first, _ := builds.all.LoadOrStore(fmt.Sprint(flags, program), once)
	path, err := first.(func() (string, error))()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// variables are those of a test's environment that the process has not, by its
// name. The process has one environment, and tests run beside each other.
var variables = struct {
	sync.Mutex
	of map[string][]string // guarded by the mutex
}{of: map[string][]string{}}

// setenv is t.Setenv for a test that runs beside others.
func setenv(t *testing.T, name, value string) {
	t.Helper()
	set := func(to []string) (before []string) {
		variables.Lock()
		defer variables.Unlock()
		before = variables.of[t.Name()]
		variables.of[t.Name()] = to
		return before
	}
	before := set(nil)
	set(append(slices.Clone(before), name+"="+value))
	t.Cleanup(func() { set(before) })
}

// environ is the environment of what a test starts.
func environ(t *testing.T) []string {
	variables.Lock()
	defer variables.Unlock()
	var own []string
	for i, r := range t.Name() + "/" { // what those above it have set, too
		if r == '/' {
			own = append(own, variables.of[t.Name()[:i]]...)
		}
	}
	env := os.Environ()
	for _, v := range own {
		name, _, _ := strings.Cut(v, "=")
		env = slices.DeleteFunc(env, func(e string) bool { return strings.HasPrefix(e, name+"=") })
		env = append(env, v)
	}
	return env
}

// runtimeDir is the directory of a test's daemon.
func runtimeDir(t *testing.T) string {
	t.Helper()
	for _, v := range environ(t) {
		if base, ok := strings.CutPrefix(v, "XDG_RUNTIME_DIR="); ok {
			return filepath.Join(base, "mirrord")
		}
	}
	t.Fatal("no XDG_RUNTIME_DIR")
	return ""
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
	stderr bytes.Buffer  // guarded by mu
	more   chan struct{} // guarded by mu; closed when stderr grows, nil: nobody waits
}

func (d *debuggee) Write(p []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.more != nil {
		close(d.more)
		d.more = nil
	}
	return d.stderr.Write(p)
}

func (d *debuggee) errors() string {
	s, _ := d.heard()
	return s
}

// heard is what the user was told, and what is closed when that is more.
func (d *debuggee) heard() (string, <-chan struct{}) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.more == nil {
		d.more = make(chan struct{})
	}
	return d.stderr.String(), d.more
}

// told waits until the user has been told something.
func (d *debuggee) told(words string) {
	d.t.Helper()
	late := time.After(patience)
	for {
		s, more := d.heard()
		if strings.Contains(s, words) {
			return
		}
		select {
		case <-more:
		case <-late:
			d.t.Fatalf("the user is not told %q but %q", words, s)
		}
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
	cmd := exec.Command(bin, args...)
	cmd.Env = environ(t)
	for _, v := range cmd.Env {
		if program, ok := strings.CutPrefix(v, programVar+"="); ok {
			cmd.Path, cmd.Dir = program, "/"
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: ordinaryUser, Gid: ordinaryUser}}
		}
	}
	return cmd
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
	return startedWith(t, cmd, append(environ(t), env...))
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
