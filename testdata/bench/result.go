package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"text/tabwriter"
)

// A result is one line of bin/bench.jsonl.
type result struct {
	Name      string  `json:"name"`
	Group     string  `json:"group"`
	Unit      string  `json:"unit"`      // "/s": more is better, else less
	Ours      float64 `json:"ours"`      // the median
	Reference float64 `json:"reference"` // the direct way's
	Ratio     float64 `json:"ratio"`     // ours to reference
	Peer      float64 `json:"peer,omitempty"`
	Goal      float64 `json:"goal,omitempty"`
	Rounds    int     `json:"rounds"`
	// The distance of the quartiles, as a part of the median: of ours, of the
	// reference and of the rounds' ratios.
	OursSpread      float64 `json:"oursSpread"`
	ReferenceSpread float64 `json:"referenceSpread"`
	Spread          float64 `json:"spread"`
}

// quantile is a value of a sorted list, or one between two.
func quantile(v []float64, q float64) float64 {
	below, part := math.Modf(q * float64(len(v)-1))
	i := int(below)
	return v[i] + part*(v[min(i+1, len(v)-1)]-v[i])
}

func median(v []float64) float64 { return quantile(slices.Sorted(slices.Values(v)), 0.5) }

// spread is the distance of the quartiles as a part of the median.
func spread(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	m := quantile(v, 0.5)
	if m == 0 {
		return 0
	}
	return (quantile(v, 0.75) - quantile(v, 0.25)) / m
}

// A change is a row of two runs; a run that has no such row has nil.
type change struct{ before, after *result }

// moved is how many times better the later ratio is, and whether that is more
// than either run's rounds differ among themselves.
func (c change) moved() (times float64, really bool) {
	times = lead(c.after.Unit, c.after.Ratio, c.before.Ratio)
	return times, math.Abs(math.Log(times)) > math.Log1p(max(c.before.Spread, c.after.Spread))
}

// compareFiles shows how the ratios moved from one run to another.
func compareFiles(w io.Writer, args []string) error {
	if len(args) < 1 || len(args) > 2 {
		return fmt.Errorf("compare needs OLD.jsonl and, unless it is %s, NEW.jsonl", lines)
	}
	if len(args) == 1 {
		args = append(args, lines)
	}
	var runs [2][]result
	for i, name := range args {
		f, err := os.Open(name)
		if err != nil {
			return fmt.Errorf("comparing: %w", err)
		}
		runs[i], err = read(f)
		f.Close()
		if err != nil {
			return fmt.Errorf("reading %s: %w", name, err)
		}
	}
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "row\tunit\told ours/direct\tnew\ttimes better\tspread\t\t")
	for _, c := range changes(runs[0], runs[1]) {
		switch {
		case c.before == nil:
			fmt.Fprintf(table, "%s\t%s\t\t%.3g\t\t±%.0f%%\tnew\t\n", c.after.Name, c.after.Unit, c.after.Ratio, c.after.Spread*50)
		case c.after == nil:
			fmt.Fprintf(table, "%s\t%s\t%.3g\t\t\t±%.0f%%\tnot measured\t\n", c.before.Name, c.before.Unit, c.before.Ratio, c.before.Spread*50)
		default:
			mark := ""
			if times, really := c.moved(); really && times > 1 {
				mark = "better"
			} else if really {
				mark = "WORSE"
			}
			times, _ := c.moved()
			fmt.Fprintf(table, "%s\t%s\t%.3g\t%.3g\t%.2f\t±%.0f%%\t%s\t\n", c.after.Name, c.after.Unit,
				c.before.Ratio, c.after.Ratio, times, 50*max(c.before.Spread, c.after.Spread), mark)
		}
	}
	return table.Flush()
}

// changes pairs the rows of two runs by name, in the order of the new one.
func changes(before, after []result) []change {
	var list []change
	for i := range after {
		c := change{after: &after[i]}
		if j := slices.IndexFunc(before, func(r result) bool { return r.Name == after[i].Name && r.Unit == after[i].Unit }); j >= 0 {
			c.before = &before[j]
		}
		list = append(list, c)
	}
	for i := range before {
		if !slices.ContainsFunc(list, func(c change) bool { return c.before == &before[i] }) {
			list = append(list, change{before: &before[i]})
		}
	}
	return list
}

// read reads lines of JSON.
func read(r io.Reader) (list []result, err error) {
	s := bufio.NewScanner(r)
	for n := 1; s.Scan(); n++ {
		var line result
		if err := json.Unmarshal(s.Bytes(), &line); err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if line.Name == "" || !(line.Ratio > 0) {
			return nil, fmt.Errorf("line %d: not a line of bench: it has no name or no ratio", n)
		}
		list = append(list, line)
	}
	return list, s.Err()
}
