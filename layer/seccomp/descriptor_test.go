package seccomp

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// A process is found by its first thread and by another.
func TestProcess(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	second := make(chan int)
	go func() { // on another thread, since this one is locked
		runtime.LockOSThread()
		second <- unix.Gettid()
		<-second
		runtime.UnlockOSThread()
	}()
	other := <-second
	defer close(second)
	for _, tid := range []int{os.Getpid(), unix.Gettid(), other} {
		if pid, err := Process(uint32(tid)); pid != os.Getpid() || err != nil {
			t.Errorf("thread %d is of process %d, %v; want %d", tid, pid, err, os.Getpid())
		}
	}
	gone := exec.Command("true")
	if err := gone.Run(); err != nil {
		t.Fatal(err)
	}
	if pid, err := Process(uint32(gone.Process.Pid)); err == nil {
		t.Errorf("process %d, which has ended, is found as %d", gone.Process.Pid, pid)
	}
}
