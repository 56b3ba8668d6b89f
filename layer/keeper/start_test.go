package keeper

import (
	"os"
	"slices"
	"testing"
)

// TestMain is also the keeper.
func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// The keeper's socket gets the first number that is free, so that it is one that
// the kernel allows, and the child has none to walk over.
func TestHandOn(t *testing.T) {
	defer func() { inherited = nil }()
	for _, tt := range []struct {
		inherited []int
		want      []uintptr
	}{
		{nil, []uintptr{0, 1, 2, 77}},
		{[]int{3, 4, 6}, []uintptr{0, 1, 2, 3, 4, 77}},
		{[]int{4, 1 << 20}, []uintptr{0, 1, 2, 77}},
	} {
		inherited = tt.inherited
		files, at := handOn(77)
		if !slices.Equal(files, tt.want) || at != len(tt.want)-1 {
			t.Errorf("inherited %d: files %d, socket at %d, want %d", tt.inherited, files, at, tt.want)
		}
	}
}
