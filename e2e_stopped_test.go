package mirrord_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
	"mirrord/daemon/debug/endpoint"
	"mirrord/protocol/ide"
)

// eventsOf starts `mirrord session events`.
func eventsOf(t *testing.T, flags ...string) (until func(kind string) ide.SessionEvent) {
	t.Helper()
	cmd := mirrord(t, append([]string{"session", "events", "-o", "json"}, flags...)...)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	told := make(chan ide.SessionEvent, 1000)
	go func() {
		defer close(told)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			var e ide.SessionEvent
			if err := json.Unmarshal(scan.Bytes(), &e); err != nil {
				t.Errorf("an event is %q: %v", scan.Text(), err)
			}
			told <- e
		}
	}()
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGINT)
		for range told {
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("mirrord session events, interrupted: %v", err)
		}
	})
	return func(kind string) ide.SessionEvent {
		t.Helper()
		var seen []string
		timeout := time.After(patience)
		for {
			select {
			case e := <-told:
				if e.Kind == kind {
					return e
				}
				seen = append(seen, e.Kind)
			case <-timeout:
				t.Fatalf("no event %q, but %q", kind, seen)
			}
		}
	}
}

// Whoever asks the Service while the debuggee stands at a breakpoint, and while
// it is started anew, waits and is answered by the debuggee.
func TestRequestsWhileDebugged(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	until := eventsOf(t)
	web := buildFor(t, "./testdata/apps/shop/web")
	p := debugtest.Start(t, mirrord(t, append(append([]string{"dlv"}, onTarget(namespace, "--steal")[1:]...), "--", "dap", "--listen=127.0.0.1:0")...))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": web, "args": []string{"-copy=debuggee"}, "outputMode": "local"})
	c.Run()
	until(ide.EventDebuggee)
	until(ide.EventTaken)
	listens(t, p)
	ask := func() <-chan string {
		answer := make(chan string, 1)
		go func() {
			out, err := tryKubectl("exec", "client", "-n", namespace, "--", "/shop", "get", "http://"+address+"/")
			if err != nil {
				out = err.Error()
			}
			answer <- out
		}()
		return answer
	}
	answered := func(when string, answers ...<-chan string) {
		t.Helper()
		for _, a := range answers {
			if answer := <-a; !strings.Contains(answer, `"copy":"debuggee"`) {
				t.Errorf("%s: the answer is %q", when, answer)
			}
		}
	}
	answered("at first", ask())

	front := frontSource(t)
	c.Break(front, dap.SourceBreakpoint{Line: debugtest.Mark(t, front, answering)})
	first := ask()
	handler := c.Stopped("breakpoint")
	until(ide.EventStopped)
	others := []<-chan string{ask(), ask()}
	c.Break(front)
	c.Resume("continue", handler)
	until(ide.EventContinued)
	answered("at the breakpoint", append(others, first)...)

	before := agents(t, namespace)
	var during []<-chan string
	c.Send("restart", debugtest.Args{"arguments": debugtest.Args{"request": "launch", "rebuild": false}})
	until(ide.EventExited)
	for range 5 {
		during = append(during, ask())
	}
	until(ide.EventWaiting)
	debugtest.Next[*dap.InitializedEvent](c)
	c.Run()
	until(ide.EventTaken)
	answered("during the restart", during...)
	answered("after it", ask())
	if now := agents(t, namespace); len(now) != 1 || !slices.Equal(now, before) {
		t.Errorf("the agents are %s, they were %s", now, before)
	}
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
	until(ide.EventEnded)
	if answer := <-ask(); !strings.Contains(answer, fromPod) {
		t.Errorf("after the end the answer is %q", answer)
	}
}

// At a breakpoint the user is told which stolen request the goroutine serves, and
// from which pod, by Delve's own dlv dap and by debug/start; who listens to the
// session is told, too. What is secret is masked.
func TestRequestAtBreakpoint(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	e := openEditor(t, ownDaemon(t))
	until := eventsOf(t, "--traffic")
	web := buildFor(t, "./testdata/apps/shop/web")
	front := frontSource(t)
	s := e.session(namespace, "web", true)
	stops := func(c *debugtest.Client) {
		t.Helper()
		c.Launch(debugtest.Args{"mode": "exec", "program": web, "args": []string{"-copy=debuggee"}})
		c.Break(front, dap.SourceBreakpoint{Line: debugtest.Mark(t, front, answering)})
		c.Run()
		until(ide.EventTaken)
		answer := make(chan string, 1)
		go func() {
			out, err := tryKubectl("exec", "client", "-n", namespace, "--", "/shop", "get",
				"-H", "X-User: anna", "-H", "Authorization: Bearer sesame", "http://"+address+"/cart?id=3")
			answer <- fmt.Sprint(out, err)
		}()
		thread := c.Stopped("breakpoint")
		told := until(ide.EventServing)
		if r := told.Serving; told.Session != s.ID || r.Thread != int64(thread) || r.Method != "GET" || r.Path != "/cart?id=3" || r.Pod != namespace+"/client" {
			t.Errorf("who listens is told %+v", r)
		}
		var shown string
		for !strings.Contains(shown, "X-User: anna") {
			if out := debugtest.Next[*dap.OutputEvent](c); out.Body.Category == "console" {
				shown += out.Body.Output
			}
		}
		want := fmt.Sprintf("mirrord: goroutine %d serves GET /cart?id=3 from pod %s/client (", thread, namespace)
		if !strings.Contains(shown, want) || !strings.Contains(shown, "Authorization: …\n") || strings.Contains(shown, "sesame") {
			t.Errorf("the debug console shows %q, want %q", shown, want)
		}
		c.Break(front)
		c.Resume("continue", thread)
		if a := <-answer; !strings.Contains(a, `"copy":"debuggee"`) {
			t.Errorf("the answer is %q", a)
		}
		c.Disconnect(true)
		until(ide.EventGivenBack)
	}
	p := debugtest.Start(t, mirrord(t, "dlv", "--session", s.ID, "--", "dap", "--listen=127.0.0.1:0"))
	stops(p.Dial())
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
	stops(debugtest.Dial(t, e.debug(s.ID, endpoint.TCP).Endpoint))
}

// A debuggee that the kernel kills for want of memory: the session ends, and says
// what may have been the cause.
func TestDebuggeeOutOfMemory(t *testing.T) {
	t.Parallel()
	namespace, _ := ownShop(t)
	group, limit := "/sys/fs/cgroup/memory/mirrord-e2e", "memory.limit_in_bytes"
	if _, err := os.Stat(filepath.Dir(group)); err != nil { // version 2
		group, limit = "/sys/fs/cgroup/mirrord-e2e", "memory.max"
	}
	if err := os.Mkdir(group, 0o755); err != nil {
		t.Skipf("needs a cgroup of its own: %v", err)
	}
	t.Cleanup(func() { os.Remove(group) })
	if err := os.WriteFile(filepath.Join(group, limit), []byte("67108864"), 0o644); err != nil {
		t.Skipf("needs the memory controller: %v", err)
	}
	ownDaemon(t)
	until := eventsOf(t)
	debuggee := buildFor(t, "./daemon/debug/testdata/debuggee")
	source, err := filepath.Abs("daemon/debug/testdata/debuggee/main.go")
	if err != nil {
		t.Fatal(err)
	}
	p := debugtest.Start(t, mirrord(t, append(append([]string{"dlv"}, onTarget(namespace)[1:]...), "--", "dap", "--listen=127.0.0.1:0")...))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"eat"}})
	c.Break(source, dap.SourceBreakpoint{Line: debugtest.Mark(t, source, "// mark: eats")})
	c.Run()
	main := c.Stopped("breakpoint")
	pid := until(ide.EventDebuggee).PID
	if err := os.WriteFile(filepath.Join(group, "cgroup.procs"), fmt.Append(nil, pid), 0o644); err != nil {
		t.Fatal(err)
	}
	c.Resume("continue", main)
	if e := until(ide.EventExited); e.PID != pid || !strings.Contains(e.Message, "memory") {
		t.Errorf("its end is told so: %+v", e)
	}
	if code := c.Exit(); code == 0 {
		t.Error("exit code 0")
	}
	c.Disconnect(true)
	p.Wait()
	until(ide.EventEnded)
}

// A connection of a debuggee that stood at a breakpoint for long works as before.
func TestSoakStopped(t *testing.T) {
	const variable = "MIRRORD_TEST_SOAK"
	if os.Getenv(variable) == "" {
		t.Skip("takes as long as " + variable + " says, such as 10m; `go test` itself ends after 10m unless -timeout says otherwise")
	}
	stopped, err := time.ParseDuration(os.Getenv(variable))
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	needCluster(t)
	ownDaemon(t)
	debuggee := buildFor(t, "./daemon/debug/testdata/debuggee")
	source, err := filepath.Abs("daemon/debug/testdata/debuggee/main.go")
	if err != nil {
		t.Fatal(err)
	}
	p := debugtest.Start(t, dlvOn(t, "dap", "--listen=127.0.0.1:0"))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"idle", "inventory:80"}})
	c.Break(source, dap.SourceBreakpoint{Line: debugtest.Mark(t, source, "// mark: answered")})
	c.Run()
	main := c.Stopped("breakpoint")
	time.Sleep(stopped) // what the test is about
	c.Break(source)
	began := time.Now()
	c.Resume("continue", main)
	c.Printed("answer 1 <nil>")
	took := time.Since(began)
	if code := c.Exit(); code != 0 || !strings.Contains(c.Out(), "answer 0 <nil>") {
		t.Errorf("exit code %d, printed %q", code, c.Out())
	}
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
	report(t, "nothing: a debuggee at a breakpoint for "+stopped.String(), "its idle connection", "the next answer came after %v", round(took))
}

// Where it is configured so, requests that come while the debuggee stands at a
// breakpoint are the pod's, or the next session's whose filter chooses them; the
// one at the breakpoint, and those that come when it goes on, are the debuggee's.
func TestRequestsPassWhileStopped(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	ownDaemon(t)
	until := eventsOf(t)
	prog := buildFor(t, "./testdata/apps/shop/web")
	config := filepath.Join(t.TempDir(), "mirrord.json")
	text := `{"feature": {"network": {"incoming": {"mode": "steal", "while_stopped": "pass", "http_filter": {"header_filter": "^x-user: alice$"}}}}}`
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	p := debugtest.Start(t, mirrord(t, append(append([]string{"dlv"}, onTarget(namespace, "-f", config)[1:]...), "--", "dap", "--listen=127.0.0.1:0")...))
	c := p.Dial()
	c.Launch(debugtest.Args{"mode": "exec", "program": prog, "args": []string{"-copy=debuggee"}, "outputMode": "local"})
	c.Run()
	until(ide.EventTaken)
	listens(t, p)
	kept := over(t, dialFrom(t, namespace, "client", address))
	expect := func(when, user, want string) {
		t.Helper()
		if got := asUser(t, kept, user, "/"); !strings.Contains(got, want) {
			t.Errorf("%s: %q is answered %q, not %q", when, user, got, want)
		}
	}
	const byDebuggee = `"copy":"debuggee"`
	expect("at first", "alice", byDebuggee)
	expect("at first", "", fromPod)
	front := frontSource(t)
	c.Break(front, dap.SourceBreakpoint{Line: debugtest.Mark(t, front, answering)})
	first := make(chan string, 1)
	go func() { first <- asUser(t, over(t, dialFrom(t, namespace, "client", address)), "alice", "/") }()
	handler := c.Stopped("breakpoint")
	until(ide.EventStopped)
	expect("at the breakpoint", "alice", fromPod)
	other := filteringHere(t, namespace, "alice", "python3", "-c", naming("the other's"))
	expect("at the breakpoint, with another session", "alice", "the other's")
	c.Break(front)
	c.Resume("continue", handler)
	until(ide.EventContinued)
	if got := <-first; !strings.Contains(got, byDebuggee) {
		t.Errorf("the request at the breakpoint is answered %q", got)
	}
	expect("when it goes on", "alice", byDebuggee)
	other.signal(syscall.SIGTERM)
	other.wait()
	c.Disconnect(true)
	if code := p.Wait(); code != 0 {
		t.Errorf("dlv ended with %d", code)
	}
	expect("at last", "alice", fromPod)
}
