package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// A row is one thing measured both ways.
type row struct {
	name   string
	unit   string
	direct func(*world) (float64, error)
	ours   func(*world) (float64, error)
}

var rows = []row{
	working("read 1 byte, not trapped", "calls/s", func(*world) []string { return []string{"read", "1"} }),
	working("read 64 KiB, not trapped", "calls/s", func(*world) []string { return []string{"read", "65536"} }),
	working("open and close, trapped, local", "µs", func(*world) []string { return []string{"open"} }),
	working("HTTP kept alive, local address", "requests/s", func(w *world) []string { return []string{"http", w.localHTTP} }),
	working("small files: open, read, close", "files/s", func(w *world) []string { return []string{"files", w.files} }),
	working("outgoing HTTP kept alive, p50", "µs", func(w *world) []string { return []string{"latency", w.remoteHTTP} }),
	{
		"start of /bin/true", "ms",
		func(w *world) (float64, error) { return start(exec.Command("/bin/true")) },
		func(w *world) (float64, error) { return start(w.mirrord("/bin/true")) },
	},
}

// working runs this program's work of the given kind, with and without mirrord.
func working(name, unit string, args func(*world) []string) row {
	return row{
		name, unit,
		func(w *world) (float64, error) {
			return value(exec.Command(w.self, append([]string{"work"}, args(w)...)...))
		},
		func(w *world) (float64, error) {
			return value(w.mirrord(w.self, append([]string{"work"}, args(w)...)...))
		},
	}
}

// value runs cmd and reads the one number that it prints.
func value(cmd *exec.Cmd) (float64, error) {
	out, err := cmd.Output()
	if err != nil {
		return 0, fmt.Errorf("%v: %w: %s", cmd.Args, err, words(err))
	}
	var v float64
	if err := json.Unmarshal(out, &v); err != nil {
		return 0, fmt.Errorf("%v printed %q: %w", cmd.Args, out, err)
	}
	return v, nil
}

func words(err error) []byte {
	if e, ok := err.(*exec.ExitError); ok {
		return e.Stderr
	}
	return nil
}

// start is how long a command takes as a whole.
func start(cmd *exec.Cmd) (float64, error) {
	cmd.Stderr = nil
	begin := time.Now()
	if err := cmd.Run(); err != nil {
		return 0, fmt.Errorf("%v: %w", cmd.Args, err)
	}
	return float64(time.Since(begin)) / float64(time.Millisecond), nil
}

// mirrord makes a command that runs under mirrord with the world's agent.
func (w *world) mirrord(command string, args ...string) *exec.Cmd {
	cmd := exec.Command("bin/mirrord", append([]string{"exec", "--agent", w.agent, "-f", w.config, "--", command}, args...)...)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+w.dir)
	return cmd
}
