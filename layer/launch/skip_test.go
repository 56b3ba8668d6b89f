package launch

import "testing"

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
