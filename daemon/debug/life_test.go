package main_test

import (
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/daemon/debug/debugtest"
	"mirrord/layer/keeper"
)

// killAll ends the debuggees that a test that failed has left.
func killAll(t *testing.T, program string) {
	t.Cleanup(func() {
		for _, pid := range processesOf(t, program) {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	})
}

// processesOf lists those that run a program.
func processesOf(t *testing.T, program string) (pids []int) {
	t.Helper()
	links, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if exe, err := os.Readlink(link); err == nil && exe == program {
			pid, err := strconv.Atoi(filepath.Base(filepath.Dir(link)))
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// below returns pidfds of a process' descendants, by their numbers.
func below(t *testing.T, pid int) map[int]int {
	t.Helper()
	all := map[int]int{}
	list, err := keeper.Children(pid)
	if err != nil {
		t.Fatal(err)
	}
	for _, child := range list {
		fd, err := unix.PidfdOpen(child, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		all[child] = fd
		for pid, fd := range below(t, child) {
			all[pid] = fd
		}
	}
	return all
}

// gone waits until a process has ended.
func gone(t *testing.T, pid, fd int) {
	t.Helper()
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 30_000)
		if err == unix.EINTR {
			continue
		}
		if n == 0 {
			cmd, _ := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/cmdline")
			t.Errorf("process %d is still there: %q", pid, cmd)
		}
		return
	}
}

// refused checks that nobody listens at addr.
func refused(t *testing.T, addr string) {
	t.Helper()
	if c, err := net.Dial("tcp", addr); err == nil {
		c.Close()
		t.Errorf("somebody still listens at %s", addr)
	}
}

// A kill -9 of the debugger, or of what is above it, leaves nothing of a
// debuggee that is stopped, nor of its children.
func TestKilledWhileStopped(t *testing.T) {
	dlv, debuggee := programs(t)
	for _, who := range []string{"debugger", "launcher", "keeper", "debuggee"} {
		t.Run(who, func(t *testing.T) {
			killAll(t, debuggee)
			w := newWorld(t)
			p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"daemonise"}})
			c.Break(source(t), at(t, "daemonised"))
			c.Run()
			c.Stopped("breakpoint")
			all := below(t, p.Cmd.Process.Pid)
			if len(all) != 4 { // keeper, dlv, debuggee, and what this has left
				t.Errorf("below the launcher: %v", all)
			}
			victim := p.Cmd.Process.Pid
			switch who {
			case "debugger":
				victim = one(t, processesOf(t, dlv))
			case "debuggee":
				victim = one(t, processesOf(t, debuggee))
			case "keeper":
				list, err := keeper.Children(victim)
				if err != nil {
					t.Fatal(err)
				}
				victim = one(t, list)
			}
			if err := syscall.Kill(victim, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
			if who == "debuggee" { // the debugger lives, and says so
				c.Resume("continue", 1)
				c.Stopped("exception")
				c.Close()
			}
			code := p.Wait()
			for pid, fd := range all {
				gone(t, pid, fd)
			}
			refused(t, p.Addr)
			if want := map[string]int{"debugger": -9, "launcher": -9, "keeper": 1, "debuggee": 0}[who]; code != want {
				t.Errorf("the launcher ended with %d, want %d", code, want)
			}
		})
	}
}

func one(t *testing.T, pids []int) int {
	t.Helper()
	if len(pids) != 1 {
		t.Fatalf("the processes are %v", pids)
	}
	return pids[0]
}

// A client that is gone without a word, and a signal, end a session that is
// stopped as in Delve itself.
func TestEndsWhileStopped(t *testing.T) {
	_, debuggee := programs(t)
	for name, end := range map[string]func(p *debugtest.Process, c *debugtest.Client){
		"client gone": func(_ *debugtest.Process, c *debugtest.Client) { c.Close() },
		"SIGTERM":     func(p *debugtest.Process, _ *debugtest.Client) { p.Cmd.Process.Signal(syscall.SIGTERM) },
		"SIGINT":      func(p *debugtest.Process, _ *debugtest.Client) { p.Cmd.Process.Signal(syscall.SIGINT) },
	} {
		t.Run(name, func(t *testing.T) {
			if name == "SIGINT" && signal.Ignored(syscall.SIGINT) {
				t.Skip("a launcher keeps ignoring what it was started with as ignored, as this test was")
			}
			killAll(t, debuggee)
			w := newWorld(t)
			p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{"count"}})
			c.Break(source(t), at(t, "loop"))
			c.Run()
			c.Stopped("breakpoint")
			all := below(t, p.Cmd.Process.Pid)
			end(p, c)
			if code := p.Wait(); code != 0 {
				t.Errorf("the launcher ended with %d", code)
			}
			for pid, fd := range all {
				gone(t, pid, fd)
			}
			refused(t, p.Addr)
		})
	}
}

// What debuggees do to themselves is no end of the context, nor of the session.
func TestDebuggees(t *testing.T) {
	const blue = `/etc/shop/config.yaml: "color: blue\n" <nil>` + "\n"
	_, debuggee := programs(t)
	for what, want := range map[string]string{
		"fork":      blue + `"color: blue\nthe target's\n" <nil>` + "\nend\n",
		"daemonise": `left N <nil>` + "\nend\n",
		"limits":    "limit <nil>\n" + blue + "limit <nil>\n" + blue + "end\n",
		"drop":      "groups <nil> group <nil> user <nil>\n" + blue + "end\n",
	} {
		t.Run(what, func(t *testing.T) {
			if what == "drop" && os.Getuid() != 0 {
				t.Skip("only root has privileges to drop")
			}
			killAll(t, debuggee)
			w := newWorld(t)
			p := debugtest.Start(t, w.dlv(t, "dap", "--listen=127.0.0.1:0"))
			c := p.Dial()
			c.Launch(debugtest.Args{"mode": "exec", "program": debuggee, "args": []string{what}})
			c.Run()
			if code := c.Exit(); code != 0 {
				t.Errorf("exit code %d", code)
			}
			all := below(t, p.Cmd.Process.Pid)
			c.Disconnect(true)
			if code := p.Wait(); code != 0 {
				t.Errorf("dlv ended with %d", code)
			}
			for pid, fd := range all {
				gone(t, pid, fd)
			}
			if got := regexp.MustCompile("left [0-9]+").ReplaceAllString(c.Out(), "left N"); got != want {
				t.Errorf("it printed %q, want %q", got, want)
			}
			if said := p.Stderr(); strings.TrimSpace(said) != "" {
				t.Errorf("the launcher said %q", said)
			}
		})
	}
}
