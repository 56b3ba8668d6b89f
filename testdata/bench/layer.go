package main

import (
	"context"
	"path/filepath"
)

// layerAlone is what being hooked costs where nothing is the target's. The rows
// "of the floor" have the least that the kernel takes for it as their direct way:
// a program of one instruction, a supervisor that only reads the path.
func layerAlone(p *programs) *scene {
	w := newWorld(p, "layer")
	pages := filepath.Join(w.dir, "pages")
	goes := func(r row, args ...string) row {
		return w.both(r, append([]string{w.static, "work"}, args...)...)
	}
	floor := func(r row, kind string, args ...string) row {
		r = goes(r, args...)
		r.direct = w.mine(append([]string{w.c, "floor", kind, w.static, "work"}, args...)...)
		return r
	}
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		return w.keep(w.here, w.here.command(ctx, w.c, "serve", "127.0.0.1", plainPort), "ready")
	}
	kept := w.both(row{name: "layer/HTTP kept alive, own loopback, p50", unit: "µs", pinned: true}, w.c, "kept", "127.0.0.1", plainPort, span)
	return &scene{group: "layer", begin: begin, pin: w.pin, end: w.end, rows: []row{
		goes(row{name: "layer/read 1 byte, not trapped", unit: "calls/s", pinned: true}, "read", "1", pages),
		floor(row{name: "layer/read 1 byte, of the floor", unit: "calls/s", pinned: true}, "allowed", "read", "1", pages),
		goes(row{name: "layer/read 64 KiB, not trapped", unit: "calls/s", pinned: true}, "read", "65536", pages),
		floor(row{name: "layer/read 64 KiB, of the floor", unit: "calls/s", pinned: true}, "allowed", "read", "65536", pages),
		goes(row{name: "layer/open and close, trapped, local", unit: "µs"}, "open"),
		floor(row{name: "layer/open and close, of the floor", unit: "µs"}, "trapped", "open"),
		kept,
	}}
}
