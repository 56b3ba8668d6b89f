package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

const cancelTime = 5 * time.Second // for the daemon to answer a cancelled request

// ErrNoDaemon is Dial's error where none runs and none was to be started.
var ErrNoDaemon = errors.New("no daemon runs")

// ErrBuild: the daemon that this binary starts is of another build than it.
var ErrBuild = errors.New("both must be of one build")

// A Client is a connection to the daemon. It is safe for concurrent use.
type Client struct {
	Info ide.InitializeResult

	dir string
	rpc *jsonrpc2.Conn

	mu       sync.Mutex
	last     uint64                             // guarded by mu; request or token number
	progress map[string]func(ide.ProgressValue) // guarded by mu; by token
	events   func(ide.SessionEvent)             // guarded by mu; nil: nobody has asked for them
}

// Dial connects to the daemon in runtime directory dir. name says who calls.
// command are the arguments of this binary that start a daemon where none of
// this build runs; nil: none is started.
func Dial(ctx context.Context, dir, name string, command []string) (*Client, error) {
	c, err := connect(ctx, dir, name)
	if err == nil && c.ours() {
		return c, nil
	}
	if command == nil {
		return c, err // whatever its build
	}
	if c != nil {
		c.Close()
	}
	l, err := waitLock(ctx, filepath.Join(dir, startLockName))
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	// Another client may have been quicker.
	c, err = connect(ctx, dir, name)
	switch {
	case err == nil && c.ours():
		return c, nil
	case err == nil:
		err := c.retire(ctx)
		c.Close()
		if err != nil {
			return nil, err
		}
	case !errors.Is(err, ErrNoDaemon):
		return nil, err
	}
	if err := start(ctx, dir, command); err != nil {
		return nil, err
	}
	c, err = connect(ctx, dir, name)
	if err == nil && !c.ours() {
		err = fmt.Errorf("starting the daemon: mirrord-full is build %s, and mirrord %s: %w", c.Info.Build, protocol.Build, ErrBuild)
		c.Close()
		return nil, err
	}
	return c, err
}

// FirstToken is that of the progress of Ask's request.
const FirstToken = "first"

// An Asked is a first request that Answer waits for.
type Asked struct {
	dial   func(ctx context.Context) (*Client, error)
	report func(message string)
	method string
	params any

	c               *Client // nil: it is not on its way
	greeting, first *call
}

// Ask is the beginning of Dial and of the first Call: where a daemon of this build
// runs, as nearly always, its request goes out with the greeting, and the daemon is
// at work when Ask returns. Its progress goes to report. Answer follows.
func Ask(ctx context.Context, dir, name string, command []string, report func(message string), method string, params any) *Asked {
	a := &Asked{
		dial:   func(ctx context.Context) (*Client, error) { return Dial(ctx, dir, name, command) },
		report: report, method: method, params: params,
	}
	c, greeting, err := begin(ctx, dir, name)
	if err != nil {
		return a
	}
	c.hear(FirstToken, messages(report))
	first, err := c.send(ctx, method, params)
	if err != nil {
		c.Close()
		return a
	}
	a.c, a.greeting, a.first = c, greeting, first
	return a
}

// Answer is the rest of Dial and of the first Call.
func (a *Asked) Answer(ctx context.Context, result any) (*Client, error) {
	if c := a.c; c != nil {
		// Else what the library has to find out about its type would be waited for.
		_ = json.Unmarshal([]byte("{}"), result)
		if c.greet(ctx, a.greeting) == nil && c.ours() {
			return c, c.wait(ctx, a.first, result)
		}
		c.Close() // it has refused the request, or is gone
	}
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	c.hear(FirstToken, messages(a.report))
	return c, c.Call(ctx, a.method, a.params, result)
}

func connect(ctx context.Context, dir, name string) (*Client, error) {
	c, greeting, err := begin(ctx, dir, name)
	if err == nil {
		err = c.greet(ctx, greeting)
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// begin connects and sends the greeting.
func begin(ctx context.Context, dir, name string) (*Client, *call, error) {
	conn, err := dialSocket(ctx, dir)
	if err != nil {
		return nil, nil, err
	}
	c := &Client{dir: dir, progress: map[string]func(ide.ProgressValue){}}
	c.rpc = jsonrpc2.NewConn(context.WithoutCancel(ctx), newStream(conn), c, quiet)
	greeting, err := c.send(ctx, ide.MethodInitialize, ide.InitializeParams{Version: ide.Version, Build: protocol.Build, Client: name})
	if err != nil {
		return nil, nil, c.ungreeted(err)
	}
	return c, greeting, nil
}

// greet waits for the daemon's greeting.
func (c *Client) greet(ctx context.Context, greeting *call) error {
	if err := c.wait(ctx, greeting, &c.Info); err != nil {
		return c.ungreeted(err)
	}
	return nil
}

func (c *Client) ungreeted(err error) error {
	c.Close()
	if errors.Is(err, ErrGone) { // it was about to end
		return ErrNoDaemon
	}
	return err
}

// dialSocket opens a connection; ErrNoDaemon: nobody listens.
func dialSocket(ctx context.Context, dir string) (*net.UnixConn, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", filepath.Join(dir, socketName))
	switch {
	case errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ECONNREFUSED):
		return nil, ErrNoDaemon
	case err != nil:
		return nil, fmt.Errorf("connecting to the daemon: %w", err)
	}
	c := conn.(*net.UnixConn)
	if err := samePeer(c); err != nil {
		c.Close()
		return nil, fmt.Errorf("connecting to the daemon: %w", err)
	}
	return c, nil
}

// WasKilled tells of a runtime directory without a daemon whether the last one was
// killed: launchers may be about to start another.
func WasKilled(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, socketName))
	return err == nil
}

func (c *Client) ours() bool {
	return c.Info.Build == protocol.Build && c.Info.Version == ide.Version
}

// retire ends a daemon of another build, unless it is busy.
func (c *Client) retire(ctx context.Context) error {
	busy := &ide.Error{Code: ide.CodeBuild, Hint: "end them, or `mirrord daemon stop --force` ends them all",
		Msg: fmt.Sprintf("the running daemon is build %s, this mirrord is build %s, and %d session(s) run in the daemon",
			c.Info.Build, protocol.Build, c.Info.Busy)}
	if c.Info.Busy > 0 {
		return busy
	}
	if err := c.Shutdown(ctx, false); err != nil {
		if e, ok := errors.AsType[*ide.Error](err); ok && e.Code == ide.CodeBuild {
			return busy
		}
		return err
	}
	return nil
}

// Ended waits for the end of a daemon that was shut down.
func (c *Client) Ended(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("it still runs after %v", startTimeout))
	defer cancel()
	l, err := waitLock(ctx, filepath.Join(c.dir, daemonLockName))
	if err != nil {
		return fmt.Errorf("ending the daemon: %w", err)
	}
	l.unlock()
	return nil
}

// Close ends the connection; sessions it started end unless a launcher holds them.
func (c *Client) Close() error { return c.rpc.Close() }

// Gone is closed when the connection has ended.
func (c *Client) Gone() <-chan struct{} { return c.rpc.DisconnectNotify() }

// ErrGone is wrapped by the errors of a Client whose daemon has ended.
var ErrGone = errors.New("the daemon ended the connection")

// Call sends a request and waits for its answer, which it decodes into result.
// When ctx ends first the request is cancelled in the daemon as well. The
// daemon's own errors are *ide.Error.
func (c *Client) Call(ctx context.Context, method string, params, result any) error {
	k, err := c.send(ctx, method, params)
	if err != nil {
		return err
	}
	return c.wait(ctx, k, result)
}

// A call is a request that waits for its answer.
type call struct {
	id     jsonrpc2.ID
	answer jsonrpc2.Waiter
}

func (c *Client) send(ctx context.Context, method string, params any) (*call, error) {
	id := jsonrpc2.ID{Num: c.number()}
	w, err := c.rpc.DispatchCall(ctx, method, params, jsonrpc2.PickID(id))
	if err != nil {
		return nil, c.failed(err)
	}
	return &call{id, w}, nil
}

func (c *Client) wait(ctx context.Context, k *call, result any) error {
	err := k.answer.Wait(ctx, result)
	if err == nil || ctx.Err() == nil {
		return c.failed(err)
	}
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), cancelTime)
	defer cancel()
	if c.rpc.Notify(after, ide.MethodCancel, ide.CancelParams{ID: k.id}) == nil {
		_ = k.answer.Wait(after, nil) // whatever it was, nobody wants it any more
	}
	return &ide.Error{Code: ide.CodeCancelled, Msg: "cancelled", Err: context.Cause(ctx)}
}

func (c *Client) failed(err error) error {
	if errors.Is(err, jsonrpc2.ErrClosed) || errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) {
		return fmt.Errorf("asking the daemon: %w; see %s", ErrGone, filepath.Join(c.dir, logName))
	}
	return fromWire(err)
}

func (c *Client) number() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last++
	return c.last
}

// Handle takes the daemon's notifications, in their order.
func (c *Client) Handle(ctx context.Context, conn *jsonrpc2.Conn, req *jsonrpc2.Request) {
	if !req.Notif {
		// An error means that the connection is gone, which Call will tell.
		_ = conn.ReplyWithError(ctx, req.ID, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: "clients answer nothing"})
		return
	}
	if req.Params == nil {
		return
	}
	var p ide.Progress
	var e ide.SessionEvent
	switch {
	case req.Method == ide.MethodProgress && json.Unmarshal(*req.Params, &p) == nil:
		c.mu.Lock()
		report := c.progress[p.Token]
		c.mu.Unlock()
		if report != nil {
			report(p.Value)
		}
	case req.Method == ide.MethodSessionEvent && json.Unmarshal(*req.Params, &e) == nil:
		c.mu.Lock()
		tell := c.events
		c.mu.Unlock()
		if tell != nil {
			tell(e)
		}
	}
}

// Events hands what happens in a session, or without its ID in all of them, to
// tell, one after the other, until the session has ended or ctx is done. One call
// of it at a time has a client.
func (c *Client) Events(ctx context.Context, p ide.SessionEventsParams, tell func(ide.SessionEvent)) error {
	c.mu.Lock()
	c.events = tell
	c.mu.Unlock()
	return c.Call(ctx, ide.MethodSessionEvents, p, nil)
}

// Request asks for a request that was told of.
func (c *Client) Request(ctx context.Context, p ide.RequestParams) (r ide.RequestResult, err error) {
	err = c.Call(ctx, ide.MethodSessionRequest, p, &r)
	return r, err
}

// Serving asks which request a stopped thread serves.
func (c *Client) Serving(ctx context.Context, p ide.ServingParams) (r ide.ServingResult, err error) {
	err = c.Call(ctx, ide.MethodSessionServing, p, &r)
	return r, err
}

// Restart has a session's configuration read again.
func (c *Client) Restart(ctx context.Context, p ide.SessionRestartParams) (s ide.Session, err error) {
	err = c.Call(ctx, ide.MethodRestart, p, &s)
	return s, err
}

// Start starts a session and reports what it is doing meanwhile.
func (c *Client) Start(ctx context.Context, p ide.SessionStartParams, report func(message string)) (s ide.Session, err error) {
	token, done := c.reportTo(messages(report))
	defer done()
	p.Progress = token
	err = c.Call(ctx, ide.MethodSessionStart, p, &s)
	return s, err
}

// Debug starts a debug session, whose endpoint takes one DAP client.
func (c *Client) Debug(ctx context.Context, p ide.DebugStartParams, report func(message string)) (d ide.Debug, err error) {
	token, done := c.reportTo(messages(report))
	defer done()
	p.Progress = token
	err = c.Call(ctx, ide.MethodDebugStart, p, &d)
	return d, err
}

// Targets lists what can be a session's target. What is found goes to part at
// once, unless that is nil.
func (c *Client) Targets(ctx context.Context, p ide.TargetListParams, part func([]ide.Target)) (r ide.TargetListResult, err error) {
	if part != nil {
		token, done := c.reportTo(func(v ide.ProgressValue) {
			if len(v.Targets) > 0 {
				part(v.Targets)
			}
		})
		defer done()
		p.Progress = token
	}
	err = c.Call(ctx, ide.MethodTargetList, p, &r)
	return r, err
}

// messages hands on those of a progress.
func messages(report func(message string)) func(ide.ProgressValue) {
	return func(v ide.ProgressValue) {
		if v.Message != "" {
			report(v.Message)
		}
	}
}

// reportTo returns a token whose progress goes to report until done is called.
func (c *Client) reportTo(report func(ide.ProgressValue)) (token string, done func()) {
	token = strconv.FormatUint(c.number(), 10)
	c.hear(token, report)
	return token, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.progress, token)
	}
}

func (c *Client) hear(token string, report func(ide.ProgressValue)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress[token] = report
}

// Launch asks for what a launcher needs.
func (c *Client) Launch(ctx context.Context, id string) (l ide.Launch, err error) {
	err = c.Call(ctx, ide.MethodSessionLaunch, ide.SessionID{ID: id}, &l)
	return l, err
}

// Stop ends a session.
func (c *Client) Stop(ctx context.Context, id string) error {
	return c.Call(ctx, ide.MethodSessionStop, ide.SessionID{ID: id}, nil)
}

// Arm has a session, or without an id all, steal one more request.
func (c *Client) Arm(ctx context.Context, id string) error {
	return c.Call(ctx, ide.MethodSessionArm, ide.SessionID{ID: id}, nil)
}

// Sessions lists those that run.
func (c *Client) Sessions(ctx context.Context) ([]ide.Session, error) {
	var r ide.SessionListResult
	err := c.Call(ctx, ide.MethodSessionList, ide.Empty{}, &r)
	return r.Sessions, err
}

// Shutdown ends the daemon and waits until its connection is gone.
func (c *Client) Shutdown(ctx context.Context, force bool) error {
	if err := c.Call(ctx, ide.MethodShutdown, ide.ShutdownParams{Force: force}, nil); err != nil {
		return err
	}
	select {
	case <-c.Gone():
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
