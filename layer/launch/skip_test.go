package launch

import (
	"os"
	"slices"
	"testing"
)

// Whether a process is served is decided by the program that it runs, from its
// exec on, however shortly before it was another.
func TestSkippedProcesses(t *testing.T) {
	w := newWorld(t)
	w.policy.SkipProcesses = []string{"cat"}
	w.write(t, "/app/text", "the target's\n")
	look := `read line </app/text && echo "$line"; `
	gone := "cat: /app/text: No such file or directory\n"
	r := w.run(t, "sh", "-c", look+look+"exec cat /app/text 2>&1")
	if want := "the target's\nthe target's\n" + gone; r.out != want || r.Code != 1 {
		t.Errorf("%+v, want %q", r, want)
	}
	w.want(t, "the target's\n"+gone+"the target's\n", "sh", "-c", look+"cat /app/text 2>&1;"+look)
}

// Of what a skipped program writes here and not in the target the user is told,
// once of each.
func TestSkippedWrites(t *testing.T) {
	w := newWorld(t)
	at := t.TempDir()
	w.policy.ReadWrite, w.policy.SkipProcesses = []string{"^" + at}, []string{"cp", "mv"}
	r := w.run(t, "sh", "-c", `cd "$0"; cp /etc/passwd "$1/a"; cp "$1/a" "$1/b"; mv "$1/a" "$1/c"; mv "$1/c" "$1/d"`, w.dir, at)
	want := func(name, program string) string {
		return at + name + " is written on this machine and not in the target: its program runs as if mirrord were not there (skip_processes " + program +
			"). For a build tool, set skip_build_tools to false"
	}
	if got := []string{want("/a", "cp"), want("/a", "mv")}; !slices.Equal(r.messages, got) || r.Code != 0 {
		t.Errorf("%+v, want %q", r, got)
	}
	if files, err := os.ReadDir(at); err != nil || len(files) != 2 {
		t.Errorf("here are %v, %v", files, err)
	}
}

func TestSkippedByExec(t *testing.T) {
	w := newWorld(t)
	w.policy.SkipProcesses = []string{"sh"}
	w.write(t, "/app/text", "the target's\n")
	w.want(t, "not here\nthe target's\n", "sh", "-c", "test -e /app/text || echo not here; exec cat /app/text")
}

// A thread that calls exec becomes its process's first, which may ask for
// something until then.
func TestSkippedByExecOfAThread(t *testing.T) {
	w := newWorld(t)
	w.policy.SkipProcesses = []string{"ls"}
	w.write(t, "/app/text", "the target's\n")
	r := w.run(t, "python3", "-c", `
import os, threading
os.stat("/app/text")
os.dup2(1, 2)
threading.Thread(target=lambda: os.execv("/bin/ls", ["ls", "/app/text"])).start()
while True: os.stat("/app/text")`)
	if want := "ls: cannot access '/app/text': No such file or directory\n"; r.out != want || r.Code != 2 {
		t.Errorf("%+v, want %q", r, want)
	}
}
