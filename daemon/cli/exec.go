package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"mirrord/daemon/debug/endpoint"
	"mirrord/daemon/rpc"
	"mirrord/layer/launch"
	"mirrord/protocol/ide"
)

var engines = []string{"auto", "seccomp"}

// An execution is one `mirrord exec` or `mirrord dlv`.
type execution struct {
	choice  choice
	session string
	engine  string
	native  bool   // the command is a debugger
	path    string // of what is run; "": found by the command's first word
	dir     string // the runtime directory; "": what the environment says
}

func execCommand() *cobra.Command {
	e := &execution{}
	cmd := &cobra.Command{
		Use:   "exec [flags] [--] COMMAND [ARGUMENT...]",
		Short: "Run a command in the context of a target",
		Long: `exec runs COMMAND on this machine in the context of a target: a pod, or a pod of
a deployment. COMMAND and what it starts see the target's environment, volumes,
names and network, and get a copy of what others send to the ports they listen
on, which the pod answers. With --steal they get these connections themselves.
What COMMAND leaves running has a second to end after it.
Without a pod, --target targetless gives the cluster's names and network.

With --debugger, COMMAND is a debugger of native programs, by itself or as an IDE
starts it: it works on this machine, and the program that it starts and traces is
in the context of the target. (dlv, Go's, needs no flag.)

What the command line does not say comes from the configuration file, and the
variables MIRRORD_CONFIG_FILE, MIRRORD_IMPERSONATED_TARGET and
MIRRORD_TARGET_NAMESPACE come between the two.

Exit codes: COMMAND's own (a signal that ends it ends mirrord too); 127 when it
is not found, 126 when it cannot be executed, 125 when mirrord itself failed,
130 when it was interrupted before COMMAND ran, 2 for a wrong command line.`,
		Example: `  mirrord exec --target deployment/web -- ./web
  mirrord exec -t pod/web-7d9c/container/app -n shop --steal -- go run .
  mirrord exec -t targetless -n shop -- curl http://web
  mirrord exec -f mirrord.json -- npm start
  mirrord exec -t deployment/web --steal --debugger -- gdb --args ./web --verbose
  mirrord exec -t deployment/web --context staging --fs-mode local -- env
  mirrord exec --agent 127.0.0.1:7777 -- ./web`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("exec needs a command, as in mirrord exec --target deployment/web -- ./web")
			}
			return e.check(cmd)
		},
		RunE: run(e.run),
	}
	e.add(cmd)
	cmd.Flags().BoolVar(&e.native, "debugger", false, "COMMAND is a debugger, as gdb and lldb: only what it traces is in the target's context")
	return cmd
}

// atStart are flags of what a session has from its start.
var atStart = []string{"target", "agent", "config-file", "context", "steal", "fs-mode"}

// check looks at the flags that cobra does not, or in words of its own.
func (e *execution) check(cmd *cobra.Command) error {
	for _, name := range atStart {
		if e.session != "" && cmd.Flags().Changed(name) {
			return fmt.Errorf("--session %s and --%s: a session has this from its start; leave one of them out", e.session, name)
		}
	}
	if e.choice.overrides.Agent != "" && e.choice.overrides.Target != "" {
		return errors.New("--agent and --target: an agent outside Kubernetes is the target; leave one of them out")
	}
	if !slices.Contains(engines, e.engine) {
		return fmt.Errorf("--layer: %q is none of %s", e.engine, strings.Join(engines, ", "))
	}
	return nil
}

// add gives cmd the flags of an execution.
func (e *execution) add(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SetInterspersed(false) // flags behind the command are the command's
	f.StringVarP(&e.choice.overrides.Target, "target", "t", "", "`target`: pod/NAME, deployment/NAME, or another kind that ls lists (with /container/NAME where it matters), or targetless")
	e.choice.add(cmd)
	f.BoolVar(&e.choice.overrides.Steal, "steal", false, "take the connections to the ports that the debuggee listens on, instead of a copy")
	f.StringVar(&e.choice.overrides.FSMode, "fs-mode", "", "which files are the target's: `mode` read, write, local or local-with-overrides (default read)")
	f.StringVar(&e.session, "session", "", "`id` of a session that runs already, instead of a target")
	f.StringVar(&e.choice.overrides.Agent, "agent", "", "`host:port` of an agent outside Kubernetes, instead of a target")
	f.StringVar(&e.engine, "layer", "auto", "how calls are hooked: `engine` seccomp or auto")
	for _, name := range atStart { // for completion
		cmd.MarkFlagsMutuallyExclusive("session", name)
	}
	cmd.MarkFlagsMutuallyExclusive("agent", "target")
	mustComplete(cmd, "target", e.choice.completeTarget, cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "session", completeSession, cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "fs-mode", fixed("read", "write", "local", "local-with-overrides"), cobra.ShellCompDirectiveNoFileComp)
	mustComplete(cmd, "layer", fixed(engines...), cobra.ShellCompDirectiveNoFileComp)
}

func fixed(values ...string) func(string) []string { return func(string) []string { return values } }

func (e *execution) run(ctx context.Context, cmd *cobra.Command, args []string) error {
	me, err := client()
	if err != nil {
		return err
	}
	if _, err := launch.Look(cmp.Or(e.path, args[0]), me.Env, me.Dir); err != nil {
		return err
	}
	launcher, err := launch.New()
	if err != nil {
		return err
	}
	defer launcher.Close()
	if e.dir == "" {
		if e.dir, err = runtimeDir(); err != nil {
			return err
		}
	}
	w := cmd.ErrOrStderr()
	c, l, err := e.launch(ctx, me, w, launcher.Prepare)
	if c != nil {
		defer c.Close() // the session ends with it
	}
	if bad, ok := errors.AsType[*ide.Error](err); ok && bad.Code == ide.CodeUsage && e.choice.judged() {
		return &exit{code: exitUsage, err: err} // else it stands in a file or variable
	}
	if err != nil {
		return err
	}
	back := comeback{dir: e.dir, start: l.Start}
	defer back.close()
	settings := launch.Config{
		Path: e.path, Argv: args, Debugger: e.debugger(args), Env: me.Env, Set: l.Env, Unset: l.Unset, Dir: me.Dir,
		Policy: l.Policy, Hostname: l.Hostname,
		Socket: c.Info.Layer, Session: l.Session.ID, Again: back.again,
		Message: func(msg string) { fmt.Fprintf(w, "mirrord: %s\n", indent(msg)) },
	}
	if settings.Debugger == launch.Delve || settings.Debugger == launch.DelveServer {
		settings.Env = append(slices.Clone(me.Env), endpoint.SessionEnv+"="+l.Session.ID+" "+e.dir)
	}
	for _, addr := range l.Addrs {
		ip, err := netip.ParseAddr(addr)
		if err != nil {
			return fmt.Errorf("reading the target's addresses: %w", err)
		}
		settings.Addrs = append(settings.Addrs, ip)
	}
	log := slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelWarn}))
	// From here on signals are the debuggee's.
	end, err := launcher.Run(context.WithoutCancel(ctx), log, settings)
	if err != nil || end.Code == 0 {
		return err
	}
	if end.Crashed() {
		fmt.Fprintf(w, "mirrord: %s\n", crash(args[0], end))
	}
	return &exit{code: end.Code, debuggee: end}
}

// debugger tells what kind of debugger a command line is.
func (e *execution) debugger(args []string) launch.Debugger {
	switch {
	case isDelve(args[0]) && servesDAP(args[1:]):
		return launch.DelveServer
	case isDelve(args[0]):
		return launch.Delve
	case e.native:
		return launch.Native
	}
	return launch.NoDebugger
}

// launch gets a session, and tells on w how it goes. The client, which holds the
// session, is nil only with an error. What can be done meanwhile comes when the
// daemon has its request: it finds a processor free, and is what all else waits for.
func (e *execution) launch(ctx context.Context, me ide.Client, w io.Writer, meanwhile func()) (c *rpc.Client, l ide.Launch, err error) {
	begin := time.Now()
	command, err := startDaemon()
	if err != nil {
		return nil, l, err
	}
	p := newProgress(w)
	var asked *rpc.Asked
	if e.session != "" {
		asked = rpc.Ask(ctx, e.dir, caller, command, p.report, ide.MethodSessionLaunch, ide.SessionID{ID: e.session})
	} else {
		asked = rpc.Ask(ctx, e.dir, caller, command, p.report, ide.MethodSessionStart, ide.SessionStartParams{
			Client: me, ConfigFile: e.choice.config, Overrides: e.choice.overrides, Launch: true, Progress: rpc.FirstToken,
		})
	}
	meanwhile()
	c, err = asked.Answer(ctx, &l)
	p.end()
	if err != nil || e.session != "" {
		return c, l, err
	}
	l.Start.Client = me
	for _, warning := range l.Session.Warnings {
		fmt.Fprintf(w, "mirrord: warning: %s\n", indent(warning))
	}
	fmt.Fprintf(w, "mirrord: in the context of %s, after %.1f s\n", l.Session.Target, time.Since(begin).Seconds())
	return c, l, nil
}

// crash names the end of a debuggee that nobody asked to end.
func crash(command string, end launch.Exit) string {
	words := fmt.Sprintf("%s was ended by %s", command, unix.SignalName(end.Signal))
	if end.OutOfMemory {
		words += ": this machine, or the cgroup it runs in, had no memory left"
	}
	return words
}
