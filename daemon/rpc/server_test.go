package rpc

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// serveFake runs a server in this process and returns its directory.
func serveFake(t *testing.T) (*fake, string) {
	t.Helper()
	dir := t.TempDir()
	f := newFake(dir)
	l, err := listen(filepath.Join(dir, socketName))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	s := &server{log: slog.New(slog.DiscardHandler), sessions: f, layer: f.LayerSocket(), idle: time.Hour}
	go func() { done <- s.serve(ctx, l) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return f, dir
}

func dial(t *testing.T, dir string) *Client {
	t.Helper()
	c, err := Dial(t.Context(), dir, "test", nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func TestCalls(t *testing.T) {
	f, dir := serveFake(t)
	c := dial(t, dir)
	if c.Info.Build != protocol.Build || c.Info.Layer != f.LayerSocket() {
		t.Errorf("info %+v", c.Info)
	}
	var heard []string
	s, err := c.Start(t.Context(), ide.SessionStartParams{Overrides: ide.Overrides{Target: "pod/x"}}, func(m string) { heard = append(heard, m) })
	if err != nil || s.Target != "pod/x" {
		t.Fatalf("started %+v, %v", s, err)
	}
	if len(heard) != 100 || heard[99] != "99" {
		t.Errorf("progress %v", heard)
	}
	if l, err := c.Launch(t.Context(), s.ID); err != nil || l.Hostname != s.ID {
		t.Errorf("launch %+v, %v", l, err)
	}
	heard = nil
	d, err := c.Debug(t.Context(), ide.DebugStartParams{ID: s.ID, Client: ide.Client{Dir: "/src"}, Transport: "unix"}, func(m string) { heard = append(heard, m) })
	if want := (ide.Debug{Endpoint: "unix:/src", PID: 1}); d != want || err != nil {
		t.Errorf("debug %+v, %v", d, err)
	}
	if len(heard) != 1 || heard[0] != "starting" {
		t.Errorf("progress %v", heard)
	}
	var parts []string
	r, err := c.Targets(t.Context(), ide.TargetListParams{Client: ide.Client{Dir: "shop"}}, func(part []ide.Target) { parts = append(parts, part[0].Path) })
	if err != nil || len(r.Targets) != 3 || !slices.Equal(parts, []string{"pod/0", "pod/1", "pod/2"}) {
		t.Errorf("targets %+v in parts %q, %v", r, parts, err)
	}
	if list, err := c.Sessions(t.Context()); err != nil || len(list) != 1 {
		t.Errorf("sessions %v, %v", list, err)
	}
	if err := c.Shutdown(t.Context(), false); code(err) != ide.CodeBuild {
		t.Errorf("a busy daemon answers shutdown with %v", err)
	}
	c.Close()
	if id := <-f.released; id != s.ID {
		t.Errorf("released %s", id)
	}
}

func code(err error) int {
	if e, ok := errors.AsType[*ide.Error](err); ok {
		return e.Code
	}
	return 0
}

// Events come in their order, until nobody wants them any more.
func TestEvents(t *testing.T) {
	_, dir := serveFake(t)
	c := dial(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	var ports []uint16
	err := c.Events(ctx, ide.SessionEventsParams{ID: "5f3a9c21"}, func(e ide.SessionEvent) {
		if ports = append(ports, e.Port); len(ports) == 2 {
			cancel()
		}
	})
	if code(err) != ide.CodeCancelled || !slices.Equal(ports, []uint16{1, 2}) {
		t.Errorf("ports %v, %v", ports, err)
	}
}

// A request is asked for by its number, and shown as far as is said.
func TestRequest(t *testing.T) {
	_, dir := serveFake(t)
	r, err := dial(t, dir).Request(t.Context(), ide.RequestParams{ID: "5f3a9c21", Request: 7, Reveal: true})
	if err != nil || r.Peer != "5f3a9c21" || r.Port != 7 || !r.Done {
		t.Errorf("%+v, %v", r, err)
	}
}

// A session whose start is cancelled too late is only let go: somebody else may
// have it by the same id, also where the request would have tied it.
func TestCancelledTooLate(t *testing.T) {
	f, dir := serveFake(t)
	c := dial(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-f.waiting; cancel() }()
	_, err := c.Start(ctx, ide.SessionStartParams{Tied: true, Overrides: ide.Overrides{Target: "late"}}, func(string) {})
	if code(err) != ide.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
	if id := <-f.released; id != "s0" {
		t.Errorf("released %s", id)
	}
}

func TestFailures(t *testing.T) {
	f, dir := serveFake(t)
	c := dial(t, dir)
	start := func(ctx context.Context, target string) error {
		_, err := c.Start(ctx, ide.SessionStartParams{Overrides: ide.Overrides{Target: target}}, func(string) {})
		return err
	}
	err := start(t.Context(), "error")
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeTarget || e.Msg != "no such pod" || e.Hint != "look" {
		t.Errorf("error arrives as %#v", err)
	}
	if err := start(t.Context(), "panic"); code(err) != jsonrpc2.CodeInternalError {
		t.Errorf("panic arrives as %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-f.waiting; cancel() }()
	if err := start(ctx, "wait"); code(err) != ide.CodeCancelled {
		t.Errorf("cancelled: %v", err)
	}
	_, err = c.Debug(t.Context(), ide.DebugStartParams{ID: "none"}, func(string) {})
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeSession || e.Hint != "look" {
		t.Errorf("error arrives as %#v", err)
	}
	err = c.Call(t.Context(), ide.MethodFileStat, ide.FileParams{Path: "/x"}, nil)
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeFile || e.Errno != "ENOENT" || e.Hint != "" {
		t.Errorf("a file's error arrives as %#v", err)
	}
	if err := c.Call(t.Context(), "no/such", ide.Empty{}, nil); code(err) != jsonrpc2.CodeMethodNotFound {
		t.Errorf("unknown method: %v", err)
	}
	if err := c.Call(t.Context(), ide.MethodSessionStop, []int{1}, nil); code(err) != jsonrpc2.CodeInvalidParams {
		t.Errorf("wrong parameters: %v", err)
	}
	if err := start(t.Context(), "pod/y"); err != nil {
		t.Errorf("after all that: %v", err)
	}
}

// A client that is gone wants no answers any more.
func TestClientGoneMidRequest(t *testing.T) {
	f, dir := serveFake(t)
	c := dial(t, dir)
	failed := make(chan error, 2)
	go func() {
		_, err := c.Start(t.Context(), ide.SessionStartParams{Overrides: ide.Overrides{Target: "wait"}}, func(string) {})
		failed <- err
	}()
	go func() {
		_, err := c.Debug(t.Context(), ide.DebugStartParams{ID: "wait"}, func(string) {})
		failed <- err
	}()
	<-f.waiting
	<-f.waiting
	c.Close()
	if id := <-f.released; id != "wait" { // ends only when its context does
		t.Errorf("released %s", id)
	}
	for range 2 {
		if err := <-failed; !errors.Is(err, ErrGone) {
			t.Errorf("the client is told %v", err)
		}
	}
	if list, err := dial(t, dir).Sessions(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("afterwards %v, %v", list, err)
	}
}

// What is asked is answered yet when the daemon is told to end.
func TestEndMidRequest(t *testing.T) {
	f, dir := serveFake(t)
	c, other := dial(t, dir), dial(t, dir)
	started, heard, told := make(chan error, 1), make(chan error, 1), make(chan uint16, 2)
	go func() {
		_, err := c.Start(t.Context(), ide.SessionStartParams{Overrides: ide.Overrides{Target: "wait"}}, func(string) {})
		started <- err
	}()
	go func() {
		heard <- c.Events(t.Context(), ide.SessionEventsParams{}, func(e ide.SessionEvent) { told <- e.Port })
	}()
	<-f.waiting
	<-told
	if err := other.Shutdown(t.Context(), true); err != nil {
		t.Fatal(err)
	}
	if err := <-started; code(err) != ide.CodeCancelled || err.Error() != "the daemon ends" {
		t.Errorf("who starts a session is told %v", err)
	}
	if err := <-heard; err != nil {
		t.Errorf("who hears of events is told %v", err)
	}
	<-c.Gone()
}

// What is no request gets JSON-RPC's own answers, and the next message is read.
func TestMalformed(t *testing.T) {
	_, dir := serveFake(t)
	frame := func(body string) string { return fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body) }
	ask := `{"jsonrpc":"2.0","id":7,"method":"session/list"}`
	for _, test := range []struct {
		name, in string
		codes    []int64
	}{
		{"not JSON", frame(`{"id":`) + frame(ask), []int64{jsonrpc2.CodeParseError, codeNotInitialized}},
		{"no request", frame(`{"id":1}`) + frame(`[]`) + frame(`7`) + frame(ask),
			[]int64{jsonrpc2.CodeInvalidRequest, jsonrpc2.CodeInvalidRequest, jsonrpc2.CodeInvalidRequest, codeNotInitialized}},
		{"an answer to nothing", frame(`{"jsonrpc":"2.0","id":9,"result":1}`) + frame(ask), []int64{codeNotInitialized}},
		{"other header", "Content-Type: x\r\ncontent-length: " + fmt.Sprint(len(ask)) + "\r\n\r\n" + ask, []int64{codeNotInitialized}},
		{"no length", "Content-Type: x\r\n\r\n", []int64{jsonrpc2.CodeParseError}},
		{"huge", "Content-Length: 99999999999\r\n\r\n", []int64{jsonrpc2.CodeParseError}},
		{"negative", "Content-Length: -1\r\n\r\n", []int64{jsonrpc2.CodeParseError}},
		{"endless header", strings.Repeat("x", 2*maxHeader), []int64{jsonrpc2.CodeParseError}},
		{"cancel of nothing", frame(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":{"id":3}}`) +
			frame(`{"jsonrpc":"2.0","method":"$/cancelRequest","params":3}`) + frame(ask), []int64{codeNotInitialized}},
		{"cut", "Content-Length: 10\r\n\r\n{", nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			conn, err := net.Dial("unix", filepath.Join(dir, socketName))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if _, err := io.WriteString(conn, test.in); err != nil {
				t.Fatal(err)
			}
			if test.codes == nil {
				if err := conn.(*net.UnixConn).CloseWrite(); err != nil {
					t.Fatal(err)
				}
			}
			r := bufio.NewReader(conn)
			for _, want := range test.codes {
				if got := readCode(t, r); got != want {
					t.Errorf("answered %d, want %d", got, want)
				}
			}
		})
	}
	if _, err := dial(t, dir).Sessions(t.Context()); err != nil {
		t.Errorf("afterwards: %v", err)
	}
}

func readCode(t *testing.T, r *bufio.Reader) int64 {
	t.Helper()
	var answer struct {
		Error struct {
			Code int64 `json:"code"`
		} `json:"error"`
	}
	var raw json.RawMessage
	if err := (jsonrpc2.VSCodeObjectCodec{}).ReadObject(r, &raw); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(raw, &answer); err != nil {
		t.Fatal(err)
	}
	return answer.Error.Code
}

func TestOtherBuildIsRefused(t *testing.T) {
	_, dir := serveFake(t)
	for _, tt := range []struct {
		version int
		build   string
		words   string
	}{
		{ide.Version, protocol.Build, ""},
		{ide.Version, "", ""}, // an extension that takes the mirrord that is installed
		{ide.Version, "older", "the running daemon is build " + protocol.Build + ", this mirrord is build older, and 0 session(s) run in the daemon"},
		{ide.Version - 1, "", fmt.Sprintf(`client "emacs 0.1" speaks version %d of this protocol, the daemon speaks version %d`, ide.Version-1, ide.Version)},
		{ide.Version + 1, "newer", fmt.Sprintf(`client "emacs 0.1" speaks version %d of this protocol, the daemon speaks version %d`, ide.Version+1, ide.Version)},
	} {
		c := dial(t, dir)
		var r ide.InitializeResult
		p := ide.InitializeParams{Version: tt.version, Build: tt.build, Client: "emacs 0.1"}
		if err := c.Call(t.Context(), ide.MethodInitialize, p, &r); err != nil || r.Version != ide.Version || r.Build != protocol.Build {
			t.Errorf("version %d, build %q: %+v, %v", tt.version, tt.build, r, err)
		}
		_, err := c.Sessions(t.Context())
		e, refused := errors.AsType[*ide.Error](err)
		if refused != (tt.words != "") || refused && (e.Code != ide.CodeBuild || e.Msg != tt.words || e.Hint == "") {
			t.Errorf("version %d, build %q: %v, want %q", tt.version, tt.build, err, tt.words)
		}
	}
}
