package slack

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// again marks a run of this test that is to be executed again.
const again = "TEST_SLACK_AGAIN"

// All threads of a program that is executed again have late timers, and so have those
// that the monitor's starts.
func TestAgain(t *testing.T) {
	if os.Getenv(again) == "" {
		exact := exec.Command("/proc/self/exe", "-test.run", "^TestAgain$", "-test.v")
		exact.Env = append(os.Environ(), again+"=yes")
		if out, err := exact.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	if err := Again(); err != nil {
		t.Fatal(err)
	}
	if !isLate() {
		t.Error("this thread has exact timers")
	}
	if os.Geteuid() != 0 { // of other threads the kernel tells who has CAP_SYS_NICE
		return
	}
	tasks, err := filepath.Glob("/proc/self/task/*")
	if err != nil || len(tasks) < 2 {
		t.Fatal(tasks, err)
	}
	for _, task := range tasks {
		if got, err := os.ReadFile("/proc/" + filepath.Base(task) + "/timerslack_ns"); strings.TrimSpace(string(got)) != "1000000" {
			t.Errorf("thread %s: %s, %v", task, got, err)
		}
	}
}
