package keeper

import (
	"os"
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
