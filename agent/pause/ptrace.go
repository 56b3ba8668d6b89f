package pause

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// options have children traced from their first instruction on.
const options = unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEEXEC

// eventStop is PTRACE_EVENT_STOP: that of PTRACE_INTERRUPT, and a child's first.
const eventStop = 128

// errNobody: there is no container now, for one.
var errNobody = errors.New("finding what is to be paused")

// seizeAll traces whom it does not yet, and has them stop. It tells how many these are.
func (p *Pauser) seizeAll() (n int, err error) {
	pids, err := p.list()
	if err != nil {
		return 0, fmt.Errorf("%w: %w", errNobody, err)
	}
	for _, pid := range pids {
		if pid == os.Getpid() {
			return n, fmt.Errorf("pausing process %d: it is the agent: %w", pid, unix.EINVAL)
		}
		dir, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
		if err != nil {
			continue // it has ended
		}
		for _, e := range dir {
			tid, err := strconv.Atoi(e.Name())
			if _, known := p.threads[tid]; known || err != nil {
				continue
			}
			came, err := p.seize(tid)
			if err != nil {
				return n, fmt.Errorf("pausing process %d: %w", pid, err)
			}
			if came {
				n++
			}
		}
	}
	return n, nil
}

// seize traces a thread and has it stop; false: it has ended.
func (p *Pauser) seize(tid int) (bool, error) {
	_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(tid), 0, options, 0, 0)
	switch errno {
	case 0:
		p.threads[tid] = false
		return true, p.interrupt(tid)
	case unix.ESRCH:
		return false, nil
	}
	t, err := inspect(tid)
	switch {
	case err != nil || t.ended():
		return false, nil
	case t.tracer == unix.Gettid(): // a child whose first stop is still to be told
		p.threads[tid] = false
		return true, nil
	case t.tracer != 0:
		return false, fmt.Errorf("thread %d is traced by %s already (a debugger?): %w", tid, name(t.tracer), errno)
	}
	return false, fmt.Errorf("thread %d cannot be traced (that needs CAP_SYS_PTRACE, and no kernel.yama.ptrace_scope of 3): %w", tid, errno)
}

func (p *Pauser) interrupt(tid int) error {
	err := unix.PtraceInterrupt(tid)
	if err == nil || err == unix.ESRCH { // it has ended, which is told
		return nil
	}
	return fmt.Errorf("stopping thread %d: %w", tid, err)
}

// reap takes what the kernel has to tell of the threads. No one else's children are
// waited for: they are not this thread's.
func (p *Pauser) reap() {
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WNOHANG|unix.WALL|unix.WNOTHREAD, nil)
		switch {
		case err == unix.EINTR:
		case err != nil || tid == 0:
			if errors.Is(err, unix.ECHILD) {
				clear(p.threads)
			}
			return
		case status.Stopped():
			p.stopped(tid, int(status)>>16, status.StopSignal())
		default:
			delete(p.threads, tid)
		}
	}
}

// stopped notes that a thread has. One that a signal has stopped takes that first,
// and one within a system call comes to its end: an execve(2) that has not come there
// keeps open what it is to close, as the pipe by which a container's runtime hears that
// its program runs.
func (p *Pauser) stopped(tid, event int, sig unix.Signal) {
	switch event {
	case eventStop:
		p.threads[tid] = true
		if len(p.holds) == 0 {
			p.letGo(tid)
		}
		return
	case unix.PTRACE_EVENT_EXEC:
		if former, err := unix.PtraceGetEventMsg(tid); err == nil && int(former) != tid {
			delete(p.threads, int(former)) // it has its process's number now
		}
	}
	if event != 0 {
		sig = 0
	}
	p.threads[tid] = false
	err := p.interrupt(tid)
	if err == nil {
		err = unix.PtraceCont(tid, int(sig))
	}
	if err != nil && err != unix.ESRCH {
		p.log.Error("having thread go on to where it stops", "tid", tid, "signal", sig, "err", err)
	}
}

// A thread is what /proc tells of one.
type thread struct {
	state   byte
	process int
	tracer  int // 0: none
}

func (t thread) ended() bool { return t.state == 'Z' || t.state == 'X' }

// within tells whether a thread waits in the kernel for what no signal ends.
func within(tid int) bool {
	t, err := inspect(tid)
	return err != nil || t.ended() || t.state == 'D'
}

func inspect(tid int) (t thread, err error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	if err != nil {
		return t, err
	}
	for lines := bufio.NewScanner(bytes.NewReader(b)); lines.Scan(); {
		key, value, _ := strings.Cut(lines.Text(), ":")
		value = strings.TrimSpace(value)
		switch key {
		case "State":
			t.state = (value + " ")[0]
		case "Tgid":
			t.process, _ = strconv.Atoi(value)
		case "TracerPid":
			t.tracer, _ = strconv.Atoi(value)
		}
	}
	return t, nil
}

// name names the process of a thread, for people.
func name(tid int) string {
	t, err := inspect(tid)
	if err != nil {
		return fmt.Sprintf("process %d", tid)
	}
	exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", t.process))
	if err != nil {
		return fmt.Sprintf("process %d", t.process)
	}
	return fmt.Sprintf("process %d (%s)", t.process, filepath.Base(exe))
}
