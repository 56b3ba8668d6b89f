// Command deaths runs the tests in which a part of mirrord or of the cluster
// dies, or the link between them is cut, and prints what they report as one
// table, in Markdown. `./task deaths` prepares what it needs; arguments are
// names of the tests to run instead of all.
//
// A test reports by its attributes died, kept and measured.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
)

// tests are all there are, in the order of the table.
var tests = []string{
	"TestLauncherOrKeeperKilledUnderLoad",
	"TestDaemonKilledUnderLoad",
	"TestAgentKilled",
	"TestKilledAtRate",
	"TestTargetRestarted",
	"TestTargetDeleted",
	"TestReplicasBroken",
	"TestClusterComponentRestarted",
	"TestLinkCut",
	"TestServerKilledInATransfer",
	"TestLinkResetIdle",
	"TestTwoDaemons",
	"TestOneOfTwoDaemonsKilled",
	"TestFilterDeaths",
	"TestAsleep",
	"TestManyConnections",
	"TestSoak",
	"TestSoakStopped",
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	wanted := tests
	if len(os.Args) > 1 {
		wanted = os.Args[1:]
	}
	if err := run(ctx, wanted); err != nil {
		fmt.Fprintln(os.Stderr, "deaths:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, wanted []string) error {
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-race", "-count=1", "-p=1", "-parallel=1", "-timeout=3h",
		"-run=^("+strings.Join(wanted, "|")+")$", ".", "./agent")
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("running the tests: %w", err)
	}
	rows, err := read(out, os.Stderr)
	if err != nil {
		cmd.Process.Kill() //nolint:errcheck // it may have ended
	}
	err = errors.Join(err, cmd.Wait())
	return errors.Join(err, write(os.Stdout, rows, wanted))
}

// An event is a line of `go test -json`.
type event struct {
	Action, Test, Output, Key, Value string
}

// A row is one test, or one of its parts.
type row struct {
	test                 string
	died, kept, measured string
	result               string // "" while it runs
	last                 string // line of output
	parts                bool   // it has: they are the rows
}

// read makes rows of events, in their order. What a failed test said goes to w.
func read(from io.Reader, w io.Writer) (rows []*row, err error) {
	said := map[string]*strings.Builder{}
	of := map[string]*row{}
	in := bufio.NewScanner(from)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var e event
		if err := json.Unmarshal(in.Bytes(), &e); err != nil {
			return rows, fmt.Errorf("reading the tests' events: %w: %s", err, in.Bytes())
		}
		r := of[e.Test]
		if r == nil {
			r = &row{test: e.Test}
			of[e.Test], said[e.Test] = r, new(strings.Builder)
			if e.Test != "" {
				rows = append(rows, r)
			}
			if i := strings.LastIndex(e.Test, "/"); i >= 0 {
				of[e.Test[:i]].parts = true
			}
		}
		switch e.Action {
		case "attr":
			r.attr(e.Key, e.Value)
		case "output":
			said[e.Test].WriteString(e.Output)
			if line := strings.TrimSpace(e.Output); line != "" && !strings.HasPrefix(line, "---") {
				r.last = line
			}
		case "pass", "fail", "skip":
			r.result = map[string]string{"pass": "passed", "fail": "FAILED", "skip": "skipped"}[e.Action]
			if e.Action == "fail" {
				fmt.Fprint(w, said[e.Test])
			} else if e.Test != "" {
				fmt.Fprintln(w, r.result, e.Test)
			}
		}
	}
	return rows, in.Err()
}

func (r *row) attr(key, value string) {
	switch key {
	case "died":
		r.died = value
	case "kept":
		r.kept = value
	case "measured":
		r.measured = value
	}
}

// write prints the table. It fails where a wanted test is no passed row of it.
func write(w io.Writer, rows []*row, wanted []string) error {
	fmt.Fprintln(w, "| what died or was cut | what the user keeps or is told | measured | result |")
	fmt.Fprintln(w, "|---|---|---|---|")
	bad := 0
	for _, name := range wanted {
		mine := slices.DeleteFunc(slices.Clone(rows), func(r *row) bool {
			top, _, _ := strings.Cut(r.test, "/")
			return top != name || r.parts
		})
		if len(mine) == 0 {
			mine = []*row{{test: name, result: "did not run"}}
		}
		for _, r := range mine {
			if r.died == "" {
				r.died, r.measured = r.test, r.last
			}
			if r.result == "" {
				r.result = "did not end"
			}
			asked := !strings.HasPrefix(name, "TestSoak") // those run where their user says for how long
			if r.result != "passed" && (asked || r.result != "skipped") {
				bad++
			}
			fmt.Fprintf(w, "| %s | %s | %s | %s |\n", r.died, r.kept, strings.ReplaceAll(r.measured, "|", "\\|"), r.result)
		}
	}
	if bad > 0 {
		return fmt.Errorf("%d of the rows are no success", bad)
	}
	return nil
}
