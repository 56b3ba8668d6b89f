package protocol

import (
	"runtime"
	"testing"
)

func TestShareProcessors(t *testing.T) {
	before := runtime.GOMAXPROCS(0)
	defer runtime.GOMAXPROCS(before)
	t.Setenv("GOMAXPROCS", "")
	for _, c := range []struct{ have, want int }{{1, 1}, {2, 1}, {3, 2}, {8, 4}} {
		runtime.GOMAXPROCS(c.have)
		ShareProcessors()
		if got := runtime.GOMAXPROCS(0); got != c.want {
			t.Errorf("of %d: %d, want %d", c.have, got, c.want)
		}
	}
	t.Setenv("GOMAXPROCS", "3")
	runtime.GOMAXPROCS(3)
	if ShareProcessors(); runtime.GOMAXPROCS(0) != 3 {
		t.Errorf("what the user has set became %d", runtime.GOMAXPROCS(0))
	}
}
