package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"mirrord/layer/keeper"
	"mirrord/layer/layertest"
	"mirrord/protocol/ide"
)

// An errand is what a launcher of its own is told, in launcherEnv.
type errand struct {
	Socket string
	Policy ide.Policy
	Dir    string
	Env    []string
	Argv   []string
}

// runLauncher is the command line's part.
func runLauncher() {
	keeper.NoteInherited()
	var e errand
	if err := json.Unmarshal([]byte(os.Getenv(launcherEnv)), &e); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	check := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	check(forbid(os.Getenv(forbidEnv), true))
	l, err := New()
	check(err)
	l.Prepare()
	_, err = l.keeper()
	check(err)
	check(forbid(os.Getenv(forbidEnv), false))
	exit, err := l.Run(context.Background(), slog.New(slog.DiscardHandler), Config{
		Argv: e.Argv, Env: e.Env, Dir: e.Dir, Policy: e.Policy, Hostname: "web-1",
		Addrs: []netip.Addr{layertest.Local, layertest.Local6}, Socket: e.Socket, Session: "test",
		Message: func(msg string) { fmt.Fprintln(os.Stderr, msg) },
	})
	l.Close()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code := 1
		if e, ok := errors.AsType[*Error](err); ok {
			code = e.Code
		}
		os.Exit(code)
	}
	exit.End()
}

// launcher makes a launcher process for a debuggee.
func (w *world) launcher(t testing.TB, argv ...string) *exec.Cmd {
	t.Helper()
	w.Settle()
	b, err := json.Marshal(errand{w.Socket, w.policy, w.dir, append(os.Environ(), w.env...), argv})
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), launcherEnv+"="+string(b))
	return cmd
}

func TestExit(t *testing.T) {
	w := newWorld(t)
	calls := build(t, "calls.c")
	for _, tt := range []struct {
		argv   []string
		code   int
		signal unix.Signal
		words  string
	}{
		{[]string{"true"}, 0, 0, ""},
		{[]string{"sh", "-c", "exit 7"}, 7, 0, ""},
		{[]string{calls, "die", "15"}, -1, unix.SIGTERM, ""},
		{[]string{calls, "die", "11"}, -1, unix.SIGSEGV, ""},
		{[]string{calls, "die", "9"}, -1, unix.SIGKILL, ""},
		{[]string{"no-such-command"}, 127, 0, "no-such-command: command not found\n"},
		{[]string{"./no-such-file"}, 127, 0, "./no-such-file: command not found\n"},
		{[]string{"/etc/passwd"}, 126, 0, "/etc/passwd: not executable\n"},
		{[]string{"/etc"}, 126, 0, "/etc: is a directory\n"},
		{[]string{"./empty"}, 126, 0, w.dir + "/empty: exec format error\n"},
		{[]string{"./interpreter"}, 127, 0, w.dir + "/interpreter: no such file or directory\n"},
	} {
		for name, text := range map[string]string{"empty": "\x7fnothing", "interpreter": "#!/no/such\n"} {
			if err := os.WriteFile(w.dir+"/"+name, []byte(text), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		cmd := w.launcher(t, tt.argv...)
		var stderr strings.Builder
		cmd.Stderr = &stderr
		_ = cmd.Run()
		ws := cmd.ProcessState.Sys().(syscall.WaitStatus)
		if cmd.ProcessState.ExitCode() != tt.code || tt.signal != 0 && ws.Signal() != tt.signal || ws.CoreDump() {
			t.Errorf("%q: %v, want code %d, signal %v", tt.argv, cmd.ProcessState, tt.code, tt.signal)
		}
		if stderr.String() != tt.words {
			t.Errorf("%q said %q, want %q", tt.argv, stderr.String(), tt.words)
		}
	}
}
