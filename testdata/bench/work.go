package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// work does the work of a static Go program and prints its figure:
//
//	read SIZE FILE             calls/s
//	open                       and close of a file of this machine; µs
//	files DIR N SECONDS [warm] as in c/files.c; files/s
//	new HOST PORT SECONDS      HTTP, each request on a new connection, 32 at a time; requests/s
//	streams HOST PORT SECONDS  HTTP/2, 32 requests at a time on one connection; requests/s
//	late HOST PORT N SECONDS   HTTP on 32 connections, N requests/s, p99; ms
//	late-new HOST PORT N SECONDS  the same, each request on a new connection
//	serve2 ADDRESS             answers in HTTP/2, until it is killed
//	relay ADDRESS TO           copies connections, until it is killed
//	debug KIND …               as debugWork says; ms
func work(args []string) error {
	v, err := func() (float64, error) {
		switch {
		case len(args) == 3 && args[0] == "read":
			return reads(args[1], args[2])
		case len(args) == 1 && args[0] == "open":
			return opens()
		case len(args) >= 4 && args[0] == "files":
			return files(args[1], args[2], args[3], slices.Contains(args[4:], "warm"))
		case len(args) == 4 && args[0] == "new":
			return news(net.JoinHostPort(args[1], args[2]), args[3])
		case len(args) == 4 && args[0] == "streams":
			return streams(net.JoinHostPort(args[1], args[2]), args[3])
		case len(args) == 5 && (args[0] == "late" || args[0] == "late-new"):
			return slowest(net.JoinHostPort(args[1], args[2]), args[3], args[4], args[0] == "late")
		case len(args) == 2 && args[0] == "serve2":
			return 0, serves2(args[1])
		case len(args) == 3 && args[0] == "relay":
			return 0, relays(args[1], args[2])
		case len(args) > 1 && args[0] == "debug":
			return debugWork(args[1:])
		}
		return 0, fmt.Errorf("no work %q", args)
	}()
	if err == nil {
		fmt.Println(v)
	}
	return err
}

// batch is the least that is timed. A batch that was preempted is one among
// many, and the median does not see it.
const batch = time.Millisecond

// rate is the median rate, per second, of batches of calls to f. It ends after
// so many seconds or calls; most 0 is no limit.
func rate(seconds float64, most int, f func(i int) error) (float64, error) {
	var rates []float64
	size, i := 1, 0
	until := time.Now().Add(time.Duration(seconds * float64(time.Second)))
	for most == 0 || i+size <= most {
		began := time.Now()
		for range size {
			if err := f(i); err != nil {
				return 0, err
			}
			i++
		}
		if took := time.Since(began); took < batch {
			size *= 2
		} else {
			rates = append(rates, float64(size)/took.Seconds())
		}
		if began.After(until) {
			break
		}
	}
	if len(rates) == 0 {
		return 0, errors.New("nothing was measured")
	}
	return median(rates), nil
}

const span64 = 0.2 // seconds

// reads reads size bytes of the file name again and again. The file has the
// buffer, too, behind them: whoever reads, with or without mirrord, does so from
// and to the same pages of memory, or their places would decide.
func reads(size, name string) (float64, error) {
	const most = 64 << 10
	n, err := strconv.Atoi(size)
	if err != nil || n > most {
		return 0, fmt.Errorf("reading %s bytes: not a number up to %d", size, most)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return 0, err
	}
	defer f.Close()
	if _, err := f.WriteAt(make([]byte, 2*most), 0); err != nil {
		return 0, err
	}
	memory, err := unix.Mmap(int(f.Fd()), most, most, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED|unix.MAP_POPULATE)
	if err != nil {
		return 0, fmt.Errorf("mapping %s: %w", name, err)
	}
	defer unix.Munmap(memory)
	return rate(span64, 0, func(int) error {
		_, err := unix.Pread(int(f.Fd()), memory[:n], 0)
		return err
	})
}

func opens() (float64, error) {
	perSecond, err := rate(span64, 0, func(int) error {
		fd, err := unix.Open("/etc/passwd", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	})
	return 1e6 / perSecond, err
}

func files(dir, number, seconds string, warm bool) (float64, error) {
	n, err := strconv.Atoi(number)
	if err != nil {
		return 0, err
	}
	s, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return 0, err
	}
	buf := make([]byte, smallSize+1)
	read := func(i int) error {
		fd, err := unix.Open(filepath.Join(dir, strconv.Itoa(i%n)), unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("opening file %d: %w", i%n, err)
		}
		defer unix.Close(fd)
		got, err := unix.Read(fd, buf)
		if got != smallSize || err != nil {
			return fmt.Errorf("reading file %d: %d bytes, %w", i%n, got, err)
		}
		return nil
	}
	if !warm {
		return rate(s, n, read)
	}
	for i := range n {
		if err := read(i); err != nil {
			return 0, err
		}
	}
	return rate(s, 0, read)
}
