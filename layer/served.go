package layer

import (
	"bytes"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
)

// servedTime is how long it is remembered whether a task is served: less than
// it takes the kernel to give its number to another.
const servedTime = 100 * time.Millisecond

// serving remembers which tasks are served, so that not each of their calls
// costs a look into /proc. The program that a process runs, and so the answer,
// changes with exec.
type serving struct {
	strangers atomic.Bool // there was one that is not

	mu    sync.Mutex
	tasks map[uint32]judgement // guarded by mu; by thread
}

// A judgement holds until then, or an exec.
type judgement struct {
	served bool
	until  time.Time
	// never: another thread of the process has called exec, and will be this
	// one when that is done.
	never bool
}

// maxJudged bounds what is remembered.
const maxJudged = 4096

// served tells whether c's process is one whose calls we answer.
func (c *call) served() bool {
	if served, known := c.judged(); known {
		return served
	}
	served := c.judge()
	s := &c.l.serving
	if !served {
		s.strangers.Store(true)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	// While it waits for our answer it does not call exec.
	if j := s.tasks[c.TID]; !j.never && c.l.listener.Valid(c.ID) {
		s.set(c.TID, judgement{served: served, until: time.Now().Add(servedTime)})
	}
	return served
}

// judged tells what is remembered. It makes no call that can wait.
func (c *call) judged() (served, known bool) {
	if !c.l.judges() {
		return true, true
	}
	s := &c.l.serving
	s.mu.Lock()
	defer s.mu.Unlock()
	j, ok := s.tasks[c.TID]
	return j.served, ok && !j.never && time.Now().Before(j.until)
}

// judges tells whether some processes may not be served.
func (c *Config) judges() bool { return c.Policy.Skips() || c.Debugger != nil }

func (c *call) judge() bool {
	if d := c.l.Debugger; d != nil && !d.serves(c.TID) {
		return false
	}
	return c.process().Kind != policy.Local
}

// process is the verdict about the program that c's process runs.
func (c *call) process() policy.Verdict {
	var buf [seccomp.MaxPath]byte
	n, err := unix.Readlink(c.proc("exe"), buf[:])
	if err != nil {
		return policy.Verdict{Kind: policy.Remote}
	}
	exe := string(buf[:n])
	return c.l.Policy.Process(exe, argv0(c.proc("cmdline"), buf[:]))
}

// strays tells the user of a program that writes here, as it is not served, what
// others would write in the target. Who builds there would look for it in vain.
func (c *call) strays() {
	at := c.path
	switch {
	case c.verdict.Kind == policy.Remote && c.verdict.Writable:
	case c.other.Kind == policy.Remote && c.other.Writable:
		at = c.path2
	default:
		return
	}
	if !c.makes() {
		return
	}
	if v := c.process(); v.Kind == policy.Local {
		c.l.tellAs(v.Rule, fmt.Sprintf("%s is written on this machine and not in the target: its program runs as if mirrord were not there (%s). "+
			"For a build tool, set skip_build_tools to false", at, v.Rule))
	}
}

// makes tells whether a call of paths makes a file, or may write one.
func (c *call) makes() bool {
	switch c.hook.Call {
	case seccomp.Open, seccomp.Openat:
		return changeFlags(int(c.Args[c.hook.flags])) != 0
	case seccomp.Openat2:
		return changeFlags(int(c.walk.how.Flags)) != 0
	case seccomp.Creat, seccomp.Mkdir, seccomp.Mkdirat, seccomp.Mknod, seccomp.Mknodat, seccomp.Symlink, seccomp.Symlinkat,
		seccomp.Rename, seccomp.Renameat, seccomp.Renameat2, seccomp.Link, seccomp.Linkat, seccomp.Truncate:
		return true
	}
	return false
}

// argv0 reads the first word of a command line by no more calls than it takes.
func argv0(cmdline string, buf []byte) string {
	fd, err := unix.Open(cmdline, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return ""
	}
	defer unix.Close(fd)
	n, _ := unix.Read(fd, buf)
	word, _, _ := bytes.Cut(buf[:max(n, 0)], []byte{0})
	return string(word)
}

// set is called with mu held.
func (s *serving) set(tid uint32, j judgement) {
	if s.tasks == nil || len(s.tasks) >= maxJudged {
		s.tasks = make(map[uint32]judgement)
	}
	s.tasks[tid] = j
}

// quickExec forgets what the process was. A thread that is not its first takes
// that one's number when exec has ended it, which can be at any time from now on.
func quickExec(c *call) bool {
	c.l.serving.forget(c.TID)
	if d := c.l.Debugger; d != nil {
		c.doubt = d.exec(c)
	}
	return c.doubt != nil || !c.l.Policy.Tree() || quickEmptyPath(c)
}

func (s *serving) forget(tid uint32) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tasks, tid)
	process, err := seccomp.Process(tid)
	switch {
	case err != nil: // whoever's it is
		clear(s.tasks)
	case uint32(process) != tid:
		s.set(uint32(process), judgement{never: true})
	}
}
