package main

import (
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// span is how long a loop of unknown speed runs.
const span = 300 * time.Millisecond

// work does one kind of work and prints its figure.
func work(args []string) error {
	kinds := map[string]func(string) (float64, error){
		"read": reads, "open": opens, "http": requests, "latency": latency, "files": files,
	}
	do := kinds[args[0]]
	if do == nil {
		return fmt.Errorf("no work %q", args[0])
	}
	argument := ""
	if len(args) > 1 {
		argument = args[1]
	}
	v, err := do(argument)
	if err == nil {
		fmt.Println(v)
	}
	return err
}

// repeat calls f for about span and returns the calls per second.
func repeat(batch int, f func() error) (float64, error) {
	begin, n := time.Now(), 0
	for time.Since(begin) < span {
		for range batch {
			if err := f(); err != nil {
				return 0, err
			}
		}
		n += batch
	}
	return float64(n) / time.Since(begin).Seconds(), nil
}

func reads(size string) (float64, error) {
	n, err := strconv.Atoi(size)
	if err != nil {
		return 0, err
	}
	f, err := os.CreateTemp("", "bench")
	if err != nil {
		return 0, err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	buf := make([]byte, n)
	if _, err := f.Write(buf); err != nil {
		return 0, err
	}
	return repeat(100, func() error {
		_, err := unix.Pread(int(f.Fd()), buf, 0)
		return err
	})
}

func opens(string) (float64, error) {
	rate, err := repeat(100, func() error {
		fd, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	return 1e6 / rate, err
}

func get(url string) error {
	r, err := http.Get(url)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	_, err = io.Copy(io.Discard, r.Body)
	return err
}

func requests(url string) (float64, error) { return repeat(10, func() error { return get(url) }) }

// latency is the median of many requests over one connection.
func latency(url string) (float64, error) {
	var took []float64
	_, err := repeat(10, func() error {
		begin := time.Now()
		if err := get(url); err != nil {
			return err
		}
		took = append(took, float64(time.Since(begin))/float64(time.Microsecond))
		return nil
	})
	if err != nil {
		return 0, err
	}
	return median(took), nil
}

// files reads each file of a directory once.
func files(dir string) (float64, error) {
	buf := make([]byte, 4096)
	begin := time.Now()
	for i := range smallFiles {
		fd, err := unix.Open(filepath.Join(dir, strconv.Itoa(i)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return 0, fmt.Errorf("opening file %d: %w", i, err)
		}
		if n, err := unix.Read(fd, buf); n != smallSize || err != nil {
			return 0, fmt.Errorf("reading file %d: %d bytes, %w", i, n, err)
		}
		unix.Close(fd)
	}
	return smallFiles / time.Since(begin).Seconds(), nil
}
