package keeper

import (
	"os"
	"slices"
	"syscall"
	"testing"
)

// TestMain is also the keeper.
func TestMain(m *testing.M) {
	Main()
	os.Exit(m.Run())
}

// The keeper that was started early is the one that Start returns, also when it is
// asked for at once, and there is no other.
func TestStartEarly(t *testing.T) {
	t.Setenv(NestedEnv, "")
	args := os.Args
	defer func() { os.Args = args }()
	os.Args = []string{"mirrord", "exec"}
	StartEarly()
	p, err := Start()
	if err != nil {
		t.Fatal(err)
	}
	if err := syscall.Close(p.Socket); err != nil {
		t.Fatal(err)
	}
	Reap(p.PID)
	if HaveChildren() {
		t.Error("another keeper was started")
	}
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
