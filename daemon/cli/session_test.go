package cli

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// A fake is a daemon's manager with these sessions.
type fake struct {
	rpc.Manager // unused methods
	list        []ide.Session
	asked       func() // for events
}

func (f *fake) Serve(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fake) LayerSocket() string             { return "" }
func (f *fake) List() []ide.Session             { return f.list }
func (f *fake) Events(ctx context.Context, _ ide.SessionEventsParams, tell func(ide.SessionEvent)) error {
	for _, s := range f.list {
		tell(ide.SessionEvent{Kind: ide.EventStarted, Session: s.ID})
	}
	if f.asked != nil {
		f.asked()
	}
	<-ctx.Done()
	return context.Cause(ctx)
}
func (f *fake) End()   {}
func (f *fake) Close() {}

// serve runs a daemon of sessions for the commands of a test.
func serve(t *testing.T, list ...ide.Session) { serveFake(t, &fake{list: list}) }

func serveFake(t *testing.T, f *fake) {
	t.Helper()
	run := t.TempDir()
	t.Setenv("XDG_RUNTIME_DIR", run)
	dir := filepath.Join(run, "mirrord")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	d := rpc.Daemon{Dir: dir, Idle: time.Hour, Ready: w, New: func(*slog.Logger, string) (rpc.Manager, error) { return f, nil }}
	go func() { done <- d.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	if b, err := io.ReadAll(r); err != nil || string(b) != "ready" {
		t.Fatalf("the daemon says %q, %v", b, err)
	}
}

func output(t *testing.T, args ...string) string {
	t.Helper()
	var out bytes.Buffer
	cmd := command(&Full{}, nil)
	cmd.SetArgs(args)
	cmd.SetOut(&out)
	cmd.SetErr(io.Discard)
	if err := cmd.Execute(); err != nil {
		t.Errorf("%q: %v", args, err)
	}
	return out.String()
}

// What follows a session goes on where that is again, until its user has had enough.
func TestFollow(t *testing.T) {
	asked := make(chan struct{}, 1)
	serveFake(t, &fake{list: []ide.Session{{ID: "1f2e3d4c"}}, asked: func() { asked <- struct{}{} }})
	times := 0
	goesOn := func(ctx context.Context, id string) error {
		c, err := dialRunning(ctx)
		if err != nil {
			t.Fatal(err)
		}
		times = 0
		return follow(ctx, io.Discard, c, id, func(c *rpc.Client) error {
			if times++; times == 1 {
				return fmt.Errorf("as when it was killed: %w", rpc.ErrGone)
			}
			_, err := c.Sessions(ctx)
			return err
		})
	}
	if err := goesOn(t.Context(), ""); err != nil || times != 2 {
		t.Errorf("with all sessions: done %d times, %v", times, err)
	}
	if err := goesOn(t.Context(), "1f2e3d4c"); err != nil || times != 2 {
		t.Errorf("with one that is there again: done %d times, %v", times, err)
	}
	<-asked
	ctx, interrupt := context.WithCancel(t.Context())
	go func() {
		<-asked
		interrupt()
	}()
	if err := goesOn(ctx, "00000000"); err != nil || times != 1 || ctx.Err() == nil {
		t.Errorf("with one that is not, until it is interrupted: done %d times, %v", times, err)
	}
}

func TestSessions(t *testing.T) {
	serve(t,
		ide.Session{ID: "1f2e3d4c", Target: "pod/web-1 in shop", Started: "2026-11-23T12:00:00Z", Launchers: 2, Stopped: 1, Ports: []uint16{8080}, Steals: true},
		ide.Session{ID: "2f2e3d4c", Target: "pod/web-1 in shop", Started: "2026-11-23T12:00:00Z", Ports: []uint16{8080}, Filter: "path ^/a", Once: true, Paused: true, Replicas: []string{"web-1", "web-2"}},
		ide.Session{ID: "3f2e3d4c", Target: "pod/web-1 in shop", Started: "2026-11-23T12:00:00Z", Launchers: 1, Steals: true, Once: true, Filter: "path ^/a"},
		ide.Session{ID: "5f3a9c21", Target: "targetless in shop", Started: "2026-11-23T12:00:01Z"})
	const offered = "1f2e3d4c\tpod/web-1 in shop\n2f2e3d4c\tpod/web-1 in shop\n3f2e3d4c\tpod/web-1 in shop\n5f3a9c21\ttargetless in shop\n:4\n"
	for _, tt := range []struct {
		args []string
		want string
	}{
		{[]string{"session", "ls"}, `ID         TARGET                                  STARTED                PROCESSES       PORTS
1f2e3d4c   pod/web-1 in shop                       2026-11-23T12:00:00Z   2 (1 stopped)   8080 stolen
2f2e3d4c   pod/web-1 in shop and 1 more (paused)   2026-11-23T12:00:00Z   0               8080 one request stolen by path ^/a
3f2e3d4c   pod/web-1 in shop                       2026-11-23T12:00:00Z   1               none yet, to be stolen once by path ^/a
5f3a9c21   targetless in shop                      2026-11-23T12:00:01Z   0               none
`},
		{[]string{"session", "ls", "-o", "json"}, `{
  "sessions": [
    {
      "id": "1f2e3d4c",
      "target": "pod/web-1 in shop",
      "started": "2026-11-23T12:00:00Z",
      "launchers": 2,
      "stopped": 1,
      "ports": [
        8080
      ],
      "steals": true
    },
    {
      "id": "2f2e3d4c",
      "target": "pod/web-1 in shop",
      "started": "2026-11-23T12:00:00Z",
      "launchers": 0,
      "ports": [
        8080
      ],
      "replicas": [
        "web-1",
        "web-2"
      ],
      "filter": "path ^/a",
      "once": true,
      "paused": true
    },
    {
      "id": "3f2e3d4c",
      "target": "pod/web-1 in shop",
      "started": "2026-11-23T12:00:00Z",
      "launchers": 1,
      "steals": true,
      "filter": "path ^/a",
      "once": true
    },
    {
      "id": "5f3a9c21",
      "target": "targetless in shop",
      "started": "2026-11-23T12:00:01Z",
      "launchers": 0
    }
  ]
}
`},
		{[]string{"__complete", "session", "stop", ""}, offered},
		{[]string{"__complete", "session", "stop", "1f2e3d4c", ""}, ":4\n"},
		{[]string{"__complete", "exec", "--session", ""}, offered},
		{[]string{"__complete", "dlv", "--session", ""}, offered},
	} {
		if got := output(t, tt.args...); got != tt.want {
			t.Errorf("%q printed\n%s, want\n%s", tt.args, got, tt.want)
		}
	}
}
