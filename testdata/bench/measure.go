package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

var groups = []string{"ladder", "passing", "layer", "debug", "cluster"}

type options struct {
	rounds      int
	only, group string
}

// A scene is a group's surroundings and the rows that are measured in them.
type scene struct {
	group string
	begin func(context.Context) error
	pin   func(bool) error // nil: no row is pinned
	end   func() error     // also after a begin that failed
	rows  []row
}

// A figure is one measurement of one way.
type figure func(context.Context) (float64, error)

// A row is one thing measured both ways.
type row struct {
	name   string
	unit   string
	peer   float64 // the peer's ratio of its way to the direct one; 0: none is known
	goal   float64 // the ratio that we want, where there is no peer's
	enough float64 // what also does, however bad the ratio
	pinned bool    // each side keeps to a processor of its own
	slow   bool    // fewer rounds do
	before func(context.Context) error
	direct figure
	ours   figure
}

// slowRounds is the most for rows that take seconds.
const slowRounds = 7

// more says whether more of the row's unit is better.
func more(unit string) bool { return strings.HasSuffix(unit, "/s") }

// lead is how many times better a ratio is than another.
func lead(unit string, ratio, than float64) float64 {
	if more(unit) {
		return ratio / than
	}
	return than / ratio
}

// bench measures the rows that are asked for, scene by scene.
func bench(ctx context.Context, o options) (err error) {
	began := time.Now()
	p, err := newPrograms(ctx)
	if err != nil {
		return err
	}
	defer p.remove()
	out, err := os.CreateTemp("bin", "bench*.jsonl")
	if err != nil {
		return fmt.Errorf("opening %s: %w", lines, err)
	}
	defer os.Remove(out.Name())
	defer out.Close()
	var results []result
	var failed error
	chosen := 0
	for _, s := range []*scene{ladder(p), ladderIncoming(p), ladderShared(p), passing(p), layerAlone(p), debugging(p), onCluster(p)} {
		if !o.choose(s) {
			continue
		}
		chosen += len(s.rows)
		measured, err := s.measure(ctx, o)
		results = append(results, measured...)
		failed = errors.Join(failed, err)
		if ctx.Err() != nil {
			return failed
		}
	}
	if chosen == 0 {
		return fmt.Errorf("no row of group %q has a name that begins with %q", cmp.Or(o.group, "any"), o.only)
	}
	if len(results) == 0 {
		return failed
	}
	e := json.NewEncoder(out)
	for _, r := range results {
		if err := e.Encode(r); err != nil {
			return fmt.Errorf("writing %s: %w", lines, err)
		}
	}
	if err := errors.Join(out.Chmod(0o644), os.Rename(out.Name(), lines)); err != nil {
		return fmt.Errorf("writing %s: %w", lines, err)
	}
	p.remove() // whoever reads the table may stop doing so, which ends us
	failed = errors.Join(failed, show(results))
	fmt.Fprintf(os.Stderr, "%d rows in %v\n", len(results), time.Since(began).Round(time.Second))
	return failed
}

// choose leaves the rows of s that are asked for, and says whether there are any.
func (o options) choose(s *scene) bool {
	s.rows = slices.DeleteFunc(s.rows, func(r row) bool {
		return o.group != "" && o.group != s.group || !strings.HasPrefix(r.name, o.only)
	})
	return len(s.rows) > 0
}

func (s *scene) measure(ctx context.Context, o options) (results []result, err error) {
	fmt.Fprintln(os.Stderr, "preparing", s.group)
	defer func() {
		if e := s.end(); e != nil {
			err = errors.Join(err, fmt.Errorf("ending %s: %w", s.group, e))
		}
	}()
	if err := s.begin(ctx); err != nil && ctx.Err() == nil {
		return nil, fmt.Errorf("preparing %s: %w", s.group, err)
	}
	var failed error
	for i, r := range s.rows {
		rounds := o.rounds
		if r.slow {
			rounds = min(rounds, slowRounds)
		}
		if ctx.Err() != nil {
			return results, failed
		}
		fmt.Fprintf(os.Stderr, "%s %d/%d: %s\n", s.group, i+1, len(s.rows), r.name)
		if s.pin != nil {
			if err := s.pin(r.pinned); err != nil {
				return results, fmt.Errorf("measuring %s: %w", r.name, err)
			}
		}
		res, err := r.measure(ctx, rounds)
		if ctx.Err() != nil {
			return results, failed // this one failed because of that
		}
		if err != nil {
			// What was measured before, and the other rows, are worth having.
			failed = errors.Join(failed, fmt.Errorf("measuring %s: %w", r.name, err))
			continue
		}
		res.Group = s.group
		results = append(results, res)
	}
	return results, failed
}

// measure takes turns, so that what the machine does meanwhile hits both ways.
func (r row) measure(ctx context.Context, rounds int) (result, error) {
	var ours, direct, ratios []float64
	for i := range rounds {
		if r.before != nil {
			if err := r.before(ctx); err != nil {
				return result{}, err
			}
		}
		var o, d float64
		ways := []func() error{
			func() (err error) { d, err = r.direct(ctx); return err },
			func() (err error) { o, err = r.ours(ctx); return err },
		}
		if i%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			if err := way(); err != nil {
				return result{}, err
			}
		}
		ours, direct, ratios = append(ours, o), append(direct, d), append(ratios, o/d)
	}
	res := result{
		Name: r.name, Unit: r.unit, Ours: median(ours), Reference: median(direct), Peer: r.peer, Goal: r.goal, Rounds: rounds,
		OursSpread: spread(ours), ReferenceSpread: spread(direct), Spread: spread(ratios),
	}
	res.Ratio = res.Ours / res.Reference
	if r.enough != 0 {
		res.Goal = max(res.Goal, r.enough/res.Reference)
	}
	return res, nil
}

// show prints results as a table. The last column is how many times better
// than the peer, or than the goal where there is no peer's figure, ours is.
func show(results []result) error {
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "row\tunit\tdirect\tours\tours/direct\tspread\tpeer's\tgoal\tahead\t")
	for _, r := range results {
		peer, goal, ahead := "", "", ""
		if r.Peer != 0 {
			peer = fmt.Sprintf("%.3g", r.Peer)
			ahead = times(lead(r.Unit, r.Ratio, r.Peer))
		}
		if r.Goal != 0 {
			goal = fmt.Sprintf("%.3g", r.Goal)
			ahead = times(lead(r.Unit, r.Ratio, r.Goal))
		}
		fmt.Fprintf(table, "%s\t%s\t%.4g\t%.4g\t%.3g\t±%.0f%%\t%s\t%s\t%s\t\n",
			r.Name, r.Unit, r.Reference, r.Ours, r.Ratio, r.Spread*50, peer, goal, ahead)
	}
	return table.Flush()
}

func times(n float64) string {
	if n < 1 {
		return fmt.Sprintf("BEHIND %.2f", n)
	}
	return fmt.Sprintf("%.2f", n)
}
