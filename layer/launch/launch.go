// Package launch starts a debuggee inside the layer and stays until it ends.
//
//	launcher            answers the trapped calls, forwards signals
//	  └─ keeper         our own executable; starts and reaps the debuggee
//	       └─ debuggee  and all its children, under the seccomp program
//
// The keeper installs the program, on the one thread that starts the debuggee,
// and sends the listener to the launcher: neither of them is ever trapped, so
// the keeper can work when nobody answers any more. Launcher and keeper are
// joined by a socket pair. It ends when either dies, however it dies, and needs
// no thread to live on, as PDEATHSIG would; nobody else inherits it.
//
//   - launcher dead: the keeper kills every descendant, and ends.
//   - keeper dead: the debuggee, which has PDEATHSIG from it, and what else the
//     launcher then inherits as the next subreaper, is killed by the launcher.
//   - debuggee ended: what it left behind gets a second to end, then is killed:
//     without a launcher its trapped calls would fail with ENOSYS.
//
// All three are in the launcher's process group, as the terminal's job control
// wants it, and the keeper learns by that which signals were sent to the whole
// group. None that a terminal or a shell sends ends the keeper. Only SIGKILL to
// the group ends launcher and keeper at one moment: the debuggee dies with them,
// but a child of it that has left the group stays, and its trapped calls fail.
package launch

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"mirrord/layer"
	"mirrord/layer/keeper"
	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	"mirrord/protocol/ide"
)

// nestedEnv tells a launcher that it is itself a debuggee.
const nestedEnv = keeper.NestedEnv

// A Config says what to start, and where it shall seem to be.
type Config struct {
	Path string // of the program; "": found by Argv[0]
	Argv []string
	Env  []string // this machine's, NAME=value
	Dir  string

	// The target's environment, over Env: names it sets, and names it has not.
	Set   map[string]string
	Unset []string
	// Debugger: what is started is no debuggee, and starts it.
	Debugger Debugger

	Policy   ide.Policy
	Hostname string       // the target's
	Addrs    []netip.Addr // the target's

	Socket  string // the daemon's layer socket
	Session string

	// Again starts a daemon and in it the session, after the daemon was lost, and
	// says where its layer socket is. If it is nil, what is lost stays lost.
	Again func(ctx context.Context) (socket, session string, err error)

	Message func(msg string) // tells the user, in one line; may be called from any goroutine
}

// A Debugger is a kind of program that starts the debuggee.
type Debugger int

const (
	NoDebugger  Debugger = iota
	Delve                // traces the debuggee
	DelveServer          // as a DAP server it may also start one that it does not trace
	Native               // gdb, lldb and their like: traces it, and hands on its own environment
)

// An Exit is how a debuggee ended.
type Exit struct {
	Code   int
	Signal unix.Signal // not 0: it died by it, and Code is 128 more
	// OutOfMemory: while it ran the kernel has killed a process for want of
	// memory, and it died by SIGKILL.
	OutOfMemory bool
}

// A Launcher starts one debuggee.
type Launcher struct {
	keeper func() (*keeperProcess, error) // waits for its start; nil: it was not begun
	kills  func() uint64                  // OutOfMemoryKills, of before
	served chan struct{}                  // closed when no call is answered any more; nil: none was
}

// New returns a launcher, if this process may be one. Close follows, whether or
// not Run does.
func New() (*Launcher, error) {
	if by := os.Getenv(nestedEnv); by != "" {
		return nil, nested(by)
	}
	return &Launcher{}, nil
}

// Prepare begins what can be done before Run, which costs nothing while the daemon
// is asked for the session. Run tells what went wrong.
func (l *Launcher) Prepare() {
	l.keeper, l.kills = sync.OnceValues(startKeeper), sync.OnceValue(OutOfMemoryKills)
	// Beside us: the thread that forks waits until the child has executed, and
	// then for a processor, on which the child is.
	go func() {
		_, _ = l.keeper()
		l.kills()
	}()
	// The receiver will hold one of Go's processors while it waits in the kernel, as
	// long as nobody takes it away: with a single one nothing else would go on.
	runtime.GOMAXPROCS(runtime.GOMAXPROCS(0) + 1)
}

// Keeper is to be called first in main: in the process that a launcher started
// as its keeper it does the keeper's work and does not return.
func Keeper() { keeper.Main() }

// Close ends the keeper and what is below it. After Run it only waits until the
// kernel has taken the keeper apart, and the user has heard what there was to
// say: what else is to be done comes before it.
func (l *Launcher) Close() {
	if l.keeper != nil {
		if k, err := l.keeper(); err == nil {
			k.end()
		}
	}
	if l.served != nil {
		<-l.served
	}
}

// Run starts the debuggee and returns when it and all its children have ended.
// An *Error tells that it was not started. It is called once: from then on this
// process' signals are the debuggee's. When ctx or the session ends, the debuggee
// gets SIGTERM.
//
// Goroutines: Run starts one that asks for the signals and one that forwards them,
// and waits for both; and one that answers the trapped calls and one that ends
// that, for which Close waits.
func (l *Launcher) Run(ctx context.Context, log *slog.Logger, c Config) (Exit, error) {
	// Each signal costs two changes of threads, for which nobody has to wait; nor
	// is Stop worth it, since this process ends with the debuggee.
	signals, notified := make(chan os.Signal, 16), make(chan struct{})
	go func() {
		defer close(notified)
		signal.Notify(signals, keeper.Forwarded()...)
	}()
	defer func() { <-notified }()
	c.Set = inspected(c.Env, c.Set)
	debuggees := merge(c.Env, c.Set, c.Unset)
	debugger, env := c.debugger(debuggees)
	path := c.Path
	if path == "" {
		var err error
		if path, err = Look(c.Argv[0], env, c.Dir); err != nil {
			return Exit{}, err
		}
	}
	p, err := policy.New(c.Policy, policy.Client{
		Home: lookup(debuggees, "HOME"), Dir: c.Dir, Executable: path, Temp: lookup(debuggees, "TMPDIR"),
	})
	if err != nil {
		return Exit{}, err
	}
	ctx, over := context.WithCancel(ctx)
	defer over()
	settings := layer.Config{
		Policy: p, Hostname: c.Hostname, Addrs: c.Addrs, Message: c.Message, Over: over,
		Again: c.Again, Debugger: debugger,
	}
	program, err := seccomp.Program(seccomp.Host, settings.Program())
	if err != nil {
		return Exit{}, err
	}
	if l.keeper == nil {
		l.Prepare()
	}
	k, err := l.keeper()
	if err != nil {
		return Exit{}, err
	}
	if err := k.install(keeper.Orders{
		Path: path, Dir: c.Dir, Argv: c.Argv, AtOnce: debugger != nil, Program: instructions(program),
		Env: append(env[:len(env):len(env)], nestedEnv+"="+strconv.Itoa(os.Getpid())),
	}); err != nil {
		return Exit{}, err
	}
	daemon, err := layer.Dial(ctx, log, c.Socket, c.Session) // while the keeper installs the program
	if err != nil {
		return Exit{}, err
	}
	settings.Daemon = daemon
	hooks := layer.New(log, settings)
	listener, err := k.installed()
	if err != nil {
		daemon.Close()
		return Exit{}, err
	}
	l.served = make(chan struct{})
	go func() {
		defer close(l.served)
		if err := hooks.Serve(listener); err != nil {
			log.Error("answering calls", "err", err)
		}
		listener.Close()
		daemon.Close()
	}()
	defer func() {
		k.finish()
		go listener.Interrupt()
		daemon.Disconnect() // nobody is left to be answered
	}()
	<-notified
	end, err := k.attend(ctx, signals, c.Message)
	if c.Debugger == Native && err == nil && !debugger.Served() {
		c.Message(c.Argv[0] + " has debugged nothing, so nothing was in the context of the target")
	}
	if end.Signal == unix.SIGKILL {
		end.OutOfMemory = OutOfMemoryKills() > l.kills()
	}
	return end, err
}

// debugger returns what tells debugger and debuggees apart, and the environment
// of what is started.
//
// Delve gets this machine's, and exec makes the debuggee's of it, in memory that
// Go has made for the one exec. Other debuggers call exec with what they keep, in
// memory that parent and child share (vfork): there it must stay as it is. They
// are started with the debuggee's, which they show and change as their own.
func (c *Config) debugger(debuggees []string) (*layer.Debugger, []string) {
	switch c.Debugger {
	case NoDebugger:
		return nil, debuggees
	case Native:
		return layer.NewDebugger(debuggees, nil, nil, false)
	}
	return layer.NewDebugger(c.Env, c.Set, c.Unset, c.Debugger == DelveServer)
}
