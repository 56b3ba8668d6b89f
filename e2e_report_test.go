package mirrord_test

import (
	"fmt"
	"testing"
	"time"
)

// report makes a test a row of `./task deaths`: what died, what its user keeps
// or is told, and what was measured.
func report(t *testing.T, died, kept, measured string, args ...any) {
	t.Helper()
	t.Attr("died", died)
	t.Attr("kept", kept)
	t.Attr("measured", fmt.Sprintf(measured, args...))
}

// round leaves of a time what is worth reading.
func round(d time.Duration) time.Duration { return d.Round(100 * time.Microsecond) }
