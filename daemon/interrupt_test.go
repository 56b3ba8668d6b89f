package main

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// An interrupt while the session starts cancels it in the daemon, and the
// command ends at once with a shell's code.
func TestInterrupt(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0") // an agent that never answers
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	run := t.TempDir()
	var stderr bytes.Buffer
	cmd := &exec.Cmd{
		Path: os.Args[0], Args: []string{"mirrord", "exec", "--fs-mode", "local", "--agent", silent.Addr().String(), "--", "true"},
		Env: append(os.Environ(), "XDG_RUNTIME_DIR="+run), Stderr: &stderr,
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := endDaemon(filepath.Join(run, "mirrord")); err != nil {
			t.Error(err)
		}
	}()
	conn, err := silent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	// On a busy machine it may have told what it waits for.
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 130 || !strings.HasSuffix(stderr.String(), "mirrord: cancelled\n") {
		t.Errorf("%v, said %q", err, stderr.String())
	}
	buf := make([]byte, 1<<16)
	for { // until the daemon gives the agent up
		if _, err := conn.Read(buf); err != nil {
			break
		}
	}
}
