package layer

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// A Debugger is Delve or a native debugger as gdb, which is started in place of
// the debuggee and starts it. The debugger itself and what it starts for itself
// (go build, its compilers and linker) work on this machine: they are not served,
// and with Delve see nothing of the target's environment. Who is served is decided
// at exec, and kept:
//
//   - a traced process is, and who descends from a served one;
//   - so is a debuggee that Delve starts without tracing it (noDebug of DAP): what
//     it starts and is none of its tools;
//   - not who else descends from the debugger without passing a served process;
//   - an orphan is.
type Debugger struct {
	given map[string]string // the debugger's environment

	untraced bool // it may start a debuggee that it does not trace

	mu     sync.Mutex
	first  int         // the debugger's process; guarded by mu
	kinds  map[int]kin // by process; guarded by mu
	keeper int         // our ancestor of all; guarded by mu
	served bool        // guarded by mu; somebody was
}

// tools are what Delve starts for itself.
var tools = []string{"go", "git", "rr", "lldb-server", "debugserver", "gdbserver", "debuginfod-find", "sh", "which"}

// A kin is what was decided about a process.
type kin struct {
	start  string // when it began, which tells it from a later one of its number
	served bool
}

// Prefixes of what the debugger's environment holds for the debuggee's, in
// names that no shell and no program uses.
const (
	setPrefix   = "mirrord+"
	unsetPrefix = "mirrord-"
)

// maxEnviron bounds the environment that is looked at: exec(2) takes no more
// than 2 MiB of 8-byte pointers and strings on a usual stack.
const maxEnviron = 1 << 18

// NewDebugger returns a debugger that runs with the environment env of this
// machine, and its whole environment, from which exec makes the debuggee's: env
// as set and unset change it. Where they change nothing the debugger's environment
// is the debuggee's. untraced: it may start a debuggee that it does not trace.
func NewDebugger(env []string, set map[string]string, unset []string, untraced bool) (*Debugger, []string) {
	d := &Debugger{given: map[string]string{}, kinds: map[int]kin{}, untraced: untraced}
	for _, pair := range env {
		name, value, _ := strings.Cut(pair, "=")
		d.given[name] = value
	}
	whole := slices.Clone(env)
	for _, name := range slices.Sorted(maps.Keys(set)) {
		whole = append(whole, setPrefix+name+"="+set[name])
	}
	for _, name := range unset {
		whole = append(whole, unsetPrefix+name+"=")
	}
	return d, whole
}

// exec decides about the process of a thread that calls exec, and gives it the
// environment that is its.
func (d *Debugger) exec(c *call) error {
	path, envp := c.Args[0], c.Args[2]
	if c.hook.Call == seccomp.Execveat {
		path, envp = c.Args[1], c.Args[3]
	}
	var buf [seccomp.MaxPath]byte
	program, _ := seccomp.ReadString(c.TID, path, &buf) // what cannot be read cannot be executed
	p, served, err := d.decide(int(c.TID), true, filepath.Base(string(program)))
	switch {
	case err != nil && !c.l.listener.Valid(c.ID):
		return nil // it is gone
	case err != nil:
		return fmt.Errorf("looking at process %d: %w", c.TID, err)
	case d.isFirst(p):
		return nil // it hands on what it has
	}
	if served && p.tracer != 0 {
		l := c.l // c is the receiver's, and soon another
		l.team.Go(func() { l.tellDebuggee(p.id) })
	}
	if err := d.environ(c, envp, served); err != nil && c.l.listener.Valid(c.ID) {
		return fmt.Errorf("giving process %d its environment: %w", c.TID, err)
	}
	return nil
}

// serves tells whether the process of thread tid is a debuggee.
func (d *Debugger) serves(tid uint32) bool {
	_, served, err := d.decide(int(tid), false, "")
	return served || err != nil
}

func (d *Debugger) decide(tid int, exec bool, program string) (p process, served bool, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if p, err = lookAt(tid); err != nil {
		return p, false, err
	}
	if exec && d.first == 0 {
		d.first, d.keeper = p.id, p.parent
	}
	served = d.judge(p)
	if exec {
		k, known := d.kinds[p.id]
		fresh := !known || k.start != p.start
		served = served || fresh && d.untraced && p.parent == d.first && !slices.Contains(tools, program)
		d.keep(p, served)
	}
	return p, served, nil
}

func (d *Debugger) isFirst(p process) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return p.id == d.first
}

// debuggees are the processes that the debugger traces.
func (d *Debugger) debuggees() []int {
	d.mu.Lock()
	kinds := maps.Clone(d.kinds)
	d.mu.Unlock()
	var list []int
	for id, k := range kinds {
		if p, err := lookAt(id); k.served && err == nil && p.start == k.start && p.tracer != 0 {
			list = append(list, id)
		}
	}
	return list
}

// tellDebuggee lets the daemon know of a process that may be stopped and replaced.
func (l *Layer) tellDebuggee(id int) {
	l.Daemon.call(&wire.Request{Op: wire.OpDebuggee, Node: uint64(id)})
}

// judge is called with mu held.
func (d *Debugger) judge(p process) bool {
	for range maxKinds {
		k, known := d.kinds[p.id]
		switch {
		case known && k.start == p.start:
			return k.served
		case p.id == d.first:
			return false
		case p.tracer != 0, p.parent <= 1, p.parent == d.keeper:
			return true
		}
		up, err := lookAt(p.parent)
		if err != nil {
			return true
		}
		p = up
	}
	return true
}

const maxKinds = 4096

// keep is called with mu held.
func (d *Debugger) keep(p process, served bool) {
	if len(d.kinds) >= maxKinds {
		maps.DeleteFunc(d.kinds, func(id int, k kin) bool {
			now, err := lookAt(id)
			return err != nil || now.start != k.start
		})
	}
	d.kinds[p.id] = kin{p.start, served}
	d.served = d.served || served
}

// Served tells whether anybody was a debuggee.
func (d *Debugger) Served() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.served
}

// environ turns the environment at addr, which the debugger has handed on, into
// the debuggee's or, for who is not served, back into this machine's. What the
// user set or took away for the debuggee alone (env of a launch request) stays
// so; he cannot be seen to take away what this machine has not. It only ever
// shortens the array: Go makes a new one for each exec, which nobody else uses,
// though the child may share its memory with the debugger.
func (d *Debugger) environ(c *call, addr uint64, served bool) error {
	pointers, err := readPointers(c.TID, addr)
	if err != nil {
		return err
	}
	type variable struct {
		pointer         uint64
		name, value     string
		cut             bool // value is its beginning
		isSet, isForget bool
	}
	var list []variable
	changed := map[string]bool{} // the target's names
	var buf [seccomp.MaxPath]byte
	for _, p := range pointers {
		text, err := seccomp.ReadString(c.TID, p, &buf)
		v := variable{pointer: p}
		if err == unix.ENAMETOOLONG {
			text, v.cut = buf[:], true // enough to tell what it is
		} else if err != nil {
			return err
		}
		v.name, v.value, _ = strings.Cut(string(text), "=")
		if v.name, v.isSet = strings.CutPrefix(v.name, setPrefix); v.isSet {
			v.pointer += uint64(len(setPrefix))
		} else {
			v.name, v.isForget = strings.CutPrefix(v.name, unsetPrefix)
		}
		if v.isSet || v.isForget {
			changed[v.name] = true
		}
		list = append(list, v)
	}
	if len(changed) == 0 {
		return nil
	}
	users, handed := map[string]bool{}, map[string]bool{}
	for _, v := range list {
		if v.isSet || v.isForget || !changed[v.name] {
			continue
		}
		handed[v.name] = true
		given, ok := d.given[v.name]
		if same := given == v.value || v.cut && strings.HasPrefix(given, v.value); !ok || !same {
			users[v.name] = true
		}
	}
	for name := range changed {
		if _, ok := d.given[name]; ok && !handed[name] {
			users[name] = true
		}
	}
	var out []byte
	for _, v := range list {
		ours := v.isSet || v.isForget
		if keep := !ours && (!served || !changed[v.name] || users[v.name]) || v.isSet && served && !users[v.name]; keep {
			out = binary.NativeEndian.AppendUint64(out, v.pointer)
		}
	}
	out = binary.NativeEndian.AppendUint64(out, 0)
	if !c.l.listener.Valid(c.ID) {
		return nil
	}
	return seccomp.Write(c.TID, addr, out)
}

// readPointers reads an array of pointers that ends with NULL.
func readPointers(tid uint32, addr uint64) ([]uint64, error) {
	const page = 4096
	var list []uint64
	var buf [page]byte
	for addr != 0 {
		b := buf[:page-addr%page]
		if err := seccomp.Read(tid, addr, b); err != nil {
			return nil, err
		}
		addr += uint64(len(b))
		for ; len(b) >= 8; b = b[8:] {
			p := binary.NativeEndian.Uint64(b)
			if p == 0 {
				return list, nil
			}
			if list = append(list, p); len(list) > maxEnviron {
				return nil, unix.E2BIG
			}
		}
	}
	return nil, nil
}

// A process is what /proc tells of one.
type process struct {
	id, parent, tracer int
	start              string
}

// lookAt finds the process of a thread.
func lookAt(tid int) (process, error) {
	dir := "/proc/" + strconv.Itoa(tid)
	status, err := os.ReadFile(dir + "/status")
	if err != nil {
		return process{}, err
	}
	var p process
	for key, to := range map[string]*int{"\nTgid:\t": &p.id, "\nPPid:\t": &p.parent, "\nTracerPid:\t": &p.tracer} {
		_, rest, _ := bytes.Cut(status, []byte(key))
		line, _, _ := bytes.Cut(rest, []byte("\n"))
		if *to, err = strconv.Atoi(string(line)); err != nil {
			return process{}, fmt.Errorf("reading %s/status: %w", dir, err)
		}
	}
	stat, err := ProcessStat(p.id)
	if err != nil {
		return process{}, err
	}
	p.start = string(stat[StatStart])
	return p, nil
}

// Fields of ProcessStat.
const (
	StatState = 0
	StatFlags = 6
	StatStart = 19 // in clock ticks since boot
)

// ProcessStat returns the fields of proc_pid_stat(5) behind the program's name,
// which may hold anything: at least those up to StatStart.
func ProcessStat(pid int) ([][]byte, error) {
	path := "/proc/" + strconv.Itoa(pid) + "/stat"
	stat, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:])
	if len(fields) <= StatStart {
		return nil, fmt.Errorf("reading %s: %d fields", path, len(fields))
	}
	return fields, nil
}
