package launch

import (
	"io"
	"os"
	"strings"
	"testing"
)

// What a launcher was started with is the debuggee's alone: who waits for its end
// does not wait for ours. Any number will do, also the last that is allowed.
func TestInheritedDescriptors(t *testing.T) {
	w := newWorld(t)
	third, w3, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer third.Close()
	last, w4, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer last.Close()
	cmd := w.launcher(t, "python3", "-c", `
import os, sys
os.write(3, b"three"); os.write(299, b"last")
try: os.fstat(4); print("4 is open", file=sys.stderr)
except OSError: pass
os.close(3); os.close(299)
sys.stdin.read()`)
	cmd.Args = append([]string{"python3", "-c", `
import os, resource, sys
os.dup2(4, 299); os.close(4); os.set_inheritable(3, True)
resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
os.execv(sys.argv[1], sys.argv[1:])`, cmd.Path}, cmd.Args[1:]...)
	if cmd.Path, err = Look("python3", os.Environ(), ""); err != nil {
		t.Fatal(err)
	}
	cmd.ExtraFiles = []*os.File{w3, w4}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w3.Close()
	w4.Close()
	for file, want := range map[*os.File]string{third: "three", last: "last"} { // while it runs
		if got, err := io.ReadAll(file); err != nil || string(got) != want {
			t.Errorf("it has written %q, %v, want %q", got, err, want)
		}
	}
	stdin.Close()
	if err := cmd.Wait(); err != nil || stderr.Len() > 0 {
		t.Errorf("%v: %s", err, stderr.String())
	}
}
