// Command bench measures what the layer and the tunnel cost, as ratios to the
// direct way in the same run: medians of interleaved rounds. `./task bench`
// prints a table and writes bin/bench.jsonl.
//
// The agent runs in a network namespace of its own and is reached by address,
// as the peer's published figures were taken: no port-forward in the way.
//
//	bench (namespace "here")                 "there", by veth
//	  ├─ work            the direct way        servers
//	  └─ mirrord exec ─ work ─ daemon ════════ mirrord-agent
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"text/tabwriter"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "work":
			exit(work(os.Args[2:]))
		case "there":
			exit(there(os.Args[2]))
		}
	}
	rounds := flag.Int("rounds", 11, "rounds of each row; the median counts")
	only := flag.String("only", "", "measure the row of this `name` only")
	flag.Parse()
	if os.Getenv(hereVar) == "" {
		exit(enterNamespace())
	}
	exit(bench(*rounds, *only))
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// A result is one line of bin/bench.jsonl.
type result struct {
	Name      string  `json:"name"`
	Unit      string  `json:"unit"`
	Ours      float64 `json:"ours"`
	Reference float64 `json:"reference"` // the direct way
	Ratio     float64 `json:"ratio"`     // ours to reference
	Rounds    int     `json:"rounds"`
}

func bench(rounds int, only string) error {
	w, err := newWorld()
	if err != nil {
		return err
	}
	defer w.close()
	out, err := os.Create(filepath.Join("bin", "bench.jsonl"))
	if err != nil {
		return err
	}
	defer out.Close()
	table := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "row\tunit\tdirect\tours\tours/direct\t")
	for _, r := range rows {
		if only != "" && only != r.name {
			continue
		}
		fmt.Fprintln(os.Stderr, "measuring", r.name)
		ours, direct, err := measure(w, r, rounds)
		if err != nil {
			return fmt.Errorf("measuring %s: %w", r.name, err)
		}
		res := result{r.name, r.unit, ours, direct, ours / direct, rounds}
		if err := json.NewEncoder(out).Encode(res); err != nil {
			return err
		}
		fmt.Fprintf(table, "%s\t%s\t%.4g\t%.4g\t%.3f\t\n", r.name, r.unit, direct, ours, res.Ratio)
	}
	return table.Flush()
}

// measure takes turns, so that what the machine does meanwhile hits both ways.
func measure(w *world, r row, rounds int) (ours, direct float64, err error) {
	var o, d []float64
	for range rounds {
		v, err := r.direct(w)
		if err != nil {
			return 0, 0, err
		}
		d = append(d, v)
		if v, err = r.ours(w); err != nil {
			return 0, 0, err
		}
		o = append(o, v)
	}
	return median(o), median(d), nil
}

func median(v []float64) float64 {
	slices.Sort(v)
	return v[len(v)/2]
}
