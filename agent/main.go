// Command mirrord-agent runs on the target's node, one for each target pod and
// build, and does what has to be done in the target's namespaces: it reads the
// target's environment and files, connects from its network, and takes over
// its ports. Clients come to it through a port-forward to its loopback.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"mirrord/agent/incoming"
	"mirrord/agent/serve"
	"mirrord/agent/target"
	"mirrord/protocol"
	_ "mirrord/protocol/slack" // linked to begin there
)

func main() {
	if err := run(os.Args[1:]); errors.Is(err, flag.ErrHelp) {
		os.Exit(2)
	} else if err != nil {
		fmt.Fprintln(os.Stderr, "mirrord-agent:", err)
		os.Exit(1)
	}
}

func run(args []string) (err error) {
	var choice target.Choice
	flags := flag.NewFlagSet("mirrord-agent", flag.ContinueOnError)
	listen := flags.String("listen", "127.0.0.1:0", "`address` to accept clients on, in this pod")
	flags.StringVar(&choice.Container, "container", "", "`id` of the target's container")
	flags.IntVar(&choice.PID, "pid", 0, "the target's `process`, instead of a container")
	idle := flags.Duration("idle", 5*time.Minute, "end after so long without a client")
	level := slog.LevelInfo
	flags.TextVar(&level, "log-level", level, "`level` of the log: debug tells of each connection")
	metrics := flags.String("metrics", "", "`address` in this pod to serve metrics on, for Prometheus; \"\": none")
	redirect := flags.String("redirect", "", "steal by "+incoming.SkLookup+", "+incoming.TPROXY+" or "+incoming.REDIRECT+"; else by what `works`")
	build := flags.String("build", protocol.Build, "the build that this agent must be of")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if *build != protocol.Build {
		return fmt.Errorf("this agent is of build %s, not %s: its image has the wrong tag", protocol.Build, *build)
	}
	addresses := []string{*listen}
	if *metrics != "" {
		addresses = append(addresses, *metrics)
	}
	t, listeners, err := target.Enter(choice, addresses...)
	if err != nil {
		return err
	}
	defer t.Close()
	for _, l := range listeners {
		defer l.Close()
	}
	limitMemory()
	log := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: level}))
	ctx, lost := context.WithCancelCause(context.Background())
	defer lost(nil)
	ctx, stop := signal.NotifyContext(ctx, syscall.SIGTERM, syscall.SIGINT)
	defer stop()
	follower := target.Follow(log, t, lost)
	defer follower.Stop()
	in := incoming.New(log, *redirect)
	defer func() { err = errors.Join(err, in.Close()) }()
	if err := in.Disabled(); err != nil {
		log.Warn("ports cannot be stolen", "err", err)
	}
	log.Info("serving", "target", choice, "pid", t.PID(), "build", protocol.Build)
	fmt.Println("listening on", listeners[0].Addr())
	server := serve.New(log, t, in, in.Disabled(), *idle)
	for _, l := range listeners[1:] {
		go server.Metrics(l)
	}
	return server.Run(ctx, listeners[0])
}
