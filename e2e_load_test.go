package mirrord_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// processOf finds the first process of a pod's container, on this machine: the
// test cluster's node is a pid namespace of it.
func processOf(t *testing.T, namespace, pod string) int {
	t.Helper()
	out := kubectl(t, "get", "pod", pod, "-n", namespace, "-o", "jsonpath={.status.containerStatuses[0].containerID}")
	_, id, ok := strings.Cut(out, "://")
	if !ok {
		t.Fatalf("pod %s has no container: %q", pod, out)
	}
	all, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range all {
		groups, _ := os.ReadFile(path) // it may have ended
		if !bytes.Contains(groups, []byte(id)) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			t.Fatal(err)
		}
		return pid
	}
	t.Skipf("the processes of pod %s are not this machine's", pod)
	return 0
}

// A load asks an address over and over from a pod, each time on a new connection.
type load struct {
	t    *testing.T
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	answers []answer      // guarded by mu
	changed chan struct{} // guarded by mu; closed at the next answer
}

type answer struct {
	began, at time.Time
	body      string
	err       error
}

// A load of loadRate requests each second leaves its workers time for an answer.
const (
	answerTime  = 20 * time.Second // an API server on a busy machine needs more than 5 to be back
	loadRate    = 500
	loadWorkers = 8
)

// loadFrom starts a load from the network of a pod, of loadRate requests each second.
func loadFrom(t *testing.T, namespace, pod, address string) *load {
	t.Helper()
	return loadAt(t, namespace, pod, address, loadRate)
}

// loadAt starts one of so many requests each second, as long as they are answered in
// time: none is made up for. 0: of as many as there can be.
func loadAt(t *testing.T, namespace, pod, address string, rate int) *load {
	t.Helper()
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", processOf(t, namespace, pod)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	l := &load{t: t, stop: stop, changed: make(chan struct{})}
	for range loadWorkers {
		l.wg.Go(func() {
			runtime.LockOSThread() // never unlocked: the thread ends with its namespace
			if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
				l.add(answer{err: fmt.Errorf("entering the pod's network: %w", err)})
				return
			}
			if rate == 0 {
				for ctx.Err() == nil {
					l.add(request(address))
				}
				return
			}
			pace := time.NewTicker(loadWorkers * time.Second / time.Duration(rate))
			defer pace.Stop()
			for {
				select {
				case <-pace.C:
					l.add(request(address))
				case <-ctx.Done():
					return
				}
			}
		})
	}
	t.Cleanup(func() { l.end(); ns.Close() })
	return l
}

// request asks in the caller's thread.
func request(address string) (a answer) {
	a.began = time.Now()
	defer func() { a.at = time.Now() }()
	var c net.Conn
	if c, a.err = net.DialTimeout("tcp", address, answerTime); a.err != nil {
		return a
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(answerTime))
	if _, a.err = io.WriteString(c, "GET / HTTP/1.0\r\n\r\n"); a.err != nil {
		return a
	}
	r := bufio.NewReader(c)
	for { // the header
		line, err := r.ReadString('\n')
		if a.err = err; err != nil {
			return a
		}
		if strings.TrimSpace(line) == "" {
			break
		}
	}
	body, err := io.ReadAll(r)
	a.body, a.err = string(body), err
	return a
}

func (l *load) add(a answer) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answers = append(l.answers, a)
	close(l.changed)
	l.changed = make(chan struct{})
}

// end stops the load and returns all answers.
func (l *load) end() []answer {
	l.stop()
	l.wg.Wait()
	return l.answers
}

// until waits for n answers that have the words, all to requests from now on.
func (l *load) until(n int, words string) {
	l.t.Helper()
	began, timeout := time.Now(), time.After(patience)
	seen, found := 0, 0
	for {
		l.mu.Lock()
		for ; seen < len(l.answers); seen++ {
			if a := l.answers[seen]; a.err == nil && a.began.After(began) && strings.Contains(a.body, words) {
				found++
			}
		}
		changed := l.changed
		l.mu.Unlock()
		if found >= n {
			return
		}
		select {
		case <-changed:
		case <-timeout:
			l.t.Fatalf("no %q within %v; %s", words, patience, l.summary(began))
		}
	}
}

// summary counts what was answered since.
func (l *load) summary(since time.Time) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	count := map[string]int{}
	for _, a := range l.answers {
		if a.at.Before(since) {
			continue
		}
		what := a.body[:min(len(a.body), 40)]
		if a.err != nil {
			what = "error " + a.err.Error()
			if no, ok := errors.AsType[syscall.Errno](a.err); ok {
				what = "error " + no.Error()
			}
		}
		count[what]++
	}
	return fmt.Sprint(count)
}

// failures are the answers that were none.
func failures(all []answer) (failed []answer) {
	for _, a := range all {
		if a.err != nil {
			failed = append(failed, a)
		}
	}
	return failed
}

// tally tells how many requests failed, of how many, and how often they came.
func tally(all []answer) string {
	if len(all) == 0 {
		return "no request came"
	}
	first := slices.MinFunc(all, func(a, b answer) int { return a.began.Compare(b.began) })
	last := slices.MaxFunc(all, func(a, b answer) int { return a.began.Compare(b.began) })
	rate := float64(len(all)) / max(last.began.Sub(first.began), time.Millisecond).Seconds()
	return fmt.Sprintf("%d of %d requests failed, %.0f/s of %d/s that were to be", len(failures(all)), len(all), rate, loadRate)
}

// brief checks that what failed was in flight at an event, or began within a
// time of it. It ends the load and tells what the event cost.
func (l *load) brief(event time.Time, within time.Duration) string {
	l.t.Helper()
	all := l.end()
	failed := failures(all)
	var late time.Duration // the last that failed
	for _, a := range failed {
		late = max(late, a.began.Sub(event))
		if a.at.Before(event) || a.began.After(event.Add(within)) {
			l.t.Errorf("a request failed that began %v after the event: %v", a.began.Sub(event), a.err)
		}
	}
	cost := tally(all)
	if late > 0 {
		cost += fmt.Sprintf(", the last began after %v", round(late))
	}
	l.t.Log(cost)
	return cost
}
