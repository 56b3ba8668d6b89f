package main

import (
	"os"
	"strings"
	"testing"
)

func TestParseStart(t *testing.T) {
	rest := " 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4711 20 21\n"
	for _, tt := range []struct {
		stat string
		want uint64
		ok   bool
	}{
		{"42 (sh) S" + rest, 4711, true},
		{"42 (a) S 9 (b)) R" + rest, 4711, true}, // a name may be anything
		{"42 (sh) Z" + rest, 0, false},
		{"42 (sh) S 1 2", 0, false},
		{"", 0, false},
	} {
		got, err := parseStart(tt.stat)
		if got != tt.want || (err == nil) != tt.ok {
			t.Errorf("%q: got %d, %v", tt.stat, got, err)
		}
	}
}

func TestAlive(t *testing.T) {
	started, err := startTime(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if s := (state{Pid: os.Getpid(), Started: started}); !s.alive() {
		t.Error("this process is not alive")
	}
	if s := (state{Pid: os.Getpid(), Started: started - 1}); s.alive() {
		t.Error("an earlier process of our number is alive")
	}
	if (state{}).alive() {
		t.Error("no process is alive")
	}
}

func TestDirectoriesDoNotCollide(t *testing.T) {
	a, b := &cluster{dir: "/a/.cluster"}, &cluster{dir: "/b/.cluster"}
	if a.id() == b.id() || !strings.HasPrefix(a.id(), "mirrord-cluster-") {
		t.Errorf("two clusters are called %s and %s", a.id(), b.id())
	}
}
