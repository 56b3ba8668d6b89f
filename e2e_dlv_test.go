package mirrord_test

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
)

// frontSource is where the shop's web answers requests.
func frontSource(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("testdata/apps/shop/front/front.go")
	if err != nil {
		t.Fatal(err)
	}
	return path
}

const (
	answering = `log.Printf("%s %s from %s"` // a line of the handler
	listening = `l, err := net.Listen(`
)

// dlvOn is `mirrord dlv` on the shop's web, with its traffic.
func dlvOn(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	return mirrord(t, append([]string{"dlv", "--kubeconfig", kubeconfig, "-n", "shop", "-t", "deployment/web", "--steal", "--"}, args...)...)
}

// asking sends a request from the client pod through the Service.
func asking() <-chan string {
	answers := make(chan string, 1)
	go func() {
		out, err := tryKubectl("exec", "-n", "shop", "client", "--", "/shop", "get", "http://web/cart")
		if err != nil {
			out = err.Error()
		}
		answers <- out
	}()
	return answers
}

// hasAnswer checks that who asked has the answer of the debuggee.
func hasAnswer(t *testing.T, answers <-chan string, words ...string) {
	t.Helper()
	answer := <-answers
	for _, w := range append(words, `"copy":"debuggee"`, `"path":"/cart"`, `"tokenEnv":"sample-token-1f2e"`, `"token":"sample-token-1f2e"`) {
		if !strings.Contains(answer, w) {
			t.Errorf("the Service answered %s, without %s", answer, w)
		}
	}
}

// buildFor builds a program as debuggers want it.
func buildFor(t *testing.T, program string) (path string) {
	t.Helper()
	return built(t, program, "-gcflags=all=-N -l")
}

// watchedGo puts a go before the real one that tells with which environment the
// kernel started it.
func watchedGo(t *testing.T) (environments string) {
	t.Helper()
	dir := t.TempDir()
	real, err := exec.LookPath("go")
	if err != nil {
		t.Fatal(err)
	}
	environments = filepath.Join(dir, "environments")
	script := fmt.Sprintf("#!/bin/sh\ntr '\\0' '\\n' </proc/$$/environ >>%s\necho STARTED >>%s\nexec %s \"$@\"\n", environments, environments, real)
	if err := os.WriteFile(filepath.Join(dir, "go"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return environments
}

// A developer stops in a handler of a static Go program that a request of another
// pod has reached, looks around, goes on, edits, restarts, and is there again.
// What he builds sees none of the pod's environment.
func TestDebug(t *testing.T) {
	needCluster(t)
	t.Setenv("CGO_ENABLED", "0")
	environments := watchedGo(t)
	program, err := filepath.Abs("testdata/apps/shop/web")
	if err != nil {
		t.Fatal(err)
	}
	p := debugtest.Start(t, dlvOn(t, "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	c.Launch(debugtest.Args{
		"program": program, "output": filepath.Join(t.TempDir(), "web"), "args": []string{"-copy=debuggee"}, "outputMode": "local",
		"env": debugtest.Args{"SHOP_GREETING": "the developer's"},
	})
	c.Break(frontSource(t), dap.SourceBreakpoint{Line: debugtest.Mark(t, frontSource(t), answering)})
	c.Run()
	pid := debugtest.Next[*dap.ProcessEvent](c).Body.SystemProcessId
	if env, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)); err != nil || strings.Contains(string(env), "mirrord+") || !strings.Contains(string(env), "SHOP_TOKEN=") {
		t.Errorf("the debuggee's environment is %q, %v", env, err)
	}
	agents := agentsOf(t)
	for _, round := range []string{"first", "after a restart"} {
		listens(t, p)
		answers := asking()
		handler := c.Stopped("breakpoint")
		stack := c.Stack(handler, 2)
		if stack[0].Name != "front.(*server).answer" {
			t.Errorf("%s: stopped in %s", round, stack[0].Name)
		}
		top := stack[0].Id
		if locals := c.Locals(top); !strings.Contains(locals["a"], "sample-token-1f2e") || locals["r"] == "" {
			t.Errorf("%s: the variables are %v", round, locals)
		}
		for expression, want := range map[string]string{"r.URL.Path": `"/cart"`, "a.Greeting": `"the developer's"`, "s.copy": `"debuggee"`} {
			if got := c.Evaluate(top, expression); got != want {
				t.Errorf("%s: %s is %s, want %s", round, expression, got, want)
			}
		}
		if !c.Runs("main.main") {
			t.Errorf("%s: no goroutine is in main", round)
		}
		for _, command := range []string{"next", "next", "stepOut"} {
			c.Resume(command, handler)
			c.Stopped("step")
		}
		if where := c.Stack(handler, 1)[0].Name; !strings.HasPrefix(where, "http.") {
			t.Errorf("%s: out of the handler is %s", round, where)
		}
		c.Resume("continue", handler)
		hasAnswer(t, answers, `"greeting":"the developer's"`)
		if round == "first" {
			c.Restart(true)
			c.Stopped("pause") // by which Delve stops it
		}
	}
	if now := agentsOf(t); now != agents {
		t.Errorf("the agents are %q, they were %q", now, agents)
	}
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
	if answer := ask(t, "http://web/"); !strings.Contains(answer, `"copy":"cluster"`) {
		t.Errorf("after the end the Service answered %q", answer)
	}
	seen, err := os.ReadFile(environments)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(seen), "STARTED\n"); n < 2 {
		t.Errorf("go was started %d times", n)
	}
	for _, foreign := range []string{"SHOP_TOKEN", "hello from the cluster", "KUBERNETES_", "\nmirrord+", "\nmirrord-"} {
		if strings.Contains(string(seen), foreign) {
			t.Errorf("go has %q in its environment:\n%s", foreign, seen)
		}
	}
}

// listens waits until the debuggee has the pod's port.
func listens(t *testing.T, p *debugtest.Process) {
	t.Helper()
	p.Said("listens on ")
}

// agentsOf names the agents of the shop, each by what tells it from its successor.
func agentsOf(t *testing.T) string {
	t.Helper()
	return kubectl(t, "get", "pod", "-n", "shop", "-l", agentLabel, "-o", "jsonpath={.items[*].metadata.uid}")
}

// The same by GoLand's way.
func TestDebugHeadless(t *testing.T) {
	needCluster(t)
	web := buildFor(t, "./testdata/apps/shop/web")
	cmd := dlvOn(t, "--listen=127.0.0.1:0", "--headless=true", "--api-version=2", "--check-go-version=false", "--only-same-user=false",
		"exec", "./web", "--", "-copy=debuggee")
	cmd.Dir = filepath.Dir(web)
	p := debugtest.Start(t, cmd)
	h := debugtest.DialHeadless(t, p.Addr)
	h.Break(frontSource(t), debugtest.Mark(t, frontSource(t), answering))
	for _, round := range []string{"first", "after a restart"} {
		stop := h.Run()
		listens(t, p)
		answers := asking()
		handler := h.Wait(stop)
		if path, greeting := h.Value(handler, "r.URL.Path"), h.Value(handler, "a.Greeting"); path != "/cart" || greeting != "hello from the cluster" {
			t.Errorf("%s: a request for %q, greeting %q", round, path, greeting)
		}
		if all, _, err := h.ListGoroutines(0, 100); err != nil || len(all) < 3 {
			t.Errorf("%s: the goroutines are %v, %v", round, all, err)
		}
		if s, err := h.Next(); err != nil || s.CurrentThread.Function.Name() != "mirrord/testdata/apps/shop/front.(*server).answer" {
			t.Errorf("%s: the next line is of %+v, %v", round, s, err)
		}
		if s, err := h.StepOut(); err != nil || !strings.HasPrefix(s.CurrentThread.Function.Name(), "net/http.") {
			t.Errorf("%s: out of the handler is %+v, %v", round, s, err)
		}
		stop = h.Run()
		hasAnswer(t, answers, `"greeting":"hello from the cluster"`)
		if _, err := h.Halt(); err != nil {
			t.Fatal(err)
		}
		<-stop
		if round == "first" {
			if _, err := h.Restart(false); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := h.Detach(true); err != nil {
		t.Error(err)
	}
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
}

// Each way to a debugger has its debuggee in the pod's context, or in none.
func TestDebuggers(t *testing.T) {
	needCluster(t)
	debuggee := buildFor(t, "./daemon/debug/testdata/debuggee")
	ours, err := filepath.Abs("bin/dlv")
	if err != nil {
		t.Fatal(err)
	}
	stock := stockDelve(t)
	target := []string{"MIRRORD_IMPERSONATED_TARGET=deployment/web", "MIRRORD_TARGET_NAMESPACE=shop", "KUBECONFIG=" + kubeconfig}
	const inPod, outside = `SHOP_GREETING="hello from the cluster" true`, `SHOP_GREETING="" false`
	mirrordExec := []string{"exec", "--kubeconfig", kubeconfig, "-n", "shop", "-t", "deployment/web", "--"}
	for _, tt := range []struct {
		name    string
		cmd     *exec.Cmd
		env     []string
		want    string
		session bool // named by MIRRORD_SESSION
	}{
		{"dlv with a target", exec.Command(ours), target, inPod, false},
		{"dlv with no target", exec.Command(ours), nil, outside, false},
		{"dlv with a session", exec.Command(ours), nil, inPod, true},
		{"stock dlv under mirrord exec", mirrord(t, append(mirrordExec, stock)...), nil, inPod, false},
		{"stock dlv alone", exec.Command(stock), target, outside, false},
		{"dlv under mirrord exec", mirrord(t, append(mirrordExec, ours)...), nil, inPod, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.cmd.Args = append(tt.cmd.Args, "dap", "--listen=127.0.0.1:0")
			tt.cmd.Env = append(environ(t), tt.env...)
			if tt.session {
				holder := execute(t, nil, "--", "sh", "-c", "echo ready; exec sleep 1000")
				holder.line("ready")
				list := sessions(t)
				if len(list) != 1 {
					t.Fatalf("the sessions are %v", list)
				}
				tt.cmd.Env = append(tt.cmd.Env, "MIRRORD_SESSION="+list[0][0])
			}
			p := debugtest.Start(t, tt.cmd)
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"environment", "SHOP_GREETING"}})
			c.Run()
			if code := c.Exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			if got, want := c.Out(), tt.want+"\nend\n"; got != want {
				t.Errorf("the debuggee printed %q, want %q", got, want)
			}
			c.Disconnect(true)
			if code := p.Wait(); code != 0 {
				t.Errorf("dlv ended with %d", code)
			}
		})
	}
}

// stockDelve builds Delve's own dlv, once for all runs.
func stockDelve(t *testing.T) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		t.Fatal(err)
	}
	const module = "github.com/go-delve/delve"
	version, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", module).Output()
	if err != nil {
		t.Fatal(err)
	}
	at := strings.TrimSpace(string(version))
	dir := filepath.Join(cache, "mirrord", "delve-"+at)
	path := filepath.Join(dir, "dlv")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	cmd := exec.Command("go", "install", module+"/cmd/dlv@"+at)
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("building Delve: %v\n%s", err, out)
	}
	return path
}

// When the daemon is killed while the debuggee is stopped, both it and the
// debugger go on, in the same context.
func TestDebugDaemonKilled(t *testing.T) {
	needCluster(t)
	dir := ownDaemon(t)
	web := buildFor(t, "./testdata/apps/shop/web")
	p := debugtest.Start(t, dlvOn(t, "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": web, "args": []string{"-copy=debuggee"}, "outputMode": "local"})
	front := frontSource(t)
	c.Break(front, dap.SourceBreakpoint{Line: debugtest.Mark(t, front, listening)})
	c.Run()
	main := c.Stopped("breakpoint")
	old, _ := killDaemon(t, dir)
	if name := c.Evaluate(c.Stack(main, 1)[0].Id, "s.copy"); name != `"debuggee"` {
		t.Errorf("s.copy is %s", name)
	}
	c.Resume("next", main) // listens, which takes a daemon
	c.Stopped("step")
	c.Break(front, dap.SourceBreakpoint{Line: debugtest.Mark(t, front, answering)})
	c.Resume("continue", main)
	listens(t, p)
	answers := asking()
	handler := c.Stopped("breakpoint")
	if now := daemonsIn(t, dir); len(now) != 1 || now[0] == old {
		t.Errorf("the daemons are %v, it was %d", now, old)
	}
	c.Resume("continue", handler)
	hasAnswer(t, answers)
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
}

// A breakpoint comes while another goroutine reads a file of a target that does
// not answer.
func TestDebugWhileCut(t *testing.T) {
	needCluster(t)
	config, r := throughRelay(t)
	ownDaemon(t)
	debuggee := buildFor(t, "./daemon/debug/testdata/debuggee")
	source, err := filepath.Abs("daemon/debug/testdata/debuggee/main.go")
	if err != nil {
		t.Fatal(err)
	}
	at := func(mark string) dap.SourceBreakpoint {
		return dap.SourceBreakpoint{Line: debugtest.Mark(t, source, "// mark: "+mark)}
	}
	p := debugtest.Start(t, mirrord(t, "dlv", "--kubeconfig", config, "-n", "shop", "-t", "deployment/web", "--", "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"held file"}})
	c.Break(source, at("opened"), at("waits"))
	c.Run()
	main := c.Stopped("breakpoint")
	r.silence(true)
	c.Resume("continue", main)
	main = c.Stopped("breakpoint")
	if !c.Runs("main.readFar") {
		t.Error("no goroutine reads")
	}
	c.Resume("next", main)
	c.Stopped("step")
	c.Printed("waits")
	if out := c.Out(); strings.Contains(out, "read") {
		t.Errorf("though the target does not answer, the debuggee printed %q", out)
	}
	r.silence(false)
	c.Resume("continue", main)
	c.Printed("read 1 <nil>")
	if code := c.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
}

// kill -9 of the launcher or of dlv while a request of another pod has stopped the
// debuggee: nothing of them is left, and the pod answers again.
func TestDebuggerKilled(t *testing.T) {
	needCluster(t)
	web := buildFor(t, "./testdata/apps/shop/web")
	for _, who := range []string{"launcher", "dlv"} {
		t.Run(who, func(t *testing.T) {
			cmd := dlvOn(t, "dap", "--listen=127.0.0.1:0")
			p := debugtest.Start(t, cmd)
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": web, "args": []string{"-copy=debuggee"}, "outputMode": "local"})
			c.Break(frontSource(t), dap.SourceBreakpoint{Line: debugtest.Mark(t, frontSource(t), answering)})
			c.Run()
			listens(t, p)
			answers := asking()
			c.Stopped("breakpoint")
			victim := cmd.Process.Pid
			all := descendants(t, victim)
			if who == "dlv" {
				victim = debuggerOf(t, victim)
			}
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if code := p.Wait(); code != -int(syscall.SIGKILL) {
				t.Errorf("the launcher ended with %d", code)
			}
			<-answers
			podAnswers(t)
			for _, fd := range all {
				waitGone(t, fd)
			}
			if conn, err := net.Dial("tcp", p.Addr); err == nil {
				conn.Close()
				t.Errorf("somebody still listens at %s", p.Addr)
			}
		})
	}
}

// debuggerOf returns what a launcher runs: its keeper's child.
func debuggerOf(t *testing.T, launcher int) int {
	t.Helper()
	keepers := childrenOf(t, launcher)
	if len(keepers) != 1 {
		t.Fatalf("the launcher's children are %v", keepers)
	}
	return childrenOf(t, keepers[0])[0]
}

// podAnswers asks once more when all is over.
func podAnswers(t *testing.T) {
	t.Helper()
	if answer := ask(t, "http://web/"); !strings.Contains(answer, `"copy":"cluster"`) {
		t.Errorf("after the end the Service answered %q", answer)
	}
}

// descendants returns pidfds of all below a process.
func descendants(t *testing.T, pid int) (fds []int) {
	t.Helper()
	for _, child := range childrenOf(t, pid) {
		fds = append(append(fds, pidfd(t, child)...), descendants(t, child)...)
	}
	return fds
}
