package main

import (
	"math"
	"strings"
	"testing"
)

func TestMedianAndSpread(t *testing.T) {
	for _, c := range []struct {
		v              []float64
		median, spread float64
	}{
		{[]float64{3}, 3, 0},
		{[]float64{5, 1, 3}, 3, 2.0 / 3},
		{[]float64{2, 1}, 1.5, 1.0 / 3},
		{[]float64{9, 8, 10, 11, 1000}, 10, 0.2},
		{[]float64{0, 0, 0}, 0, 0},
	} {
		if got := median(c.v); got != c.median {
			t.Errorf("median(%v) = %v, want %v", c.v, got, c.median)
		}
		if got := spread(c.v); math.Abs(got-c.spread) > 1e-9 {
			t.Errorf("spread(%v) = %v, want %v", c.v, got, c.spread)
		}
	}
}

func TestRead(t *testing.T) {
	got, err := read(strings.NewReader(`{"name":"a","unit":"µs","ratio":2,"spread":0.1}
{"name":"small files: open, read, close","unit":"files/s","ours":779.6,"reference":128200,"ratio":0.006,"rounds":11}
`))
	if err != nil || len(got) != 2 || got[0].Spread != 0.1 || got[1].Reference != 128200 {
		t.Errorf("read: %+v, %v", got, err)
	}
	for _, bad := range []string{"{", `{"name":"a"}`, `{"ratio":1}`, `{"name":"a","ratio":-1}`, "\n", `{"name":1,"ratio":1}`} {
		if _, err := read(strings.NewReader(bad)); err == nil || !strings.Contains(err.Error(), "line 1") {
			t.Errorf("reading %q: %v", bad, err)
		}
	}
}

func TestChanges(t *testing.T) {
	before := []result{
		{Name: "gone", Unit: "µs", Ratio: 1},
		{Name: "latency", Unit: "µs", Ratio: 4, Spread: 0.1},
		{Name: "rate", Unit: "calls/s", Ratio: 0.5, Spread: 0.3},
		{Name: "unit", Unit: "ms", Ratio: 1},
	}
	after := []result{
		{Name: "rate", Unit: "calls/s", Ratio: 0.4, Spread: 0.1},
		{Name: "latency", Unit: "µs", Ratio: 2, Spread: 0.1},
		{Name: "unit", Unit: "µs", Ratio: 1000},
	}
	got := changes(before, after)
	if len(got) != 5 {
		t.Fatalf("%d changes: %+v", len(got), got)
	}
	if times, really := got[0].moved(); times != 0.8 || really {
		t.Errorf("rate: %v times better, %v; within the spread it is no change", times, really)
	}
	if times, really := got[1].moved(); times != 2 || !really {
		t.Errorf("latency: %v times better, %v", times, really)
	}
	if got[2].before != nil || got[3].after != nil || got[3].before.Name != "gone" || got[4].before.Unit != "ms" {
		t.Errorf("rows of one run only: %+v", got[2:])
	}
}

func TestLead(t *testing.T) {
	if got := lead("MB/s", 0.5, 0.25); got != 2 {
		t.Errorf("half of the direct rate against a quarter: %v times better", got)
	}
	if got := lead("µs", 4, 2); got != 0.5 {
		t.Errorf("4 times as long against 2 times: %v times better", got)
	}
}
