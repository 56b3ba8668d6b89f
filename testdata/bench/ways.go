package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
)

func count(n int) string { return strconv.Itoa(n) }

// both measures a command that prints a figure, on this side, alone and under
// mirrord.
func (w *world) both(r row, argv ...string) row {
	r.direct = w.mine(argv...)
	r.ours = func(ctx context.Context) (float64, error) {
		return w.here.value(w.mirrord(ctx, nil, argv...))
	}
	return r
}

// whole measures how long a command takes, alone and under mirrord.
func (w *world) whole(r row, argv ...string) row {
	r.direct = func(ctx context.Context) (float64, error) {
		return w.here.duration(w.here.command(ctx, argv[0], argv[1:]...))
	}
	r.ours = func(ctx context.Context) (float64, error) {
		return w.here.duration(w.mirrord(ctx, nil, argv...))
	}
	return r
}

// mine measures a command that prints a figure, on this side.
func (w *world) mine(argv ...string) figure {
	return func(ctx context.Context) (float64, error) {
		return w.here.value(w.here.command(ctx, argv[0], argv[1:]...))
	}
}

// theirs measures a command that prints a figure, on the other side.
func (w *world) theirs(argv ...string) figure {
	return func(ctx context.Context) (float64, error) {
		return w.there.value(w.there.command(ctx, argv[0], argv[1:]...))
	}
}

// memory measures a side's processes whose program and arguments begin so.
// There is no direct way: the reference is the peer's figure.
func memory(name, field string, peer float64, on **side, begins ...string) row {
	return row{
		name: name, unit: "MB", peer: 1, slow: true,
		direct: func(context.Context) (float64, error) { return peer, nil },
		ours:   func(context.Context) (float64, error) { return sum(*on, field, begins) },
	}
}

// sum adds a field of smaps_rollup up over processes.
func sum(on *side, field string, begins []string) (float64, error) {
	pids, err := on.processes()
	if err != nil {
		return 0, err
	}
	total := 0.0
	for _, pid := range pids {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !slices.ContainsFunc(begins, func(b string) bool { return strings.HasPrefix(string(cmdline), b) }) {
			continue // it has ended, or is another
		}
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
		if err != nil {
			return 0, fmt.Errorf("reading the memory of %q: %w", cmdline, err)
		}
		for line := range strings.Lines(string(text)) {
			if f := strings.Fields(line); len(f) == 3 && f[0] == field {
				kb, err := strconv.ParseFloat(f[1], 64)
				if err != nil {
					return 0, fmt.Errorf("reading the memory of %q: %w", cmdline, err)
				}
				total += kb * 1024 / 1e6
			}
		}
	}
	if total == 0 {
		return 0, fmt.Errorf("no process %q is running", begins)
	}
	return total, nil
}
