package launch

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// openTerminal returns both ends of a new pseudo terminal.
func openTerminal(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Skipf("no terminals here: %v", err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return master, slave
}

// A terminal stays one: the debuggee is in its foreground, Ctrl-C comes to it
// once, Ctrl-Z stops launcher and debuggee, and fg continues both.
func TestTerminal(t *testing.T) {
	w := newWorld(t)
	master, slave := openTerminal(t)
	// An interactive shell with job control stands for the user's.
	cmd := exec.Command("bash", "--norc", "--noprofile", "-i")
	// It waits in select, which its handlers' descriptor ends: a signal that comes
	// just before a read would be heard only after it.
	l := w.launcher(t, "python3", "-uc", `
import os, select, signal, sys
n = 0
def got(s, f):
    global n; n += 1; print("interrupt", n)
signal.signal(signal.SIGINT, got)
signal.signal(signal.SIGCONT, lambda s, f: print("continued"))
had, tell = os.pipe()
os.set_blocking(tell, False)
signal.set_wakeup_fd(tell)
print("foreground", os.tcgetpgrp(0) == os.getpgrp(), sys.stdin.isatty())
while True:
    ready = select.select([0, had], [], [])[0]
    if had in ready: os.read(had, 64)
    if 0 in ready:
        line = sys.stdin.readline().strip()
        print("line", line)
        if line == "end": sys.exit(5)`)
	cmd.Env = append(l.Env, "PS1=prompt> ", "LAUNCHER="+l.Path, "TERM=dumb")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	slave.Close()

	var seen strings.Builder
	fd := int(master.Fd())
	expect := func(text string) {
		t.Helper()
		from := seen.Len()
		b := make([]byte, 1)
		for !strings.Contains(seen.String()[from:], text) {
			n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 10_000)
			if err == unix.EINTR {
				continue
			}
			if n > 0 {
				n, err = unix.Read(fd, b)
			}
			if err != nil || n <= 0 {
				t.Fatalf("waiting for %q: %v\n%s", text, err, seen.String())
			}
			seen.Write(b)
		}
	}
	typed := func(text string) {
		t.Helper()
		if _, err := master.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	expect("prompt> ")
	typed("$LAUNCHER\r")
	expect("foreground True True")
	typed("hello\r")
	expect("line hello")
	typed("\x03")
	expect("interrupt 1")
	typed("\x1a")
	expect("Stopped")
	expect("prompt> ")
	typed("echo at the $((1 + 1))nd prompt\r")
	expect("at the 2nd prompt\r\n")
	expect("prompt> ")
	typed("fg\r")
	expect("continued")
	typed("\x03")
	expect("interrupt 2") // and not 3: once each
	typed("end\r")
	expect("line end")
	typed("echo code $?\r")
	expect("code 5")
}
