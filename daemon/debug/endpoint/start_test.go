package endpoint

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
)

// TestMain is also the launcher that Start starts: what it does is its session's
// name.
func TestMain(m *testing.M) {
	if len(os.Args) == 7 && os.Args[1] == "dlv" {
		os.Exit(launcher(strings.TrimPrefix(os.Args[3], "--session="), os.Args[5:]))
	}
	goleak.VerifyTestMain(m)
}

func launcher(session string, args []string) int {
	switch session {
	case "refuses":
		_ = Say(os.Stdout, Words{Failed: &ide.Error{Code: ide.CodeSession, Msg: "no session", Hint: "look"}})
		return 125
	case "dies":
		fmt.Fprintln(os.Stderr, "last words")
		return 3
	case "mumbles":
		fmt.Println("ready, I think")
	case "hangs":
		fmt.Fprintln(os.Stderr, "hanging")
		select {}
	case "serves":
		return Main(args, nil, func(c net.Conn, over <-chan struct{}) {
			fmt.Println("printed")
			_, _ = c.Write(frame([]byte(os.Getenv("NAME") + os.Getenv("MIRRORD_LAUNCHER"))))
			_, _ = io.Copy(io.Discard, c)
		})
	case "is killed":
		return Main(args, nil, func(c net.Conn, over <-chan struct{}) { _ = unix.Kill(os.Getpid(), unix.SIGKILL) })
	}
	return 0
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// shortDir is a runtime directory; t.TempDir may be too long for a socket's path.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "mirrord")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

// left lists the sockets in a runtime directory.
func left(t *testing.T, dir string) []string {
	t.Helper()
	list, err := filepath.Glob(filepath.Join(dir, socketPrefix+"*"))
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func TestStart(t *testing.T) {
	dir := shortDir(t)
	for _, transport := range []string{"", Unix, TCP} {
		p, err := Start(t.Context(), self(t), dir, ide.DebugStartParams{
			ID: "serves", Transport: transport, Client: ide.Client{Dir: "/", Env: []string{"NAME=value", "MIRRORD_LAUNCHER=7"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		Sweep(dir) // of another daemon: it lives
		c, in := dial(t, p.Endpoint)
		send(t, c, initialize)
		if got := receive(t, in); got != "value" {
			t.Errorf("%q: its environment has %q", transport, got)
		}
		c.Close()
		if err := p.Wait(); err == nil || err.Error() != "exit status 0" {
			t.Errorf("%q: it ends with %v", transport, err)
		}
		if list := left(t, dir); len(list) > 0 {
			t.Errorf("%q: left: %q", transport, list)
		}
	}
	log, err := os.ReadFile(filepath.Join(dir, ide.LogName))
	if err != nil || string(log) != "printed\nprinted\nprinted\n" {
		t.Errorf("the log has %q, %v", log, err)
	}
}

func TestStartFails(t *testing.T) {
	dir := shortDir(t)
	see := "see " + filepath.Join(dir, ide.LogName)
	for _, tt := range []struct {
		p     ide.DebugStartParams
		dir   string
		code  int
		words string
		hint  string
	}{
		{ide.DebugStartParams{ID: "refuses"}, dir, ide.CodeSession, "no session", "look"},
		{ide.DebugStartParams{ID: "dies"}, dir, 0, "starting the debugger: it ended before it was ready: exit status 3", see},
		{ide.DebugStartParams{ID: "mumbles"}, dir, 0, "starting the debugger: invalid character 'r' looking for beginning of value", see},
		{ide.DebugStartParams{ID: "serves", Transport: "pipe"}, dir, ide.CodeParams, `transport: "pipe" is none of unix, tcp`, ""},
		{ide.DebugStartParams{ID: "serves", Client: ide.Client{Dir: "relative"}}, dir, ide.CodeParams, `client.dir: "relative": it is not an absolute path`, "name the directory that the program is to be built in"},
		{ide.DebugStartParams{ID: "serves", Client: ide.Client{Dir: "/no/such"}}, dir, ide.CodeParams, `client.dir: "/no/such": stat /no/such: no such file or directory`, "name the directory that the program is to be built in"},
		{ide.DebugStartParams{ID: "serves"}, "/" + strings.Repeat("d", 97), ide.CodeUnsupported, "starting the debugger: the path of its socket, /" + strings.Repeat("d", 97) + "/dap-######, has 109 bytes, 107 is the limit",
			"use transport tcp, or a shorter XDG_RUNTIME_DIR"},
	} {
		if tt.p.Client.Dir == "" {
			tt.p.Client.Dir = "/"
		}
		_, err := Start(t.Context(), self(t), tt.dir, tt.p)
		e, ok := errors.AsType[*ide.Error](err)
		if !ok || e.Code != tt.code || masked(e.Msg) != tt.words || e.Hint != tt.hint {
			t.Errorf("%s: %#v", tt.p.ID, err)
		}
		if list := left(t, dir); len(list) > 0 {
			t.Errorf("%s: left: %q", tt.p.ID, list)
		}
	}
}

// masked hides the random part of a socket's name.
func masked(s string) string {
	before, after, ok := strings.Cut(s, "/"+socketPrefix)
	if !ok {
		return s
	}
	return before + "/" + socketPrefix + "######" + after[2*socketBytes:]
}

// A start that nobody wants any more leaves no process.
func TestStartIsCancelled(t *testing.T) {
	dir := shortDir(t)
	log := filepath.Join(dir, ide.LogName)
	if err := unix.Mkfifo(log, 0o600); err != nil { // tells when it hangs
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the client is gone")
	go func() {
		f, err := os.Open(log)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		_, _ = f.Read(make([]byte, 10))
		cancel(why)
	}()
	if _, err := Start(ctx, self(t), dir, ide.DebugStartParams{ID: "hangs", Client: ide.Client{Dir: "/"}}); !errors.Is(err, why) {
		t.Errorf("it fails with %v", err)
	}
	if err := unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %v", err)
	}
}

// A socket of who was killed goes, with the daemon that started it or the next.
func TestSweep(t *testing.T) {
	dir := shortDir(t)
	start := func() *Process {
		p, err := Start(t.Context(), self(t), dir, ide.DebugStartParams{ID: "is killed", Client: ide.Client{Dir: "/"}})
		if err != nil {
			t.Fatal(err)
		}
		c, in := dial(t, p.Endpoint)
		send(t, c, initialize)
		if b, err := in.ReadByte(); err == nil {
			t.Errorf("who was killed says %q", b)
		}
		if err := unix.Waitid(unix.P_PID, p.PID, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
			t.Fatal(err)
		}
		return p
	}
	_ = start().Wait()
	if list := left(t, dir); len(list) > 0 {
		t.Errorf("the daemon left %q", list)
	}
	p := start()
	if list := left(t, dir); len(list) != 1 {
		t.Errorf("%q is left", list)
	}
	other := filepath.Join(dir, "place")
	if err := os.WriteFile(other, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Sweep(dir)
	if list := left(t, dir); len(list) > 0 {
		t.Errorf("the next daemon left %q", list)
	}
	if _, err := os.Stat(other); err != nil {
		t.Error(err)
	}
	_ = p.Wait()
}

func TestCommandLine(t *testing.T) {
	for args, want := range map[string]bool{"endpoint unix:/x": true, "endpoint": false, "endpoint a b": false, "dap --listen=:1": false, "": false} {
		if got := Is(strings.Fields(args)); got != want {
			t.Errorf("%q is ours: %v", args, got)
		}
	}
	path := filepath.Join(t.TempDir(), "dap")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	Remove([]string{Command, TCP + ":"})
	Remove([]string{Command, Unix + ":" + path})
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("it is left: %v", err)
	}
	if env := environ(nil); env == nil || slices.Contains(environ([]string{"MIRRORD_LAUNCHER=1", "A=b"}), "MIRRORD_LAUNCHER=1") {
		t.Error("the environment is not the client's")
	}
}
