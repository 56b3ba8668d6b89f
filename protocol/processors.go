package protocol

import (
	"os"
	"runtime"
)

// ShareProcessors makes this process use half of the processors that it may
// have. Debuggee, daemon, agent and target wait for each other, often on one
// machine: a further thread of ours wakes up to find little to do, on a
// processor that another of them needs.
func ShareProcessors() {
	if os.Getenv("GOMAXPROCS") == "" { // whoever sets it knows better
		runtime.GOMAXPROCS((runtime.GOMAXPROCS(0) + 1) / 2)
	}
}
