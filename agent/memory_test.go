package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

func TestMemoryLimit(t *testing.T) {
	for name, test := range map[string]struct {
		file, content string
		want          int64
	}{
		"v2":           {"memory.max", "1073741824\n", 1 << 30},
		"v2 unlimited": {"memory.max", "max\n", 0},
		"v1":           {"memory/memory.limit_in_bytes", "1073741824\n", 1 << 30},
		"v1 unlimited": {"memory/memory.limit_in_bytes", "9223372036854771712\n", 0},
		"none":         {"else", "", 0},
	} {
		file := filepath.Join(t.TempDir(), test.file)
		if err := errors.Join(os.MkdirAll(filepath.Dir(file), 0o755), os.WriteFile(file, []byte(test.content), 0o644)); err != nil {
			t.Fatal(err)
		}
		dir := file[:len(file)-len(test.file)-1]
		if got := memoryLimit(dir); got != test.want {
			t.Errorf("%s: %d, want %d", name, got, test.want)
		}
	}
}
