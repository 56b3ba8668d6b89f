package layer

import (
	"bytes"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"

	"mirrord/layer/seccomp"
)

// A debugger is a kind of program that listens for a debugger's front end.
// Such a port is nobody's business in the cluster: who reaches it runs code here.
type debugger uint8

const (
	noDebugger debugger = iota
	aDebugger           // nothing else: all it listens on
	inspector           // node's, a thread of the debuggee
	jdwp                // the JVM's, a library in the debuggee
	debugpy             // the adapter, a process beside the debuggee
)

// inspectPort is node's if no other is given; SIGUSR1 opens it at any time.
const inspectPort = 9229

// onlyDebuggers listen for their front ends, and run the debuggee elsewhere.
var onlyDebuggers = []string{"dlv", "gdbserver", "lldb-server"}

// debugPorts tells which ports a program's debugger is told to listen on, by
// what the program was started as. env reads the environment.
func debugPorts(exe string, args []string, env func() []string) (debugger, []uint16) {
	name := path.Base(exe)
	if slices.Contains(onlyDebuggers, name) || len(args) > 0 && slices.Contains(onlyDebuggers, path.Base(args[0])) {
		return aDebugger, nil
	}
	if strings.HasPrefix(name, "node") || strings.HasPrefix(name, "electron") {
		return inspector, inspectPorts(append(options(env(), "NODE_OPTIONS"), args...))
	}
	if ports := adapterPorts(args); ports != nil {
		return debugpy, ports
	}
	// A JVM need not be called java: many programs are one.
	if ports := jdwpPorts(append(options(env(), "JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS"), args...)); ports != nil {
		return jdwp, ports
	}
	return noDebugger, nil
}

// options are the words of these variables.
func options(env []string, names ...string) []string {
	var words []string
	for _, pair := range env {
		if name, value, ok := strings.Cut(pair, "="); ok && slices.Contains(names, name) {
			for _, word := range strings.Fields(value) {
				words = append(words, strings.Trim(word, `"'`))
			}
		}
	}
	return words
}

// inspectPorts: of --inspect[=[host:]port] and its like the last counts, but
// words that are the script's look the same, so all of them do.
func inspectPorts(words []string) []uint16 {
	ports := []uint16{inspectPort}
	for i, word := range words {
		option, value, given := strings.Cut(word, "=")
		switch strings.ReplaceAll(option, "_", "-") {
		case "--inspect", "--inspect-brk", "--inspect-brk-node", "--inspect-wait":
		case "--inspect-port", "--debug-port":
			if !given && i+1 < len(words) {
				value = words[i+1]
			}
		default:
			continue
		}
		ports = addPort(ports, value)
	}
	return ports
}

// jdwpPorts: of -agentlib:jdwp=server=y,address=[host:]port and older spellings.
func jdwpPorts(words []string) (ports []uint16) {
	for _, word := range words {
		suboptions, ok := strings.CutPrefix(word, "-agentlib:jdwp=")
		if !ok {
			suboptions, ok = strings.CutPrefix(word, "-Xrunjdwp:")
		}
		if library, rest, cut := strings.Cut(word, "="); !ok && cut && strings.HasPrefix(library, "-agentpath:") && path.Base(library) == "libjdwp.so" {
			suboptions, ok = rest, true
		}
		list := strings.Split(suboptions, ",")
		if !ok || !slices.Contains(list, "server=y") {
			continue
		}
		for _, suboption := range list {
			if address, ok := strings.CutPrefix(suboption, "address="); ok {
				ports = addPort(ports, address)
			}
		}
	}
	return ports
}

// adapterPorts: debugpy's adapter, which debugpy starts with --host and --port,
// listens; debugpy in the debuggee is told --listen.
func adapterPorts(args []string) []uint16 {
	main, rest := pythonMain(args)
	var option string
	switch {
	case main == "debugpy.adapter", strings.HasSuffix(main, "/debugpy/adapter"):
		option = "--port"
	case main == "debugpy", strings.HasSuffix(main, "/debugpy"):
		option = "--listen"
	default:
		return nil
	}
	i := slices.Index(rest, option)
	if i < 0 || i+1 == len(rest) {
		return nil
	}
	return addPort(nil, rest[i+1]) // a later one is the script's
}

// pythonMain returns what Python runs, a module or a path, and its arguments.
func pythonMain(args []string) (main string, rest []string) {
	for i := 1; i < len(args); i++ {
		switch word := args[i]; {
		case word == "-m" && i+1 < len(args):
			return args[i+1], args[i+2:]
		case word == "-X", word == "-W":
			i++
		case !strings.HasPrefix(word, "-"):
			return strings.TrimSuffix(word, "/__main__.py"), args[i+1:]
		}
	}
	return "", nil
}

// addPort adds the port of [host:]port. Port 0 is the kernel's choice, and not
// the target's anyhow.
func addPort(ports []uint16, address string) []uint16 {
	n, err := strconv.ParseUint(address[strings.LastIndexByte(address, ':')+1:], 10, 16)
	if err != nil || n == 0 || slices.Contains(ports, uint16(n)) {
		return ports
	}
	return append(ports, uint16(n))
}

// forDebugger tells whether c binds the listener of a debugger: its program says
// that one listens there, and it is not the program itself that does.
func (c *call) forDebugger() bool {
	exe, err := os.Readlink(c.proc("exe"))
	if err != nil {
		return false
	}
	args, environ := c.words("cmdline"), sync.OnceValue(func() []string { return c.words("environ") })
	kind, ports := debugPorts(exe, args, environ)
	if kind == inspector && seeksPort(args, environ()) {
		return true
	}
	at := c.addr.addr
	named := slices.Contains(ports, at.Port())
	switch kind {
	case aDebugger:
		return true
	case inspector:
		process, err := seccomp.Process(c.TID)
		if err != nil || uint32(process) == c.TID { // the script has the process's first thread
			return false
		}
		if !ByEditor(environ()) || !named && !at.Addr().IsLoopback() {
			return named
		}
		return c.l.inspectors.first(process, at.Port()) || named
	case jdwp: // the words may be for another JVM
		maps, err := os.ReadFile(c.proc("maps"))
		return named && err == nil && bytes.Contains(maps, []byte("/libdt_socket.so"))
	}
	return named
}

// EditorsNode is by what VS Code's debugger of Node.js tells the debuggee where
// the debugger is.
const EditorsNode = "VSCODE_INSPECTOR_OPTIONS"

// ByEditor tells whether VS Code's debugger of node opens the inspector, at a
// port that no word tells.
func ByEditor(env []string) bool {
	return slices.ContainsFunc(env, func(pair string) bool {
		name, value, _ := strings.Cut(pair, "=")
		return name == EditorsNode && value != ""
	})
}

// inspectors knows the port that an editor has a process of node listen on. It
// is opened before the script runs: what the script's workers listen on comes later.
type inspectors struct {
	mu    sync.Mutex
	ports map[incarnation]uint16 // guarded by mu
}

// An incarnation is a process that no other is taken for.
type incarnation struct {
	pid   int
	start string
}

// maxInspectors bounds what is remembered.
const maxInspectors = 4096

// first tells whether no other port was asked for before.
func (i *inspectors) first(pid int, port uint16) bool {
	stat, err := ProcessStat(pid)
	if err != nil {
		return false
	}
	p := incarnation{pid, string(stat[StatStart])}
	i.mu.Lock()
	defer i.mu.Unlock()
	if known, ok := i.ports[p]; ok {
		return known == port
	}
	if i.ports == nil || len(i.ports) >= maxInspectors {
		i.ports = make(map[incarnation]uint16)
	}
	i.ports[p] = port
	return true
}

// seeksPort tells whether node was started by VS Code's debugger to find a free
// port for the inspector, by listening there for a moment.
func seeksPort(args, env []string) bool {
	return len(args) == 3 && args[1] == "-e" && ByEditor(env) && len(options(env, "NODE_OPTIONS")) == 0
}

// words reads a file of strings that end with NUL.
func (c *call) words(entry string) []string {
	b, err := os.ReadFile(c.proc(entry))
	if err != nil {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}
