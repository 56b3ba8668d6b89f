package session

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"mirrord/protocol/ide"
)

// state waits until a process is in a state.
func state(t *testing.T, pid int, want string) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(time.Millisecond) {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(string(stat), ") "+want+" ") {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("state is not %s: %s", want, stat)
		}
	}
}

// The target stands still until the last session that wants it ends, or its
// configuration says otherwise.
func TestTargetIsPaused(t *testing.T) {
	target := exec.Command("sleep", "1000")
	if err := target.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { target.Process.Kill(); target.Wait() })
	pid := target.Process.Pid
	m, dir := manager(t), t.TempDir()
	p := ide.SessionStartParams{
		Client: ide.Client{Dir: dir}, ConfigFile: filepath.Join(dir, "mirrord.json"),
		Overrides: ide.Overrides{Agent: agentAddress(t, "--pid", fmt.Sprint(pid))},
	}
	pause := func(on bool) {
		t.Helper()
		if err := os.WriteFile(p.ConfigFile, fmt.Appendf(nil, `{"feature": {"pause": %v, "fs": "local"}}`, on), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	session := func() ide.Session {
		t.Helper()
		s, err := m.Start(t.Context(), p, func(string) {})
		if err != nil {
			t.Fatal(err)
		}
		state(t, pid, "t")
		return s
	}
	pause(true)
	first, second := session(), session()
	if err := m.Stop(t.Context(), first.ID); err != nil {
		t.Fatal(err)
	}
	state(t, pid, "t")
	for _, on := range []bool{false, true} {
		pause(on)
		if _, err := m.Restart(t.Context(), ide.SessionRestartParams{ID: second.ID, Client: p.Client}); err != nil {
			t.Fatal(err)
		}
		state(t, pid, map[bool]string{true: "t", false: "S"}[on])
	}
	if err := m.Stop(t.Context(), second.ID); err != nil {
		t.Fatal(err)
	}
	state(t, pid, "S")
}

// There is no session with what cannot be paused.
func TestTargetIsTraced(t *testing.T) {
	m, dir := manager(t), t.TempDir()
	pid := traced(t)
	file := filepath.Join(dir, "mirrord.json")
	if err := os.WriteFile(file, []byte(`{"feature": {"pause": true, "fs": "local"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := m.Start(t.Context(), ide.SessionStartParams{
		Client: ide.Client{Dir: dir}, ConfigFile: file, Overrides: ide.Overrides{Agent: agentAddress(t, "--pid", fmt.Sprint(pid))},
	}, func(string) {})
	if want := fmt.Sprintf("is traced by process %d", os.Getpid()); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("error %v, want %q", err, want)
	}
	if list := m.List(); len(list) != 0 {
		t.Errorf("sessions left: %v", list)
	}
}
