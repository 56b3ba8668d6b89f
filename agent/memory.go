package main

import (
	"os"
	"runtime/debug"
	"strconv"
	"strings"
)

// limitMemory has the collector work harder before the kernel would kill us:
// at 7/8 of what the container may have, if that is limited and GOMEMLIMIT
// does not say otherwise.
func limitMemory() {
	limit := memoryLimit("/sys/fs/cgroup")
	if os.Getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 8 * 7)
	}
}

// memoryLimit is that of the container, whose own cgroup its runtime mounts at
// dir (v2) or below it (v1); 0: there is none.
func memoryLimit(dir string) int64 {
	for _, name := range []string{"memory.max", "memory/memory.limit_in_bytes"} {
		b, err := os.ReadFile(dir + "/" + name)
		if err != nil {
			continue
		}
		n, err := strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
		if err != nil || n > 1<<60 { // "max", or as much as v1 can count
			return 0
		}
		return n
	}
	return 0
}
