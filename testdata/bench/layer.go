package main

import (
	"context"
	"path/filepath"
)

// layerAlone is what being hooked costs where nothing is the target's.
func layerAlone(p *programs) *scene {
	w := newWorld(p, "layer")
	goes := func(name, unit string, args ...string) row {
		return w.both(row{name: name, unit: unit, pinned: true}, append([]string{w.static, "work"}, args...)...)
	}
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		return w.keep(w.here, w.here.command(ctx, w.c, "serve", "127.0.0.1", plainPort), "ready")
	}
	kept := w.both(row{name: "layer/HTTP kept alive, own loopback, p50", unit: "µs", pinned: true}, w.c, "kept", "127.0.0.1", plainPort, span)
	return &scene{group: "layer", begin: begin, pin: w.pin, end: w.end, rows: []row{
		goes("layer/read 1 byte, not trapped", "calls/s", "read", "1", filepath.Join(w.dir, "pages")),
		goes("layer/read 64 KiB, not trapped", "calls/s", "read", "65536", filepath.Join(w.dir, "pages")),
		goes("layer/open and close, trapped, local", "µs", "open"),
		kept,
	}}
}
