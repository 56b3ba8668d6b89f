package mirrord_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-dap"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// An editor is an extension's connection to the daemon.
type editor struct {
	*rpc.Client
	t *testing.T
}

// openEditor connects to the daemon of a runtime directory as an extension does
// that is packed with bin/mirrord.
func openEditor(t *testing.T, dir string) *editor {
	t.Helper()
	if out, err := mirrord(t, "daemon", "--stdio").CombinedOutput(); err != nil { // starts it
		t.Fatalf("%v: %s", err, out)
	}
	c, err := rpc.Dial(t.Context(), dir, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	p := ide.InitializeParams{Version: ide.Version, Build: c.Info.Build, Client: "test"}
	if err := c.Call(t.Context(), ide.MethodInitialize, p, nil); err != nil {
		t.Fatal(err)
	}
	return &editor{c, t}
}

func (e *editor) client() ide.Client {
	e.t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		e.t.Fatal(err)
	}
	return ide.Client{Dir: dir, Env: environ(e.t)}
}

// session starts one on a pod of a namespace.
func (e *editor) session(namespace, pod string, steal bool) ide.Session {
	e.t.Helper()
	s, err := e.Start(e.t.Context(), e.params(namespace, pod, steal), func(string) {})
	if err != nil {
		e.t.Fatal(err)
	}
	return s
}

func (e *editor) params(namespace, pod string, steal bool) ide.SessionStartParams {
	return ide.SessionStartParams{Client: e.client(), Overrides: ide.Overrides{
		Target: "pod/" + pod, Namespace: namespace, Kubeconfig: kubeconfig, Steal: steal,
	}}
}

func (e *editor) debug(session, transport string) ide.Debug {
	e.t.Helper()
	d, err := e.Debug(e.t.Context(), ide.DebugStartParams{ID: session, Client: e.client(), Transport: transport}, func(string) {})
	if err != nil {
		e.t.Fatal(err)
	}
	return d
}

// A dapClient is the editor's side of a debug session.
type dapClient struct {
	t      *testing.T
	conn   net.Conn
	in     *bufio.Reader
	seq    int
	events []dap.EventMessage // not asked for yet
}

func dialDAP(t *testing.T, endpoint string) *dapClient {
	t.Helper()
	network, addr := "tcp", endpoint
	if path, ok := strings.CutPrefix(endpoint, "unix:"); ok {
		network, addr = "unix", path
	}
	conn, err := net.Dial(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &dapClient{t: t, conn: conn, in: bufio.NewReader(conn)}
}

func (c *dapClient) read() (dap.Message, error) {
	c.conn.SetReadDeadline(time.Now().Add(patience))
	return dap.ReadProtocolMessage(c.in)
}

// ask sends a request and returns the response to it.
func (c *dapClient) ask(command string, args any) dap.ResponseMessage {
	c.t.Helper()
	c.seq++
	b, err := json.Marshal(map[string]any{"seq": c.seq, "type": "request", "command": command, "arguments": args})
	if err == nil {
		err = dap.WriteBaseMessage(c.conn, b)
	}
	for err == nil {
		var m dap.Message
		switch m, err = c.read(); m := m.(type) {
		case dap.ResponseMessage:
			if m.GetResponse().RequestSeq == c.seq {
				return m
			}
		case dap.EventMessage:
			c.events = append(c.events, m)
		}
	}
	c.t.Fatalf("asking for %s: %v", command, err)
	return nil
}

func (c *dapClient) do(command string, args any) dap.ResponseMessage {
	c.t.Helper()
	m := c.ask(command, args)
	if e, ok := m.(*dap.ErrorResponse); ok {
		c.t.Fatalf("%s is refused: %+v", command, e.Body.Error)
	}
	return m
}

func (c *dapClient) refused(command string, args any, words string) {
	c.t.Helper()
	m := c.ask(command, args)
	if e, ok := m.(*dap.ErrorResponse); !ok || e.Success || e.Command != command || !strings.Contains(e.Body.Error.Format, words) {
		c.t.Errorf("%s is answered with %+v, not %q", command, m, words)
		if ok {
			c.t.Errorf("its error is %+v", e.Body.Error)
		}
	}
}

// event waits for one that a condition holds for.
func event[E dap.EventMessage](c *dapClient, is func(E) bool) E {
	c.t.Helper()
	for {
		for i, m := range c.events {
			if e, ok := m.(E); ok && is(e) {
				c.events = c.events[i+1:]
				return e
			}
		}
		m, err := c.read()
		if err != nil {
			c.t.Fatalf("waiting for %T: %v; had %s", *new(E), err, c.had())
		}
		if e, ok := m.(dap.EventMessage); ok {
			c.events = append(c.events, e)
		}
	}
}

func (c *dapClient) had() string {
	b, _ := json.Marshal(c.events)
	return string(b)
}

// printed waits until the debuggee has printed words.
func (c *dapClient) printed(words string) {
	c.t.Helper()
	event(c, func(e *dap.OutputEvent) bool { return strings.Contains(e.Body.Output, words) })
}

// initialize is what every editor begins with.
func (c *dapClient) initialize() {
	c.t.Helper()
	c.do("initialize", dap.InitializeRequestArguments{AdapterID: "go", PathFormat: "path", LinesStartAt1: true, ColumnsStartAt1: true})
}

// run starts the sample shop's web with a breakpoint in its handler.
func (c *dapClient) run(program string) {
	c.t.Helper()
	c.initialize()
	c.do("launch", map[string]any{"mode": "exec", "program": program, "args": []string{"-copy=debuggee", "-inventory=http://127.0.0.1:9/"}})
	event(c, func(*dap.InitializedEvent) bool { return true })
	file, err := filepath.Abs(handlerFile)
	if err != nil {
		c.t.Fatal(err)
	}
	m := c.do("setBreakpoints", dap.SetBreakpointsArguments{Source: dap.Source{Path: file}, Breakpoints: []dap.SourceBreakpoint{{Line: handlerLine(c.t)}}})
	if b := m.(*dap.SetBreakpointsResponse).Body.Breakpoints; len(b) != 1 || !b[0].Verified {
		c.t.Fatalf("breakpoints %+v", b)
	}
	c.do("configurationDone", nil)
	c.printed("listens on")
}

// stopped waits until the debuggee has stopped in the handler, and returns the
// goroutine's number and its first frame's.
func (c *dapClient) stopped() (thread, frame int) {
	c.t.Helper()
	thread = event(c, func(e *dap.StoppedEvent) bool { return e.Body.Reason == "breakpoint" }).Body.ThreadId
	frames := c.do("stackTrace", dap.StackTraceArguments{ThreadId: thread, Levels: 5}).(*dap.StackTraceResponse).Body.StackFrames
	if len(frames) == 0 || !strings.HasSuffix(frames[0].Name, ".answer") {
		c.t.Fatalf("stopped in %+v", frames)
	}
	return thread, frames[0].Id
}

func (c *dapClient) evaluates(frame int, expression, want string) {
	c.t.Helper()
	got := c.do("evaluate", dap.EvaluateArguments{Expression: expression, FrameId: frame}).(*dap.EvaluateResponse).Body.Result
	if got != want {
		c.t.Errorf("%s is %s, not %s", expression, got, want)
	}
}

// ends waits until the server has hung up.
func (c *dapClient) ends() {
	c.t.Helper()
	for {
		m, err := c.read()
		if e, ok := err.(net.Error); ok && e.Timeout() {
			c.t.Fatal("the server does not hang up")
		}
		if err != nil {
			return
		}
		if e, ok := m.(dap.EventMessage); ok {
			c.events = append(c.events, e)
		}
	}
}

const handlerFile = "testdata/apps/shop/front/front.go"

func handlerLine(t *testing.T) int {
	t.Helper()
	b, err := os.ReadFile(handlerFile)
	if err != nil {
		t.Fatal(err)
	}
	before, _, ok := bytes.Cut(b, []byte("a := s.look(r.Context())"))
	if !ok {
		t.Fatalf("%s has no such handler", handlerFile)
	}
	return bytes.Count(before, []byte("\n")) + 1
}

// askFrom sends a request from a namespace's client pod, whose outcome the
// returned function waits for.
func askFrom(namespace, address string) func() (string, error) {
	type result struct {
		out string
		err error
	}
	done := make(chan result, 1)
	go func() {
		out, err := tryKubectl("exec", "-n", namespace, "client", "--", "/shop", "get", "http://"+address+"/")
		done <- result{out, err}
	}()
	return func() (string, error) { r := <-done; return r.out, r.err }
}

// tree opens descriptors of a process and all that descend from it.
func tree(t *testing.T, pid int) (fds []int) {
	t.Helper()
	return append(pidfd(t, pid), descendants(t, pid)...)
}

func allGone(t *testing.T, dir string, fds []int) {
	t.Helper()
	for _, fd := range fds {
		waitGone(t, fd)
	}
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		left, _ := filepath.Glob(filepath.Join(dir, "dap-*"))
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("left in the runtime directory: %q", left)
		}
	}
}

// An editor debugs in a session's context: a request of another pod stops at a
// breakpoint, the daemon is killed meanwhile, and debugging goes on.
func TestDebugStart(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	dir := ownDaemon(t)
	program := buildFor(t, "./testdata/apps/shop/web")
	e := openEditor(t, dir)
	s := e.session(namespace, "web", true)
	d := e.debug(s.ID, "")
	family := tree(t, d.PID)
	if path, ok := strings.CutPrefix(d.Endpoint, "unix:"+dir+"/"); !ok {
		t.Errorf("the endpoint is %s", d.Endpoint)
	} else if info, err := os.Stat(filepath.Join(dir, path)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the endpoint is %v, %v", info.Mode(), err)
	}
	c := dialDAP(t, d.Endpoint)
	c.run(program)
	family = append(family, tree(t, d.PID)...)

	answer := askFrom(namespace, address)
	thread, frame := c.stopped()
	c.evaluates(frame, "r.Method", `"GET"`)
	second := dialDAP(t, d.Endpoint)
	second.refused("initialize", nil, "another client")
	second.ends()
	c.do("continue", dap.ContinueArguments{ThreadId: thread})
	if out, err := answer(); err != nil || !strings.Contains(out, `"copy":"debuggee"`) || !strings.Contains(out, `"host":"web"`) {
		t.Errorf("the pod is answered %s, %v", out, err)
	}

	lost := askFrom(namespace, address)
	thread, frame = c.stopped()
	killDaemon(t, dir)
	c.evaluates(frame, "r.Method", `"GET"`)
	c.do("next", dap.NextArguments{ThreadId: thread})
	event(c, func(e *dap.StoppedEvent) bool { return e.Body.Reason == "step" })
	c.do("continue", dap.ContinueArguments{ThreadId: thread})
	if out, err := lost(); err == nil && strings.Contains(out, `"copy":"debuggee"`) {
		t.Errorf("a daemon that is gone delivered %s", out)
	}
	e = openEditor(t, dir) // of the daemon that the launcher has started
	for {
		list, err := e.Sessions(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if len(list) == 1 && list[0].ID == s.ID && len(list[0].Ports) == 1 {
			break
		}
	}
	answer = askFrom(namespace, address)
	thread, _ = c.stopped()
	c.do("continue", dap.ContinueArguments{ThreadId: thread})
	if out, err := answer(); err != nil || !strings.Contains(out, `"copy":"debuggee"`) {
		t.Errorf("afterwards the pod is answered %s, %v", out, err)
	}

	if err := e.Stop(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	c.ends()
	c.printed("the session has ended")
	allGone(t, dir, family)
}

// Five sessions on two targets start at once, and six debug sessions in them; each ends with its client,
// or its launcher.
func TestDebugSeveral(t *testing.T) {
	t.Parallel()
	namespace, _ := ownShop(t)
	dir := ownDaemon(t)
	program := buildFor(t, "./testdata/apps/shop/web")
	e := openEditor(t, dir)
	var wg sync.WaitGroup
	sessions, started := make([]ide.Session, 5), make([]ide.Debug, 6)
	debug := func(i, in int) {
		transport := "unix"
		if i%2 == 1 {
			transport = "tcp"
		}
		var err error
		started[i], err = e.Debug(t.Context(), ide.DebugStartParams{ID: sessions[in].ID, Client: e.client(), Transport: transport}, func(string) {})
		if err != nil {
			t.Error(err)
		}
	}
	for i := range sessions {
		wg.Go(func() {
			var err error
			if sessions[i], err = e.Start(t.Context(), e.params(namespace, []string{"web", "client"}[i%2], false), func(string) {}); err != nil {
				t.Error(err)
				return
			}
			debug(i, i)
		})
	}
	wg.Wait()
	debug(5, 1)
	if t.Failed() {
		return
	}
	var clients []*dapClient
	var family []int
	for i, d := range started {
		c := dialDAP(t, d.Endpoint)
		clients = append(clients, c)
		c.initialize()
		c.do("launch", map[string]any{"mode": "exec", "program": program, "args": []string{"-copy=debuggee", "-inventory=http://127.0.0.1:9/"}})
		event(c, func(*dap.InitializedEvent) bool { return true })
		c.do("configurationDone", nil)
		c.printed("web debuggee on " + []string{"web: ", "client: "}[i%2])
		family = append(family, tree(t, d.PID)...)
	}
	for i, c := range clients {
		switch {
		case i == 4:
			if err := syscall.Kill(started[i].PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			c.ends()
		case i%2 == 0:
			c.do("disconnect", dap.DisconnectArguments{TerminateDebuggee: true})
			c.ends()
		default:
			c.conn.Close() // an editor that has crashed
		}
	}
	allGone(t, dir, family)
}

func TestDebugErrors(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	dir := ownDaemon(t)
	e := openEditor(t, dir)
	s := e.session(namespace, "web", false)
	here := e.client()
	for _, tt := range []struct {
		name  string
		p     ide.DebugStartParams
		code  int
		words string
	}{
		{"no session", ide.DebugStartParams{ID: "00000000", Client: here}, ide.CodeSession, `no session "00000000"`},
		{"no directory", ide.DebugStartParams{ID: s.ID, Client: ide.Client{Dir: "/no/such", Env: here.Env}}, ide.CodeParams, `client.dir: "/no/such": stat /no/such: no such file or directory`},
		{"a file", ide.DebugStartParams{ID: s.ID, Client: ide.Client{Dir: "/etc/passwd", Env: here.Env}}, ide.CodeParams, `client.dir: "/etc/passwd": stat /etc/passwd: not a directory`},
		{"no transport", ide.DebugStartParams{ID: s.ID, Client: here, Transport: "pipe"}, ide.CodeParams, `transport: "pipe" is none of unix, tcp`},
	} {
		_, err := e.Debug(t.Context(), tt.p, func(string) {})
		if got, ok := errors.AsType[*ide.Error](err); !ok || got.Code != tt.code || got.Msg != tt.words {
			t.Errorf("%s: %v, want %s", tt.name, err, tt.words)
		}
	}

	t.Run("no Go", func(t *testing.T) {
		bare := here
		bare.Env = []string{"PATH=/no/such", "HOME=" + os.Getenv("HOME")}
		d, err := e.Debug(t.Context(), ide.DebugStartParams{ID: s.ID, Client: bare}, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		family := tree(t, d.PID)
		c := dialDAP(t, d.Endpoint)
		c.initialize()
		c.refused("attach", map[string]any{"mode": "local", "processId": os.Getpid()}, "cannot be put into the context of a target")
		c.refused("launch", map[string]any{"mode": "debug", "program": "./testdata/apps/shop/web"}, "Build error")
		c.printed(`exec: "go": executable file not found in $PATH`)
		c.do("disconnect", nil)
		allGone(t, dir, family)
	})

	t.Run("no client for it", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		_, err := e.Debug(ctx, ide.DebugStartParams{ID: s.ID, Client: here}, func(string) { cancel() })
		if got, ok := errors.AsType[*ide.Error](err); !ok || got.Code != ide.CodeCancelled {
			t.Errorf("cancelled: %v", err)
		}
		gone := openEditor(t, dir)
		_, err = gone.Debug(t.Context(), ide.DebugStartParams{ID: s.ID, Client: here}, func(string) { gone.Close() })
		if err == nil {
			t.Error("a client that is gone is answered")
		}
		for _, words := range processesWith("XDG_RUNTIME_DIR=" + filepath.Dir(dir)) {
			pid, command, _ := strings.Cut(words, " ")
			if n, err := strconv.Atoi(pid); err == nil && strings.Contains(command, "endpoint") {
				for _, fd := range pidfd(t, n) {
					waitGone(t, fd)
				}
			}
		}
	})
}

// Without sources of its own a stranger's editor starts a debug session by the
// messages that IDE.md shows.
func TestDebugByStdio(t *testing.T) {
	t.Parallel()
	namespace := ownTarget(t)
	ownDaemon(t)
	build := strings.Fields(run(t, "version").stdout)[1]
	cmd := mirrord(t, "daemon", "--stdio")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	call := func(id int, method, params string) string {
		t.Helper()
		body := fmt.Sprintf(`{"jsonrpc":"2.0","id":%d,"method":%q,"params":%s}`, id, method, params)
		if _, err := fmt.Fprintf(in, "Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
			t.Fatal(err)
		}
		b, err := dap.ReadBaseMessage(r) // the same framing
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	field := func(answer, name string) (value string) {
		t.Helper()
		var m struct {
			Result map[string]json.RawMessage `json:"result"`
		}
		if err := json.Unmarshal([]byte(answer), &m); err != nil || json.Unmarshal(m.Result[name], &value) != nil {
			t.Fatalf("no %s in %s", name, answer)
		}
		return value
	}
	env, err := json.Marshal(environ(t))
	if err != nil {
		t.Fatal(err)
	}
	client := fmt.Sprintf(`{"dir":"/","env":%s}`, env)
	call(1, "initialize", fmt.Sprintf(`{"version":1,"build":%q,"client":"stranger 0.1"}`, build))
	id := field(call(2, "session/start", fmt.Sprintf(`{"client":%s,"overrides":{"target":"pod/web","namespace":%q,"kubeconfig":%q}}`, client, namespace, kubeconfig)), "id")
	endpoint := field(call(3, "debug/start", fmt.Sprintf(`{"id":%q,"client":%s,"transport":"tcp"}`, id, client)), "endpoint")
	c := dialDAP(t, endpoint)
	c.initialize()
	in.Close()
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	c.refused("threads", nil, "No debug session") // the launcher holds the session
	c.do("disconnect", nil)
	c.ends()
}
