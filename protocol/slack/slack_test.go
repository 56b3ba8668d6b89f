package slack

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// slacks are those of all threads, in ns; where we are not root of this one, as of others
// the kernel tells who has CAP_SYS_NICE.
func slacks(t *testing.T) []string {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	if os.Geteuid() != 0 {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		tasks = []string{strconv.Itoa(unix.Gettid())}
	}
	var list []string
	for _, task := range tasks {
		b, err := os.ReadFile("/proc/" + filepath.Base(task) + "/timerslack_ns")
		if err != nil {
			t.Fatal(err)
		}
		list = append(list, strings.TrimSpace(string(b)))
	}
	return list
}

// A program that begins at _rt0_mirrord has late timers in all its threads, and what it
// starts by Spare has those that it was started with. Without the flag it is as any other.
func TestSpare(t *testing.T) {
	if want := os.Getenv(childWants); want != "" {
		child(t, want)
		return
	}
	test, ours := filepath.Join(t.TempDir(), "test"), slacks(t)[0]
	for _, tt := range []struct{ link, want string }{{"-E _rt0_mirrord", "1000000"}, {"", ours}} {
		build := exec.Command("go", "test", "-c", "-ldflags", tt.link, "-o", test)
		build.Env = append(os.Environ(), "CGO_ENABLED=0") // with cgo it is libc that begins
		if out, err := build.CombinedOutput(); err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		run := exec.Command(test, "-test.run", "^TestSpare$", "-test.v")
		run.Env = append(os.Environ(), childWants+"="+tt.want, parentHas+"="+ours)
		if out, err := run.CombinedOutput(); err != nil {
			t.Errorf("linked with %q: %v\n%s", tt.link, err, out)
		}
	}
}

// Environment of that program: the slack that it is to have, and that of who has started it.
const childWants, parentHas = "TEST_CHILD_SLACK", "TEST_PARENT_SLACK"

// child is what that program does.
func child(t *testing.T, want string) {
	for _, got := range slacks(t) {
		if got != want {
			t.Errorf("a thread has %s, want %s", got, want)
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
