package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// TestMain is also the daemon that the tests start: this binary, called as
// start calls it, with "build=X" for a daemon of another build.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "daemon" {
		if err := testDaemon(os.Args[2:]); err != nil {
			os.Exit(1)
		}
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

func testDaemon(args []string) error {
	if slices.Contains(args, Between) {
		return Again(os.Args[1:])
	}
	d := Daemon{Idle: time.Minute, Ready: ReadyFile(), New: func(_ *slog.Logger, dir string) (Manager, error) {
		return newFake(dir), nil
	}}
	for i, arg := range args {
		switch arg {
		case "--dir":
			d.Dir = args[i+1]
		case "short":
			d.Idle = 100 * time.Millisecond
		case "other":
			protocol.Build = "other"
		case "refuse":
			d.New = func(*slog.Logger, string) (Manager, error) { return nil, errors.New("refusing by order") }
		case "crash":
			os.Exit(3)
		}
	}
	return d.Run(context.Background())
}

// fake sessions: what a request asks for is in its target.
type fake struct {
	dir string

	mu       sync.Mutex
	sessions []ide.Session // guarded by mu
	released chan string
	waiting  chan struct{}
}

func newFake(dir string) *fake {
	return &fake{dir: dir, released: make(chan string, 16), waiting: make(chan struct{}, 16)}
}

func (f *fake) Serve(ctx context.Context) error { <-ctx.Done(); return nil }
func (f *fake) LayerSocket() string             { return filepath.Join(f.dir, "layer.sock") }
func (f *fake) End()                            {}
func (f *fake) Close()                          {}

func (f *fake) Arm(_ context.Context, id string) error {
	if id != "" {
		return &ide.Error{Code: ide.CodeUsage, Msg: "arming: session " + id}
	}
	return nil
}

func (f *fake) Targets(_ context.Context, p ide.TargetListParams, tell func([]ide.Target)) (ide.TargetListResult, error) {
	r := ide.TargetListResult{Namespace: p.Client.Dir}
	for i := range 3 {
		part := []ide.Target{{Path: fmt.Sprintf("pod/%d", i)}}
		tell(part)
		r.Targets = append(r.Targets, part...)
	}
	return r, nil
}

func (f *fake) Contexts(context.Context, ide.TargetListParams) (ide.ContextsResult, error) {
	return ide.ContextsResult{}, errors.ErrUnsupported
}

func (f *fake) Namespaces(context.Context, ide.TargetListParams) (ide.NamespacesResult, error) {
	return ide.NamespacesResult{}, errors.ErrUnsupported
}

func (f *fake) Verify(p ide.ConfigVerifyParams) (ide.ConfigVerifyResult, error) {
	if p.ConfigFile == "" {
		return ide.ConfigVerifyResult{}, errors.New("no file")
	}
	return ide.ConfigVerifyResult{}, nil
}

func (f *fake) DefaultConfig() ide.ConfigDefaultResult { return ide.ConfigDefaultResult{} }
func (f *fake) Explain(context.Context, ide.ConfigExplainParams) (ide.ConfigExplainResult, error) {
	return ide.ConfigExplainResult{}, nil
}

func (f *fake) ListFiles(context.Context, ide.FileParams) (ide.FileListResult, error) {
	return ide.FileListResult{}, nil
}

func (f *fake) StatFile(_ context.Context, p ide.FileParams) (ide.FileEntry, error) {
	return ide.FileEntry{}, &ide.Error{Code: ide.CodeFile, Msg: "no " + p.Path, Errno: "ENOENT"}
}

func (f *fake) ReadFile(context.Context, ide.FileReadParams) (ide.FileReadResult, error) {
	return ide.FileReadResult{}, nil
}

func (f *fake) Start(ctx context.Context, p ide.SessionStartParams, progress func(string)) (ide.Session, error) {
	switch p.Overrides.Target {
	case "panic":
		panic("by order")
	case "error":
		return ide.Session{}, fmt.Errorf("starting: %w", &ide.Error{Code: ide.CodeTarget, Msg: "no such pod", Hint: "look"})
	case "wait":
		f.waiting <- struct{}{}
		<-ctx.Done()
		return ide.Session{}, ctx.Err()
	case "late": // it is there before the cancellation is noticed
		f.waiting <- struct{}{}
		<-ctx.Done()
	}
	for i := range 100 {
		progress(fmt.Sprint(i))
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := ide.Session{ID: fmt.Sprintf("s%d", len(f.sessions)), Target: p.Overrides.Target}
	f.sessions = append(f.sessions, s)
	return s, nil
}

func (f *fake) Launch(ctx context.Context, id string) (ide.Launch, error) {
	return ide.Launch{Hostname: id, Start: ide.SessionStartParams{ID: id, Client: ide.Client{Dir: "/"}}}, nil
}

func (f *fake) Restart(_ context.Context, p ide.SessionRestartParams) (ide.Session, error) {
	return ide.Session{ID: p.ID}, nil
}

func (f *fake) Events(ctx context.Context, p ide.SessionEventsParams, tell func(ide.SessionEvent)) error {
	for _, port := range []uint16{1, 2} {
		tell(ide.SessionEvent{Session: p.ID, Kind: ide.EventTaken, Port: port})
	}
	<-ctx.Done()
	return context.Cause(ctx)
}

func (f *fake) Serving(context.Context, ide.ServingParams) (ide.ServingResult, error) {
	return ide.ServingResult{}, nil
}

func (f *fake) Request(p ide.RequestParams) (ide.RequestResult, error) {
	return ide.RequestResult{Peer: p.ID, Port: uint16(p.Request), Done: p.Reveal}, nil
}

func (f *fake) Stop(ctx context.Context, id string) error { f.drop(id); return nil }

// Debug does what the session's id asks for.
func (f *fake) Debug(ctx context.Context, p ide.DebugStartParams, progress func(string)) (ide.Debug, error) {
	progress("starting")
	switch p.ID {
	case "none":
		return ide.Debug{}, &ide.Error{Code: ide.CodeSession, Msg: "no session", Hint: "look"}
	case "wait":
		f.waiting <- struct{}{}
		<-ctx.Done()
		f.released <- p.ID
		return ide.Debug{}, context.Cause(ctx)
	}
	return ide.Debug{Endpoint: p.Transport + ":" + p.Client.Dir, PID: 1}, nil
}

func (f *fake) List() []ide.Session {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.sessions)
}

func (f *fake) Holders(context.Context, ide.TargetListParams) (ide.HoldersResult, error) {
	return ide.HoldersResult{}, nil
}

func (f *fake) Release(id string, tied bool) {
	f.drop(id)
	if tied {
		id += ", tied"
	}
	f.released <- id
}

func (f *fake) drop(id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.sessions = slices.DeleteFunc(f.sessions, func(s ide.Session) bool { return s.ID == id })
}
