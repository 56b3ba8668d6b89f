package slack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// slackOf reads a thread's; of other threads the kernel tells who has CAP_SYS_NICE.
func slackOf(t *testing.T, task string) string {
	t.Helper()
	b, err := os.ReadFile("/proc/" + task + "/timerslack_ns")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// A program that begins at _rt0_mirrord has late timers in all its threads, and what it
// starts by Spare has those that it was started with. Without the flag it is as any other.
func TestSpare(t *testing.T) {
	test := filepath.Join(t.TempDir(), "test")
	for _, tt := range []struct{ link, want string }{{"-E _rt0_mirrord", "1000000"}, {"", slackOf(t, "self")}} {
		build := exec.Command("go", "test", "-c", "-ldflags", tt.link, "-o", test)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo it is libc that begins
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		run := exec.Command(test, "-test.run", "^TestChild$", "-test.v")
		run.Env = append(os.Environ(), childWants+"="+tt.want, parentHas+"="+slackOf(t, "self"))
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("linked with %q: %v\n%s", tt.link, err, out)
		}
	}
}

// Environment of TestChild: the slack that it is to have, and that of who has started it.
const childWants, parentHas = "TEST_CHILD_SLACK", "TEST_PARENT_SLACK"

// TestChild is that program.
func TestChild(t *testing.T) {
	want := os.Getenv(childWants)
	if want == "" {
		t.Skip("a part of TestSpare")
	}
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	if os.Geteuid() != 0 {
		tasks = []string{"self"}
	}
	for _, task := range tasks {
		if got := slackOf(t, filepath.Base(task)); got != want {
			t.Errorf("thread %s: %s, want %s", filepath.Base(task), got, want)
		}
	}
	var out []byte
	if err := Spare(func() (err error) {
		out, err = exec.Command("cat", "/proc/self/timerslack_ns").Output()
		return err
	}); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.TrimSpace(string(out)), os.Getenv(parentHas); got != want {
		t.Errorf("what it has started: %s, want %s", got, want)
	}
}
