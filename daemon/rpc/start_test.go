package rpc

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// daemonDir is a runtime directory whose daemon ends with the test.
func daemonDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	t.Cleanup(func() {
		c, err := Dial(context.Background(), dir, "test", nil)
		if err == nil {
			err = c.Shutdown(context.Background(), true)
			c.Close()
		}
		if err != nil && !errors.Is(err, ErrNoDaemon) {
			t.Error(err)
		}
		waitEnd(t, dir)
	})
	return dir
}

// waitEnd waits until no daemon has dir any more. A test's own context has
// ended when its cleanup runs.
func waitEnd(t *testing.T, dir string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	l, err := waitLock(ctx, filepath.Join(dir, daemonLockName))
	if err != nil {
		t.Fatal(err)
	}
	l.unlock()
}

func start1(t *testing.T, dir string, command ...string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), dir, "test", append([]string{"daemon"}, command...))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestRacingStartersShareOneDaemon(t *testing.T) {
	dir := daemonDir(t)
	pids := make([]int, 8)
	var wg sync.WaitGroup
	for i := range pids {
		wg.Go(func() {
			c, err := Dial(t.Context(), dir, "test", []string{"daemon"})
			if err != nil {
				t.Error(err)
				return
			}
			pids[i] = c.Info.PID
			c.Close()
		})
	}
	wg.Wait()
	for _, pid := range pids {
		if pid != pids[0] || pid == 0 || pid == os.Getpid() {
			t.Errorf("daemons %v", pids)
			break
		}
	}
	if cwd, err := os.Readlink(fmt.Sprintf("/proc/%d/cwd", pids[0])); err != nil || cwd != "/" {
		t.Errorf("the daemon's directory is %s, %v", cwd, err)
	}
	if info, err := os.Stat(filepath.Join(dir, socketName)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the socket is %v, %v", info.Mode(), err)
	}
}

func TestIdleDaemonOfAnotherBuildIsReplaced(t *testing.T) {
	dir := daemonDir(t)
	// Its own build is "other", so the client sees it is not its own.
	old := dialOther(t, dir)
	if old.Info.Build != "other" {
		t.Fatalf("build %s", old.Info.Build)
	}
	old.Close()
	if c := start1(t, dir); c.Info.Build != protocol.Build || c.Info.PID == old.Info.PID {
		t.Errorf("got %+v", c.Info)
	}
}

// A first call finds no daemon, one of another build, and one of its own.
func TestFirstCall(t *testing.T) {
	dir := daemonDir(t)
	first := func(what string) {
		heard := 0
		var l ide.Launch
		c, err := Ask(t.Context(), dir, "test", []string{"daemon"}, func(string) { heard++ }, ide.MethodSessionStart,
			ide.SessionStartParams{Launch: true, Progress: FirstToken}).Answer(t.Context(), &l)
		if c != nil {
			defer c.Close()
		}
		if err != nil || c.Info.Build != protocol.Build || l.Hostname != "s0" || heard != 100 {
			t.Errorf("%s: %+v, %v, after %d messages", what, l, err, heard)
		}
		if l.Start.ID != "s0" || l.Start.Client.Dir != "" { // who asked knows itself
			t.Errorf("%s: it is started again by %+v", what, l.Start)
		}
	}
	dialOther(t, dir).Close()
	first("another's daemon")
	c := dial(t, dir)
	if err := c.Shutdown(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := c.Ended(t.Context()); err != nil {
		t.Fatal(err)
	}
	first("no daemon")
	c = dial(t, dir)
	for { // what the fake's session is called tells how many there are
		if list, err := c.Sessions(t.Context()); err != nil {
			t.Fatal(err)
		} else if len(list) == 0 {
			break
		}
	}
	first("its own daemon")
	asked := Ask(t.Context(), dir, "test", nil, func(string) {}, ide.MethodSessionStart, ide.SessionStartParams{Overrides: ide.Overrides{Target: "error"}})
	c, err := asked.Answer(t.Context(), new(ide.Session))
	if c != nil {
		c.Close()
	}
	if code(err) != ide.CodeTarget {
		t.Errorf("an error arrives as %v", err)
	}
}

// dialOther starts a daemon of build "other" and connects as one of its build.
func dialOther(t *testing.T, dir string) *Client {
	t.Helper()
	if err := start(t.Context(), dir, []string{"daemon", "other"}); err != nil {
		t.Fatal(err)
	}
	c := dial(t, dir)
	p := ide.InitializeParams{Version: ide.Version, Build: "other", Client: "test"}
	if err := c.Call(t.Context(), ide.MethodInitialize, p, nil); err != nil {
		t.Fatal(err)
	}
	return c
}

func TestBusyDaemonOfAnotherBuildIsNamed(t *testing.T) {
	dir := daemonDir(t)
	old := dialOther(t, dir)
	if _, err := old.Start(t.Context(), ide.SessionStartParams{}, func(string) {}); err != nil {
		t.Fatal(err)
	}
	_, err := Dial(t.Context(), dir, "test", []string{"daemon"})
	if code(err) != ide.CodeBuild || !strings.Contains(err.Error(), "build other") {
		t.Errorf("got %v", err)
	}
}

func TestDaemonThatCannotStart(t *testing.T) {
	dir := t.TempDir()
	_, err := Dial(t.Context(), dir, "test", []string{"daemon", "refuse"})
	if err == nil || !strings.HasSuffix(err.Error(), "refusing by order") {
		t.Errorf("got %v", err)
	}
	if _, err = Dial(t.Context(), dir, "test", []string{"daemon", "crash"}); err == nil || !strings.Contains(err.Error(), "ended before it was ready") {
		t.Errorf("got %v", err)
	}
	if _, err = Dial(t.Context(), dir, "test", nil); !errors.Is(err, ErrNoDaemon) {
		t.Errorf("got %v", err)
	}
}

func TestIdleDaemonEnds(t *testing.T) {
	dir := t.TempDir()
	c, err := Dial(t.Context(), dir, "test", []string{"daemon", "short"})
	if err == nil {
		c.Close()
	} else if !errors.Is(err, ErrNoDaemon) { // its time may be over already
		t.Fatal(err)
	}
	waitEnd(t, dir)
	if _, err := Dial(t.Context(), dir, "test", nil); !errors.Is(err, ErrNoDaemon) {
		t.Error(err)
	}
}

// What a killed daemon leaves is in nobody's way.
func TestKilledDaemon(t *testing.T) {
	dir := daemonDir(t)
	c := start1(t, dir)
	p, err := os.FindProcess(c.Info.PID)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	<-c.Gone()
	if _, err := c.Sessions(t.Context()); !errors.Is(err, ErrGone) {
		t.Errorf("a call to the dead: %v", err)
	}
	start1(t, dir)
}

func TestForegroundDaemonIsTheOnlyOne(t *testing.T) {
	dir := daemonDir(t)
	c := start1(t, dir)
	err := Daemon{Dir: dir, Stderr: io.Discard}.Run(t.Context())
	if want := fmt.Sprintf("a daemon runs already in %s (process %d)", dir, c.Info.PID); err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

func TestBridge(t *testing.T) {
	dir := daemonDir(t)
	r, w := io.Pipe()
	answers, out := io.Pipe()
	done := make(chan error)
	go func() { done <- Bridge(t.Context(), dir, []string{"daemon"}, r, out) }()
	body := `{"jsonrpc":"2.0","id":1,"method":"initialize","params":{}}`
	if _, err := fmt.Fprintf(w, "Content-Length: %d\r\n\r\n%s", len(body), body); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		Result ide.InitializeResult `json:"result"`
	}
	if err := (jsonrpc2.VSCodeObjectCodec{}).ReadObject(bufio.NewReader(answers), &answer); err != nil || answer.Result.PID == 0 {
		t.Errorf("answered %+v, %v", answer, err)
	}
	w.Close()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestRuntimeDir(t *testing.T) {
	base := t.TempDir()
	dir, err := RuntimeDir(base)
	if err != nil || dir != filepath.Join(base, "mirrord") {
		t.Fatalf("%s, %v", dir, err)
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(base); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	long := filepath.Join(base, strings.Repeat("x", 100))
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(long); err == nil {
		t.Error("a path too long for a socket is taken")
	}
	link := filepath.Join(base, "link")
	if err := os.Mkdir(link, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir, filepath.Join(link, "mirrord")); err != nil {
		t.Fatal(err)
	}
	if _, err := RuntimeDir(link); err == nil {
		t.Error("a link is taken for the directory")
	}
}

func TestLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), logName)
	l, err := openLog(path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	line := bytes.Repeat([]byte("x"), 1<<20)
	for range 10 {
		if _, err := l.Write(line); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{path, path + ".old"} {
		if info, err := os.Stat(p); err != nil || info.Size() > maxLog {
			t.Errorf("%s: %v, %v", p, info.Size(), err)
		}
	}
}

// A daemon that waits for its predecessor does not outlive the interest of who
// started it: whoever comes next starts another, which would wait behind it.
func TestUnwantedDaemonEnds(t *testing.T) {
	dir := t.TempDir()
	l, err := tryLock(filepath.Join(dir, daemonLockName))
	if err != nil {
		t.Fatal(err)
	}
	defer l.unlock()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	ended := make(chan error)
	go func() {
		_, err := Daemon{Dir: dir, Ready: w}.lock(t.Context())
		ended <- err
	}()
	r.Close()
	if err := <-ended; !errors.Is(err, errUnwanted) {
		t.Errorf("lock = %v", err)
	}
}
