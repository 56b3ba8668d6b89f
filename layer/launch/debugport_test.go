package launch

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	wire "mirrord/protocol/layer"
)

const (
	nodeListens = `require('net').createServer().listen(%d, () => process.exit())`
	// The inspector is opened by a signal, as a debugger does that attaches.
	nodeListensLate = `
process.kill(process.pid, 'SIGUSR1')
const look = setInterval(() => { if (require('inspector').url()) { clearInterval(look); ` + nodeListens + ` } }, 10)`
	javaListens = `
public class Web {
	public static void main(String[] args) throws Exception { new java.net.ServerSocket(%d).close(); }
}`
	pythonListens = `
import socket
socket.create_server(("", %d)).close()`
)

// debugpyAdapter is an editor that waits for a debuggee: it says where, then
// what it hears of it.
const debugpyAdapter = `
import json, subprocess, sys
adapter = subprocess.Popen([sys.executable, "-m", "debugpy.adapter"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
def send(seq, command, **arguments):
    b = json.dumps({"type": "request", "seq": seq, "command": command, "arguments": arguments}).encode()
    adapter.stdin.write(b"Content-Length: %d\r\n\r\n" % len(b) + b); adapter.stdin.flush()
def say(*words):
    print(*words, sep=":", flush=True)
send(1, "initialize", adapterID="debugpy")
send(2, "attach", listen={"host": "127.0.0.1", "port": 0})
event = ""
while event != "terminated":
    size = int(adapter.stdout.readline().split()[1]); adapter.stdout.readline()
    m = json.loads(adapter.stdout.read(size)); event = m.get("event")
    if m.get("success") is False: sys.exit(m.get("message"))
    if event == "debugpyWaitingForServer": say(m["body"]["host"], m["body"]["port"])
    if event in ("initialized", "terminated"): say(event)
    if event == "initialized": send(3, "configurationDone")
adapter.stdin.close(); adapter.wait()
`

// needPython skips a test without a module of Python's.
func needPython(t *testing.T, module string) {
	t.Helper()
	if err := exec.Command("python3", "-c", "import "+module).Run(); err != nil {
		t.Skipf("needs python3 with %s", module)
	}
}

func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err != nil {
		t.Skipf("needs %s", tool)
	}
}

// script writes a program whose port is web into a file.
func script(t *testing.T, name, text string, ports ...any) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(name, fmt.Appendf(nil, text, ports...), 0o644); err != nil {
		t.Fatal(err)
	}
	return name
}

// listensAt tells the addresses where port is listened on, as the kernel spells them.
func listensAt(t *testing.T, port uint16) string {
	t.Helper()
	var list []string
	for _, name := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Error(err)
		}
		for line := range strings.Lines(string(b)) {
			const listens = "0A"
			f := strings.Fields(line)
			if at, ok := strings.CutSuffix(f[1], fmt.Sprintf(":%04X", port)); ok && f[3] == listens {
				list = append(list, at)
			}
		}
	}
	return strings.Join(list, " ")
}

// A debugger's listener is this machine's, where it was asked for; the
// debuggee's port is stolen, or mirrored, as ever.
func TestDebuggersPort(t *testing.T) {
	const loopback, all, all6 = "0100007F", "00000000", "00000000000000000000000000000000"
	for _, tt := range []struct {
		name   string
		need   func(t *testing.T)
		mirror bool
		env    string
		at     string
		argv   func(t *testing.T, debug, web uint16) []string
	}{
		{"node", nil, false, "", loopback, func(_ *testing.T, debug, web uint16) []string {
			return []string{"node", fmt.Sprintf("--inspect=%d", debug), "-e", fmt.Sprintf(nodeListens, web)}
		}},
		{"node, all addresses", nil, true, "", all, func(_ *testing.T, debug, web uint16) []string {
			return []string{"node", fmt.Sprintf("--inspect=0.0.0.0:%d", debug), "-e", fmt.Sprintf(nodeListens, web)}
		}},
		{"node, by environment", nil, false, "NODE_OPTIONS=--inspect=%d", loopback, func(_ *testing.T, _, web uint16) []string {
			return []string{"node", "-e", fmt.Sprintf(nodeListens, web)}
		}},
		{"node, by a signal", nil, false, "", loopback, func(_ *testing.T, debug, web uint16) []string {
			return []string{"node", "--inspect-port", fmt.Sprint(debug), "-e", fmt.Sprintf(nodeListensLate, web)}
		}},
		{"node, by VS Code", nil, false, "VSCODE_INSPECTOR_OPTIONS={}", loopback, func(t *testing.T, debug, web uint16) []string {
			return []string{"node", script(t, "web.js", `
require('child_process').spawnSync(process.execPath, ['-e', 'require("net").createServer().on("listening", () => process.exit(0)).listen(%[1]d)']);
require('inspector').open(%[1]d);`+strings.ReplaceAll(nodeListens, "%d", "%[2]d"), debug, web)}
		}},
		{"node, by VS Code, with a worker that listens", nil, false, "VSCODE_INSPECTOR_OPTIONS={}", loopback, func(t *testing.T, debug, web uint16) []string {
			return []string{"node", script(t, "web.js", `
require('inspector').open(%d);
const { Worker } = require('worker_threads');
new Worker("require('net').createServer().listen(%d, '127.0.0.1', () => require('worker_threads').parentPort.postMessage(''))", { eval: true })
	.on('message', () => process.exit())`, debug, web)}
		}},
		{"JDWP", nil, false, "", all6, func(t *testing.T, debug, web uint16) []string {
			return []string{"java", fmt.Sprintf("-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=*:%d", debug), script(t, "Web.java", javaListens, web)}
		}},
		{"JDWP, old spelling", nil, true, "", loopback, func(t *testing.T, debug, web uint16) []string {
			return []string{"java", fmt.Sprintf("-Xrunjdwp:transport=dt_socket,server=y,suspend=n,address=%d", debug), script(t, "Web.java", javaListens, web)}
		}},
		{"JDWP, by environment", nil, false, "JAVA_TOOL_OPTIONS=-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,address=127.0.0.1:%d", loopback, func(t *testing.T, _, web uint16) []string {
			return []string{"java", script(t, "Web.java", javaListens, web)}
		}},
		{"debugpy", func(t *testing.T) { needPython(t, "debugpy") }, false, "", all, func(t *testing.T, debug, web uint16) []string {
			return []string{"python3", "-Xfrozen_modules=off", "-m", "debugpy", "--listen", fmt.Sprintf("0.0.0.0:%d", debug), script(t, "web.py", pythonListens, web)}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			debug, web := freePort(t), freePort(t)
			argv := tt.argv(t, debug, web)
			need(t, argv[0])
			if tt.need != nil {
				tt.need(t)
			}
			w := newWorld(t)
			w.policy.Steal, w.policy.Mirror = !tt.mirror, tt.mirror
			if tt.env != "" {
				w.env = append(w.env, strings.ReplaceAll(tt.env, "%d", fmt.Sprint(debug)))
			}
			var mu sync.Mutex
			var asked []uint16 // guarded by mu
			var at string      // guarded by mu
			w.Hold = func(q *wire.Request) {
				if q.Op == wire.OpListen {
					mu.Lock()
					defer mu.Unlock()
					asked = append(asked, q.Addr.Port())
					at = listensAt(t, debug)
				}
			}
			r := w.run(t, argv...)
			mu.Lock()
			defer mu.Unlock()
			if r.err != nil || r.Exit != (Exit{}) || len(asked) != 1 || asked[0] != web {
				t.Errorf("%+v, asked for ports %d, want %d", r, asked, web)
			}
			if at != tt.at {
				t.Errorf("the debugger listened at %q, want %q", at, tt.at)
			}
		})
	}
}

// A port that the kernel chooses is not the target's, a debugger's or not.
func TestDebuggersChosenPort(t *testing.T) {
	for _, argv := range [][]string{
		{"node", "--inspect=0", "-e", `require('http').get(require('inspector').url().replace(/ws(.*)\/.*/, 'http$1/json/version'), r => {
			console.log(r.statusCode); process.exit() })`},
		{"java", "-agentlib:jdwp=transport=dt_socket,server=y,suspend=n,quiet=y", script(t, "Web.java", `
public class Web {
	public static void main(String[] args) { System.out.println(200 + %d); }
}`, 0)},
	} {
		t.Run(argv[0], func(t *testing.T) {
			need(t, argv[0])
			w := newWorld(t)
			w.want(t, "200\n", argv...)
			if n := w.Calls(wire.OpListen); n != 0 {
				t.Errorf("%d ports were asked for", n)
			}
		})
	}
}

// The program's port is stolen whatever a debugger would read out of its words.
func TestNoDebuggersPort(t *testing.T) {
	port := freePort(t)
	for _, argv := range [][]string{
		{"node", script(t, "web.js", nodeListens, port), fmt.Sprintf("--inspect=%d", port)},
		{"java", script(t, "Web.java", javaListens, port), fmt.Sprintf("-agentlib:jdwp=transport=dt_socket,server=y,address=%d", port)},
		{"python3", script(t, "web.py", pythonListens, port), "-m", "debugpy", "--listen", fmt.Sprint(port)},
	} {
		t.Run(argv[0], func(t *testing.T) {
			need(t, argv[0])
			w := newWorld(t)
			w.want(t, "", argv...)
			if n := w.Calls(wire.OpListen); n != 1 {
				t.Errorf("%d ports were asked for", n)
			}
		})
	}
}

// A debuggee that connects to its debugger reaches this machine.
func TestDebuggeeConnectsToDebugger(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "localhost"} {
		t.Run("JDWP, "+host, func(t *testing.T) {
			need(t, "java")
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			const handshake = "JDWP-Handshake"
			got := make(chan string, 1)
			go func() {
				c, err := l.Accept()
				if err != nil {
					got <- err.Error()
					return
				}
				defer c.Close()
				b := make([]byte, len(handshake))
				_, _ = io.WriteString(c, handshake)
				_, _ = io.ReadFull(c, b)
				got <- string(b)
				_, _ = io.Copy(io.Discard, c)
			}()
			w := newWorld(t)
			_, port, _ := net.SplitHostPort(l.Addr().String())
			w.want(t, "", "java", "-agentlib:jdwp=transport=dt_socket,suspend=n,address="+net.JoinHostPort(host, port),
				script(t, "Web.java", `
public class Web {
	public static void main(String[] args) { System.exit(%d); }
}`, 0))
			l.Close()
			if s := <-got; s != handshake {
				t.Errorf("the debugger got %q", s)
			}
		})
	}
	t.Run("debugpy", func(t *testing.T) {
		needPython(t, "debugpy")
		cmd := exec.Command("python3", "-c", debugpyAdapter)
		cmd.Stderr = os.Stderr
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := bufio.NewReader(out)
		at, _ := said.ReadString('\n')
		w := newWorld(t)
		w.want(t, "debugged\n", "python3", "-Xfrozen_modules=off", "-m", "debugpy", "--connect", strings.TrimSpace(at), "--wait-for-client",
			script(t, "web.py", "print('debugged', end=chr(%d))", '\n'))
		if t.Failed() { // nobody will connect any more
			_ = cmd.Process.Kill()
		}
		rest, err := io.ReadAll(said)
		if err := errors.Join(err, cmd.Wait()); err != nil || string(rest) != "initialized\nterminated\n" {
			t.Errorf("the debugger said %q, %v", rest, err)
		}
	})
	// As VS Code attaches: what the environment makes node load opens the
	// inspector and says on a unix socket where it is.
	t.Run("node", func(t *testing.T) {
		need(t, "node")
		name := filepath.Join(t.TempDir(), "debugger.sock")
		l, err := net.Listen("unix", name)
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		boot := script(t, "boot.js", `
const inspector = require('inspector'), net = require('net');
inspector.open(%d);
net.connect(process.env.DEBUGGER, function () { this.write(inspector.url() + '\n') });
`, 0)
		got := make(chan string, 1)
		go func() {
			c, err := l.Accept()
			if err != nil {
				got <- err.Error()
				return
			}
			defer c.Close() // the debuggee ends with it
			url, _ := bufio.NewReader(c).ReadString('\n')
			url, _, _ = strings.Cut(strings.TrimPrefix(url, "ws"), "/json")
			url = url[:max(strings.LastIndexByte(url, '/'), 0)]
			r, err := http.Get("http" + url + "/json/version")
			if err != nil {
				got <- err.Error()
				return
			}
			r.Body.Close()
			got <- r.Status
		}()
		w := newWorld(t)
		w.env = append(w.env, "DEBUGGER="+name, "NODE_OPTIONS=--require="+boot)
		w.want(t, "", "node", "-e", "")
		l.Close()
		if s := <-got; s != "200 OK" {
			t.Errorf("the debugger got %q", s)
		}
		if n := w.Calls(wire.OpListen); n != 0 {
			t.Errorf("%d ports were asked for", n)
		}
	})
}
