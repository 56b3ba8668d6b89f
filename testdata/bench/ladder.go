package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
)

const (
	span      = "0.2" // seconds of a loop
	filesSpan = "0.4"
)

// The ladder's peer figures: mirrord 3.250, November 2026, on two cores, its
// agent reached by address; each is its figure over the direct one. Its files
// are not cached, so that one figure stands for cold and warm ones, and a
// static Go program it does not hook: the one for a Go program with cgo stands
// for that.

// ladder is what a debuggee does to the target.
func ladder(p *programs) *scene {
	w := newWorld(p, "ladder")
	c := func(args ...string) []string { return append([]string{w.c}, args...) }
	py := func(args ...string) []string { return append([]string{"python3", w.python}, args...) }
	goes := func(args ...string) []string { return append([]string{w.static, "work"}, args...) }
	cold := []string{"files", w.cold, count(smallFiles), filesSpan}
	warm := []string{"files", w.warm, count(warmFiles), filesSpan, "warm"}
	server := func(kind, amount string) []string { return c(kind, thereAddr, plainPort, amount) }

	rows := []row{
		w.whole(row{name: "start/true", unit: "ms", peer: 24.8 / 2.9}, "/bin/true"),
		w.whole(row{name: "start/python", unit: "ms", peer: 63.5 / 35.7}, py()...),
		w.whole(row{name: "file/cat 100 MB", unit: "ms", peer: 304.0 / 17, slow: true, before: w.prepareBig}, "cat", w.big),
		w.both(row{name: "file/read 1 MiB blocks", unit: "MB/s", peer: 549.0 / 8360, slow: true, before: w.prepareBig}, c("blocks", w.big, "1048576")...),
		w.both(row{name: "file/read 64 KiB blocks", unit: "MB/s", peer: 271.0 / 8349, slow: true, before: w.prepareBig}, c("blocks", w.big, "65536")...),
		w.both(row{name: "file/read 4 KiB blocks", unit: "MB/s", peer: 43.0 / 6541, slow: true, before: w.prepareBig}, c("blocks", w.big, "4096")...),
	}
	// What was read before is in the page cache, in pages of 4 KiB as all that FUSE
	// has: so is a file in memory. (A disk's file system may have larger ones.)
	again := w.both(row{name: "file/read again, 64 KiB blocks, of 4 KiB pages", unit: "MB/s", goal: 1, slow: true, before: w.prepareBig}, c("again", w.big, "65536")...)
	again.direct = w.mine(w.c, "again", w.pages, "65536")
	rows = append(rows, again,
		w.both(row{name: "file/write 64 KiB blocks", unit: "MB/s", peer: 296.0 / 1133, slow: true}, c("write", w.written, "65536", "800")...),
		w.both(row{name: "file/write 4 KiB blocks", unit: "MB/s", slow: true}, c("write", w.written, "4096", "5000")...),
		w.both(row{name: "small/tree of 1,000 in 20 directories, C", unit: "ms", slow: true, before: w.renewTree}, c("tree", w.tree)...),
	)
	for _, language := range []struct {
		name string
		argv func(...string) []string
		peer float64
	}{
		{"C", c, 8200.0 / 442_000},
		{"python", py, 1090.0 / 132_000},
		{"static Go", goes, 1710.0 / 176_000},
	} {
		argv := language.argv
		if language.name == "python" {
			argv = func(args ...string) []string { return py(args[1:]...) }
		}
		rows = append(rows,
			w.both(row{name: "small/cold " + language.name, unit: "files/s", peer: language.peer, slow: true, before: w.renew}, argv(cold...)...),
			w.both(row{name: "small/warm " + language.name, unit: "files/s", peer: language.peer, slow: true, before: w.prepare}, argv(warm...)...),
		)
	}
	rows = append(rows,
		w.both(row{name: "small/cold stat, C", unit: "calls/s", peer: 7900.0 / 1_030_000, slow: true, before: w.renew}, c("stat", w.cold, count(smallFiles), filesSpan)...),
		w.both(row{name: "small/warm stat, C", unit: "calls/s", peer: 7900.0 / 1_030_000, slow: true, before: w.prepare}, c("stat", w.warm, count(warmFiles), filesSpan, "warm")...),
		w.both(row{name: "outgoing/up", unit: "MB/s", peer: 1027.0 / 2188, slow: true}, server("up", transferred)...),
		w.both(row{name: "outgoing/down", unit: "MB/s", peer: 879.0 / 2221, slow: true}, server("down", transferred)...),
		w.both(row{name: "outgoing/HTTP, 32 connections", unit: "requests/s", peer: 24_200.0 / 243_000}, server("many", span)...),
		w.both(row{name: "outgoing/64 B round trip, p50", unit: "µs", peer: 150.0 / 82, pinned: true}, server("echo", span)...),
		w.both(row{name: "outgoing/HTTP kept alive, p50", unit: "µs", peer: 155.0 / 81, pinned: true}, server("kept", span)...),
		w.both(row{name: "outgoing/HTTP new connection, p50", unit: "µs", peer: 454.0 / 83, pinned: true}, server("new", span)...),
	)
	// The same beside the least that a tunnel of two hops can do on this machine:
	// a program in C on each side that only passes bytes on.
	bare := func(r row, kind, amount string) row {
		r.name += ", of two bare relays"
		r = w.both(r, server(kind, amount)...)
		r.direct = w.mine(w.c, kind, loopback, relayPort, amount)
		return r
	}
	rows = append(rows,
		bare(row{name: "outgoing/up", unit: "MB/s", slow: true}, "up", transferred),
		bare(row{name: "outgoing/down", unit: "MB/s", slow: true}, "down", transferred),
		bare(row{name: "outgoing/64 B round trip, p50", unit: "µs", pinned: true}, "echo", span),
		bare(row{name: "outgoing/HTTP kept alive, p50", unit: "µs", pinned: true}, "kept", span),
		bare(row{name: "outgoing/HTTP new connection, p50", unit: "µs", pinned: true}, "new", span),
	)
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		if err := w.keep(w.there, w.there.command(ctx, w.c, "relay", thereAddr, relayPort, thereAddr, plainPort), "ready"); err != nil {
			return err
		}
		return w.keep(w.here, w.here.command(ctx, w.c, "relay", loopback, relayPort, thereAddr, relayPort), "ready")
	}
	return &scene{group: "ladder", begin: begin, pin: w.pin, end: w.end, rows: rows}
}

// ladderIncoming is what others do to the target's ports: a client there, and
// a server that it reaches here directly, or that has stolen its port there.
func ladderIncoming(p *programs) *scene {
	w := newWorld(p, "incoming")
	steal := func(r row, kind, amount string) row {
		r.direct = w.theirs(w.c, kind, hereAddr, plainPort, amount)
		r.ours = w.theirs(w.c, kind, thereAddr, stolenPort, amount)
		return r
	}
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		return w.keep(w.here, w.mirrord(ctx, []string{"--steal"}, w.c, "serve", "0.0.0.0", stolenPort), "ready")
	}
	return &scene{group: "ladder", begin: begin, pin: w.pin, end: w.end, rows: []row{
		steal(row{name: "steal/up", unit: "MB/s", peer: 608.0 / 2753, slow: true}, "up", transferred),
		steal(row{name: "steal/down", unit: "MB/s", peer: 734.0 / 2402, slow: true}, "down", transferred),
		steal(row{name: "steal/HTTP, 32 connections", unit: "requests/s", peer: 19_900.0 / 254_000}, "many", span),
		steal(row{name: "steal/64 B round trip, p50", unit: "µs", peer: 285.0 / 83, pinned: true}, "echo", span),
		steal(row{name: "steal/HTTP kept alive, p50", unit: "µs", peer: 356.0 / 76, pinned: true}, "kept", span),
		steal(row{name: "steal/HTTP new connection, p50", unit: "µs", peer: 348.0 / 88, pinned: true}, "new", span),
		memory("memory/daemon, RSS", "Rss:", 28, &w.here, "mirrord\x00daemon"),
		memory("memory/all here, PSS", "Pss:", 28, &w.here, "mirrord", p.cli), // file server, launcher and keeper, too
		memory("memory/agent, RSS", "Rss:", 20, &w.there, "bin/mirrord-agent"),
		memory("memory/agent, PSS", "Pss:", 20, &w.there, "bin/mirrord-agent"),
	}}
}

// ladderShared is what others have of a port that is not, or not only, taken: a server
// there whose requests a filter takes, all of them, and one whose connections are mirrored.
func ladderShared(p *programs) *scene {
	w := newWorld(p, "shared")
	filter := filepath.Join(w.dir, "filter.json")
	mirrored := func(r row, kind string) row {
		by := func(port string) figure { return w.mine(w.c, kind, thereAddr, port, transferred) }
		r.direct, r.ours = by(plainPort), by(mirroredPort)
		return r
	}
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		text := `{"feature": {"network": {"incoming": {"mode": "steal", "http_filter": {"header_filter": "^host: bench$"}}}}}`
		return errors.Join(
			os.WriteFile(filter, []byte(text), 0o600),
			w.keep(w.there, w.there.command(ctx, w.c, "serve", thereAddr, mirroredPort), "ready"),
			w.keep(w.here, w.mirrord(ctx, []string{"-f", filter}, w.c, "serve", "0.0.0.0", stolenPort), "ready"),
			w.keep(w.here, w.mirrord(ctx, nil, w.c, "serve", "0.0.0.0", mirroredPort), "ready"),
		)
	}
	return &scene{group: "ladder", begin: begin, pin: w.pin, end: w.end, rows: []row{
		{
			name: "steal/HTTP by a filter, 32 connections", unit: "requests/s", peer: 16_400.0 / 254_000,
			direct: w.theirs(w.c, "many", hereAddr, plainPort, span), ours: w.theirs(w.c, "many", thereAddr, stolenPort, span),
		},
		mirrored(row{name: "mirror/up, the client's own", unit: "MB/s", peer: 1114.0 / 2753, slow: true}, "up"),
		mirrored(row{name: "mirror/down, the client's own", unit: "MB/s", peer: 1137.0 / 2402, slow: true}, "down"),
	}}
}
