package debugtest

import (
	"bufio"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A Process is a dlv that listens, and perhaps its launcher before it.
type Process struct {
	Cmd  *exec.Cmd
	Addr string // where it listens

	t      testing.TB
	drains sync.WaitGroup

	mu     sync.Mutex
	stdout strings.Builder // guarded by mu
	stderr strings.Builder // guarded by mu
	heard  int             // of stderr, by Said; guarded by mu
	news   chan struct{}   // closed when stderr has more; guarded by mu
}

// Start starts a command that is to say where it listens, and kills it with
// the test.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Cmd: cmd, t: t, news: make(chan struct{})}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = writer{p}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		if cmd.ProcessState == nil {
			p.Wait()
		}
		if t.Failed() {
			t.Logf("%v said:\n%s%s", cmd.Args, p.Stdout(), p.Stderr())
		}
	})
	addrs := make(chan string, 1)
	p.drains.Go(func() {
		defer close(addrs)
		for scan := bufio.NewScanner(out); scan.Scan(); {
			p.mu.Lock()
			p.stdout.WriteString(scan.Text() + "\n")
			p.mu.Unlock()
			if _, addr, ok := strings.Cut(scan.Text(), " listening at: "); ok && p.Addr == "" {
				select {
				case addrs <- addr:
				default: // a debuggee's words
				}
			}
		}
	})
	select {
	case addr, ok := <-addrs:
		if !ok {
			t.Fatalf("%v ended: %s%s", cmd.Args, p.Stdout(), p.Stderr())
		}
		p.Addr = addr
	case <-time.After(patience):
		t.Fatalf("%v does not listen: %s%s", cmd.Args, p.Stdout(), p.Stderr())
	}
	return p
}

// Dial connects to it by DAP.
func (p *Process) Dial() *Client {
	p.t.Helper()
	return Dial(p.t, p.Addr)
}

// Wait returns the exit code, or minus the signal that ended it.
func (p *Process) Wait() int {
	p.t.Helper()
	timer := time.AfterFunc(patience, func() {
		p.t.Errorf("%v does not end", p.Cmd.Args)
		p.Cmd.Process.Kill()
	})
	defer timer.Stop()
	p.drains.Wait()
	_ = p.Cmd.Wait()
	status := p.Cmd.ProcessState.Sys().(syscall.WaitStatus)
	if status.Signaled() {
		return -int(status.Signal())
	}
	return status.ExitStatus()
}

// Said waits until it has said something since Said was called before.
func (p *Process) Said(words string) {
	p.t.Helper()
	timeout := time.After(patience)
	for {
		p.mu.Lock()
		said, news := p.stderr.String()[p.heard:], p.news
		if i := strings.Index(said, words); i >= 0 {
			p.heard += i + len(words)
			p.mu.Unlock()
			return
		}
		p.mu.Unlock()
		select {
		case <-news:
		case <-timeout:
			p.t.Fatalf("it did not say %q but %q", words, said)
		}
	}
}

// Stdout is what it printed so far.
func (p *Process) Stdout() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stdout.String()
}

// Stderr is what it said so far.
func (p *Process) Stderr() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.stderr.String()
}

type writer struct{ p *Process }

func (w writer) Write(b []byte) (int, error) {
	w.p.mu.Lock()
	defer w.p.mu.Unlock()
	close(w.p.news)
	w.p.news = make(chan struct{})
	return w.p.stderr.Write(b)
}
