package pause

import (
	"bufio"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/agent/target"
)

// This program is also what is paused, and a tracer to be killed, where these are set.
const (
	workVar  = "MIRRORD_TEST_WORK"
	traceVar = "MIRRORD_TEST_TRACE"
)

const patience = 30 * time.Second

func TestMain(m *testing.M) {
	switch {
	case os.Getenv(workVar) != "":
		work(os.Getenv(workVar), os.Args[1] == "parent")
	case os.Getenv(traceVar) != "":
		traceUntilKilled(os.Getenv(traceVar))
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("os/signal.signal_recv"))
}

// What a worker counts.
const (
	byThreads = iota // of which there are several
	byChild
	forks
	signals
	counters
)

type counts [counters]atomic.Uint64

// share maps the counters of a worker.
func share(path string) (*counts, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size := int(unsafe.Sizeof(counts{}))
	if err := f.Truncate(int64(size)); err != nil {
		return nil, err
	}
	b, err := unix.Mmap(int(f.Fd()), 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, err
	}
	return (*counts)(unsafe.Pointer(&b[0])), nil
}

// work counts in several threads and a child, and has children that end at once.
func work(path string, parent bool) {
	c, err := share(path)
	if err != nil {
		panic(err)
	}
	if !parent {
		for {
			c[byChild].Add(1)
			time.Sleep(time.Millisecond)
		}
	}
	usr1 := make(chan os.Signal, 1)
	signal.Notify(usr1, unix.SIGUSR1)
	go func() {
		for range usr1 {
			c[signals].Add(1)
		}
	}()
	for range 3 {
		go func() {
			runtime.LockOSThread()
			for {
				c[byThreads].Add(1)
				_ = unix.Nanosleep(&unix.Timespec{Nsec: 1e6}, nil)
			}
		}()
	}
	child := exec.Command("/proc/self/exe", "child")
	child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	runtime.LockOSThread() // the parent, for Pdeathsig, is this thread
	if err := child.Start(); err != nil {
		panic(err)
	}
	for {
		if err := exec.Command("true").Run(); err != nil {
			panic(err)
		}
		c[forks].Add(1)
	}
}

// A worker is a running one.
type worker struct {
	*counts
	cmd *exec.Cmd
	tgt *target.Target
}

func startWorker(t *testing.T) *worker {
	t.Helper()
	w := new(worker)
	path := filepath.Join(t.TempDir(), "counts")
	var err error
	if w.counts, err = share(path); err != nil {
		t.Fatal(err)
	}
	w.cmd = exec.Command("/proc/self/exe", "parent")
	w.cmd.Env = append(os.Environ(), workVar+"="+path)
	w.cmd.Stderr = t.Output()
	// Its parent is a thread of its own, and not by chance one that traces: who waits for
	// its children hears what another tracer of the process is to hear of them, too.
	started, over := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread()
		started <- w.cmd.Start()
		<-over
	}()
	if err := <-started; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = w.cmd.Process.Kill()
		_ = w.cmd.Wait() // it may be the tracer that heard of it
		close(over)
	})
	w.proceeds(t)
	if w.tgt, _, err = target.Enter(target.Choice{PID: w.cmd.Process.Pid}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(w.tgt.Close)
	return w
}

func wait(t *testing.T, what string, is func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !is(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

// proceeds waits until all threads and processes of the worker have done something.
func (w *worker) proceeds(t *testing.T) {
	t.Helper()
	for _, i := range []int{byThreads, byChild, forks} {
		n := w.counts[i].Load()
		wait(t, fmt.Sprintf("counter %d goes on from %d", i, n), func() bool { return w.counts[i].Load() > n })
	}
}

// states are those of all threads of the worker and its descendants. It fails where one
// ends meanwhile.
func (w *worker) states() (all []string, err error) {
	pids, err := w.tgt.Processes()
	if err != nil {
		return nil, err
	}
	for _, pid := range pids {
		dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			return nil, err
		}
		for _, e := range dir {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/stat", pid, e.Name()))
			if err != nil {
				return nil, err
			}
			fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')'):]))
			all = append(all, fields[1])
		}
	}
	return all, nil
}

// moves reports whether a thread in this state may do something. D is a parent that waits
// in vfork(2) for a child that stands: it does nothing either.
func moves(state string) bool { return state != "t" && state != "D" && state != "Z" }

// stands checks that nothing of the worker can do anything.
func (w *worker) stands(t *testing.T) {
	t.Helper()
	states, err := w.states()
	if err != nil {
		t.Fatal(err) // paused ones do not end
	}
	if len(states) < 6 || slices.ContainsFunc(states, moves) {
		t.Errorf("threads are in states %v", states)
	}
}

func newPauser(t *testing.T, list func() ([]int, error)) *Pauser {
	p := New(slog.New(slog.NewTextHandler(t.Output(), nil)), list)
	t.Cleanup(p.Close)
	return p
}

func hold(t *testing.T, p *Pauser) *Hold {
	t.Helper()
	h, err := p.Hold(func(err error) { t.Errorf("lost: %v", err) })
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func TestPause(t *testing.T) {
	w := startWorker(t)
	p := newPauser(t, w.tgt.Processes)
	for range 10 {
		first, second := hold(t, p), hold(t, p)
		w.stands(t)
		before := *copied(w.counts)
		if _, err := w.tgt.Environ(); err != nil {
			t.Errorf("environment of what is paused: %v", err)
		}
		first.Release()
		w.stands(t)
		if now := *copied(w.counts); now != before {
			t.Errorf("it went from %v to %v", before, now)
		}
		second.Release()
		w.proceeds(t)
	}
	if err := hold(t, p).Resume(); err != nil {
		t.Error(err)
	}
	w.stands(t)
	p.Close()
	w.proceeds(t)
}

func copied(c *counts) *[counters]uint64 {
	var all [counters]uint64
	for i := range c {
		all[i] = c[i].Load()
	}
	return &all
}

func (w *worker) signal(t *testing.T, sig syscall.Signal) {
	t.Helper()
	if err := unix.Kill(w.cmd.Process.Pid, sig); err != nil {
		t.Fatal(err)
	}
}

func TestSignalWaits(t *testing.T) {
	w := startWorker(t)
	p := newPauser(t, w.tgt.Processes)
	h := hold(t, p)
	w.signal(t, unix.SIGUSR1)
	w.stands(t)
	if n := w.counts[signals].Load(); n != 0 {
		t.Errorf("%d signals came during the pause", n)
	}
	h.Release()
	wait(t, "the signal comes", func() bool { return w.counts[signals].Load() == 1 })
}

// No signal is lost, whenever it comes.
func TestSignalMeanwhile(t *testing.T) {
	w := startWorker(t)
	p := newPauser(t, w.tgt.Processes)
	for n := range uint64(30) {
		held := make(chan *Hold)
		go func() { held <- hold(t, p) }()
		w.signal(t, unix.SIGUSR1)
		(<-held).Release()
		wait(t, "the signal comes", func() bool { return w.counts[signals].Load() == n+1 })
	}
}

func TestStoppedBefore(t *testing.T) {
	w := startWorker(t)
	p := newPauser(t, w.tgt.Processes)
	stopped := func() bool {
		states, err := w.states()
		return err == nil && strings.Contains(strings.Join(states, ""), "TT")
	}
	w.signal(t, unix.SIGSTOP)
	wait(t, "it stops", stopped)
	h := hold(t, p)
	h.Release()
	wait(t, "it is stopped again", stopped)
	w.signal(t, unix.SIGCONT)
	w.proceeds(t)
}

func TestKilled(t *testing.T) {
	w := startWorker(t)
	p := newPauser(t, w.tgt.Processes)
	h := hold(t, p)
	pidfd, err := unix.PidfdOpen(w.cmd.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	w.signal(t, unix.SIGKILL)
	wait(t, "it ends", func() bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 0)
		return n == 1 && err == nil
	})
	left := func(which func(tid int) bool) func() bool {
		return func() (none bool) {
			_ = p.do(func() error {
				none = !slices.ContainsFunc(slices.Collect(maps.Keys(p.threads)), which)
				return nil
			})
			return none
		}
	}
	wait(t, "none of its threads is traced any more", left(func(tid int) bool {
		th, err := inspect(tid)
		return err != nil || th.process == w.cmd.Process.Pid
	}))
	h.Release() // what it had just started may stand until now
	wait(t, "nobody is traced any more", left(func(int) bool { return true }))
}

// Those that come later, as after a restart of the container, are paused as well.
func TestChanged(t *testing.T) {
	w, next := startWorker(t), startWorker(t)
	var gone, both atomic.Bool
	list := func() ([]int, error) {
		if gone.Load() {
			return nil, unix.EIO
		}
		all, err := w.tgt.Processes()
		if both.Load() && err == nil {
			var more []int
			more, err = next.tgt.Processes()
			all = append(all, more...)
		}
		return all, err
	}
	p := newPauser(t, list)
	lost := make(chan error, 1)
	if _, err := p.Hold(func(err error) { lost <- err }); err != nil {
		t.Fatal(err)
	}
	next.proceeds(t)
	gone.Store(true)
	p.Changed()
	if _, err := p.Hold(func(error) {}); !errors.Is(err, unix.EIO) { // nobody is there for a new one
		t.Errorf("holding nobody: %v", err)
	}
	gone.Store(false)
	both.Store(true)
	p.Changed()
	wait(t, "it is paused", func() bool {
		states, err := next.states()
		return err == nil && !slices.ContainsFunc(states, moves)
	})

	third := startWorker(t)
	other := newPauser(t, third.tgt.Processes)
	hold(t, other)
	w.tgt = third.tgt // whom another traces
	p.Changed()
	select {
	case err := <-lost:
		if !errors.Is(err, unix.EPERM) {
			t.Errorf("lost: %v", err)
		}
	case <-time.After(patience):
		t.Fatal("its loss is not told")
	}
	next.proceeds(t)
}

// Who is debugged is not paused, and nobody else of it.
func TestTraced(t *testing.T) {
	w := startWorker(t)
	pids, err := w.tgt.Processes()
	if err != nil {
		t.Fatal(err)
	}
	child := pids[slices.IndexFunc(pids, func(pid int) bool {
		cmdline, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		return err == nil && strings.HasSuffix(string(cmdline), "child\x00")
	})]
	debugger := newPauser(t, func() ([]int, error) { return []int{child}, nil })
	held := hold(t, debugger)
	p := newPauser(t, w.tgt.Processes)
	_, err = p.Hold(func(error) {})
	for _, want := range []string{strconv.Itoa(child), "is traced by process " + strconv.Itoa(os.Getpid())} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %q", err, want)
		}
	}
	if !errors.Is(err, unix.EPERM) {
		t.Errorf("error %v is not EPERM", err)
	}
	held.Release()
	w.proceeds(t)
	hold(t, p).Release()
}

func TestItself(t *testing.T) {
	p := newPauser(t, func() ([]int, error) { return []int{os.Getpid()}, nil })
	if _, err := p.Hold(func(error) {}); err == nil {
		t.Error("the agent pauses itself")
	}
}

// traceUntilKilled pauses a process.
func traceUntilKilled(pid string) {
	n, err := strconv.Atoi(pid)
	if err != nil {
		panic(err)
	}
	tgt, _, err := target.Enter(target.Choice{PID: n})
	if err != nil {
		panic(err)
	}
	if _, err := New(slog.New(slog.DiscardHandler), tgt.Processes).Hold(func(error) {}); err != nil {
		panic(err)
	}
	fmt.Println("paused")
	select {}
}

func TestTracerKilled(t *testing.T) {
	w := startWorker(t)
	tracer := exec.Command("/proc/self/exe")
	tracer.Env = append(os.Environ(), traceVar+"="+strconv.Itoa(w.cmd.Process.Pid))
	tracer.Stderr = t.Output()
	out, err := tracer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := tracer.Start(); err != nil {
		t.Fatal(err)
	}
	said, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Errorf("the tracer says %q: %v", said, err)
	}
	w.stands(t)
	if err := tracer.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = tracer.Wait()
	w.proceeds(t)
}
