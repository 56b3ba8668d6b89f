// Command bench measures what the layer costs a program whose calls are all
// Local: the same work natively and under the layer, in turns, as medians.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/launch"
	"mirrord/layer/layertest"
	"mirrord/protocol/ide"
)

// A row is one kind of work, in nanoseconds each.
type row struct {
	name string
	work func(url string) (float64, error)
	bar  string
}

var rows = []row{
	{"read 1 byte", func(string) (float64, error) { return read(1, 200_000) }, "ratio >= 0.90"},
	{"read 64 KiB", func(string) (float64, error) { return read(64<<10, 20_000) }, "ratio >= 0.98"},
	{"open+close, local path", open, "difference < 5000 ns"},
	{"kept-alive HTTP, local address", get, "ratio >= 0.93"},
}

func main() {
	launch.Keeper()
	rounds := flag.Int("rounds", 11, "how often each is measured")
	child := flag.String("child", "", "internal: measure, against the server at this `url`")
	flag.Parse()
	err := error(nil)
	if *child != "" {
		err = measure(*child)
	} else {
		err = compare(*rounds)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func measure(url string) error {
	for _, r := range rows {
		ns, err := r.work(url)
		if err != nil {
			return fmt.Errorf("%s: %w", r.name, err)
		}
		fmt.Println(ns)
	}
	return nil
}

func compare(rounds int) error {
	d, err := layertest.Start()
	if err != nil {
		return err
	}
	defer d.Close()
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(rw, "hello") }))
	defer srv.Close()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, "-child", srv.URL}
	native, layered := make([][]float64, len(rows)), make([][]float64, len(rows))
	var nativeStart, layeredStart []float64
	for range rounds {
		if err := run(argv, nil, native); err != nil {
			return err
		}
		if err := run(argv, d, layered); err != nil {
			return err
		}
		nativeStart = append(nativeStart, timed(func() error { return start("/bin/true", nil) }))
		layeredStart = append(layeredStart, timed(func() error { return start("/bin/true", d) }))
	}
	for i, r := range rows {
		print(r.name, median(native[i]), median(layered[i]), r.bar)
	}
	print("start of /bin/true", median(nativeStart), median(layeredStart), "")
	return nil
}

func print(name string, native, layered float64, bar string) {
	line, _ := json.Marshal(map[string]any{"name": "layer: " + name, "ours": layered, "reference": native, "ratio": native / layered})
	fmt.Printf("%-32s native %10.0f ns  layer %10.0f ns  ratio %.3f  difference %7.0f ns  %s\n", name, native, layered, native/layered, layered-native, bar)
	fmt.Fprintln(os.Stderr, string(line))
}

func timed(f func() error) float64 {
	from := time.Now()
	if err := f(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
	return float64(time.Since(from).Nanoseconds())
}

// run measures in a child, under the layer of d if there is one, and adds its numbers.
func run(argv []string, d *layertest.Daemon, to [][]float64) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	stdout := os.Stdout
	os.Stdout = w // what a launcher's debuggee inherits
	err = launchOrRun(argv, d, w)
	os.Stdout = stdout
	w.Close()
	if err != nil {
		return err
	}
	for i := range to {
		var ns float64
		if _, err := fmt.Fscan(r, &ns); err != nil {
			return err
		}
		to[i] = append(to[i], ns)
	}
	return nil
}

func start(path string, d *layertest.Daemon) error {
	return launchOrRun([]string{path}, d, os.Stdout)
}

func launchOrRun(argv []string, d *layertest.Daemon, stdout *os.File) error {
	if d == nil {
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stdout, cmd.Stderr = stdout, os.Stderr
		return cmd.Run()
	}
	dir, err := os.Getwd()
	if err != nil {
		return err
	}
	l, err := launch.Prepare()
	if err != nil {
		return err
	}
	defer l.Close()
	exit, err := l.Run(context.Background(), slog.New(slog.DiscardHandler), launch.Config{
		Argv: argv, Env: os.Environ(), Dir: dir, Socket: d.Socket, Session: "bench", Hostname: "target",
		Addrs: []netip.Addr{layertest.Local}, Message: func(msg string) { fmt.Fprintln(os.Stderr, msg) },
		Policy: ide.Policy{FSMode: "read", Steal: true, OutgoingTCP: true, OutgoingUDP: true, DNS: true, Hostname: true},
	})
	if err == nil && exit.Code != 0 {
		err = fmt.Errorf("%q ended with %d", argv, exit.Code)
	}
	return err
}

// each calls f n times, nine times over, and returns the best of one call: what
// other work of the machine takes is not ours.
func each(n int, f func() error) (float64, error) {
	var rounds []float64
	for range 9 {
		from := time.Now()
		for range n {
			if err := f(); err != nil {
				return 0, err
			}
		}
		rounds = append(rounds, float64(time.Since(from).Nanoseconds())/float64(n))
	}
	return slices.Min(rounds), nil
}

func read(size, n int) (float64, error) {
	fd, err := unix.Open("/dev/zero", unix.O_RDONLY, 0)
	if err != nil {
		return 0, err
	}
	defer unix.Close(fd)
	b := make([]byte, size)
	return each(n/9, func() error { _, err := unix.Read(fd, b); return err })
}

func open(string) (float64, error) {
	return each(3000, func() error {
		fd, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
}

func get(url string) (float64, error) {
	return each(500, func() error {
		r, err := http.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(io.Discard, r.Body)
		r.Body.Close()
		return err
	})
}

func median(v []float64) float64 {
	s := slices.Clone(v)
	slices.Sort(s)
	return s[len(s)/2]
}
