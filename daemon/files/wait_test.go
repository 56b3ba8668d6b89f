package files

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A stop of a debuggee that waits for its network takes effect at once, and
// what it waited for is not asked for again.
func TestStopWhileWaiting(t *testing.T) {
	path, content := bigFile(t, 10<<20)
	for _, c := range []struct{ how, path string }{
		{"read", path},
		{"read", "/proc/version"}, // DIRECT_IO
		{"map", path},
	} {
		t.Run(c.how+" "+c.path[1:5], func(t *testing.T) {
			first := content[0]
			if c.path != path {
				first = 'L'
			}
			d := newDisk(t)
			s := serveDisk(t, d)
			h := newHold()
			d.hold.Store(h)
			node := d.add(t, c.path)
			p := startDebuggee(t, nil, []*os.File{s.Root()}, c.how, fmt.Sprint("n", node))
			p.line(t)
			asked := []request{<-h.asked}

			for range 3 {
				within(t, "stop", func() {
					p.Process.Signal(unix.SIGSTOP)
					for {
						var info unix.Siginfo
						if err := unix.Waitid(unix.P_PID, p.Process.Pid, &info, unix.WSTOPPED, nil); err != unix.EINTR {
							return
						}
					}
				})
				p.Process.Signal(unix.SIGCONT)
			}
			close(h.let)
			var got byte
			var interrupted int
			line := p.line(t)
			if _, err := fmt.Sscan(line, &got, &interrupted); err != nil || got != first {
				t.Errorf("debuggee says %q, want %d", line, first)
			}
			t.Logf("%d times EINTR", interrupted)
			for len(h.asked) > 0 { // others are read-ahead
				r := <-h.asked
				for _, a := range asked {
					if r.off < a.off+int64(a.n) && a.off < r.off+int64(r.n) {
						t.Errorf("asked for %v and for %v", a, r)
					}
				}
				asked = append(asked, r)
			}
			if err := p.Wait(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestKillWhileWaiting(t *testing.T) {
	path, _ := bigFile(t, 10<<20)
	for _, c := range []struct{ how, path string }{
		{"read", path},
		{"read", "/proc/version"},
		{"map", path},
	} {
		t.Run(c.how+" "+c.path[1:5], func(t *testing.T) {
			d := newDisk(t)
			s := serveDisk(t, d)
			h := newHold()
			d.hold.Store(h)
			node := d.add(t, c.path)
			p := startDebuggee(t, nil, []*os.File{s.Root()}, c.how, fmt.Sprint("n", node))
			p.line(t)
			<-h.asked
			within(t, "kill", func() {
				p.Process.Kill()
				p.Wait()
			})
			// Its descriptor went with it, and what was under way is cancelled.
			if got := <-d.released; got != node {
				t.Errorf("node %d released, want %d", got, node)
			}
		})
	}
}

func TestTimeout(t *testing.T) {
	if err := Available(); err != nil {
		t.Skip(err)
	}
	path, _ := bigFile(t, 100_000)
	d := newDisk(t)
	s, err := start(t.Context(), slog.New(slog.DiscardHandler), d, 100*time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	h := newHold()
	d.hold.Store(h)
	f := mustOpen(t, s, d.add(t, path))
	b := make([]byte, 10)
	if _, err := f.ReadAt(b, 0); !errors.Is(err, unix.EIO) {
		t.Errorf("read: %v, want EIO", err)
	}
	close(h.let)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Errorf("later read: %v", err)
	}
}
