// Command bench measures what the layer and the tunnel cost, as ratios to the
// direct way in the same run: medians of interleaved rounds, and beside them
// the ratios that the other mirrord reaches. `./task bench` prints a table and
// writes bin/bench.jsonl; `./task bench -- compare OLD.jsonl` says what moved
// since an older one.
//
// The ladder (ladder.go), filtered ports (passing.go), the layer's own cost
// (layer.go) and Delve (debug.go) are measured in two network namespaces. The agent is reached by address, as the peer's
// published figures were taken: no port-forward in the way.
//
//	namespace "here"                               "there", by veth
//	  ├─ work            the direct way              servers
//	  └─ mirrord exec ─ work ─ daemon ══════════════ mirrord-agent
//
// The rest (cluster.go) is measured on the test cluster. The work itself is in
// c/, work.py and work.go.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// What a run leaves, the table apart.
var lines = filepath.Join("bin", "bench.jsonl")

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case errors.Is(err, flag.ErrHelp):
		os.Exit(2)
	case ctx.Err() != nil && err == nil:
		fmt.Fprintln(os.Stderr, "bench: interrupted; what was started is ended")
		os.Exit(130)
	case err != nil:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string) error {
	if len(args) > 0 {
		switch args[0] {
		case "work":
			return work(args[1:])
		case "compare":
			return compareFiles(os.Stdout, args[1:])
		}
	}
	var o options
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 11, "rounds of each row, fewer for slow ones; the median counts")
	f.StringVar(&o.only, "only", "", "measure only the rows whose `name` begins so, as small/ or outgoing/up")
	f.StringVar(&o.group, "group", "", "measure only this `group`: ladder, passing, layer, debug or cluster")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: bench [flags]\n       bench compare OLD.jsonl [NEW.jsonl]")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return err
	}
	switch {
	case f.NArg() > 0:
		return fmt.Errorf("unexpected argument %q", f.Arg(0))
	case o.rounds < 1:
		return fmt.Errorf("-rounds %d: at least 1", o.rounds)
	case o.group != "" && !slices.Contains(groups, o.group):
		return fmt.Errorf("-group %s: none of %s", o.group, strings.Join(groups, ", "))
	}
	return bench(ctx, o)
}
