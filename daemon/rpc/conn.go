package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"runtime/debug"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sourcegraph/jsonrpc2"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

const (
	maxInFlight        = 64              // requests of one connection
	codeNotInitialized = -32002          // as in LSP
	answerTime         = 2 * time.Second // for requests to end when the daemon does
)

// quiet takes what jsonrpc2 would print on stderr.
var quiet = jsonrpc2.SetLogger(log.New(io.Discard, "", 0))

// A conn is one client. Its read loop hands each request to a goroutine, so
// that a slow one holds no other, and takes cancellations itself, so that none
// can overtake its request.
type conn struct {
	server *server
	log    *slog.Logger
	rpc    *jsonrpc2.Conn
	ready  chan struct{} // closed once rpc is set
	wg     sync.WaitGroup

	mu      sync.Mutex
	client  *ide.InitializeParams                   // guarded by mu; nil: not initialized
	cancels map[jsonrpc2.ID]context.CancelCauseFunc // guarded by mu; requests in flight
	started []started                               // guarded by mu; what to release
	closed  bool                                    // guarded by mu; no request is begun any more
}

// started is a session that a connection holds; tied: and ends.
type started struct {
	session string
	tied    bool
}

// serveConn answers c until it ends or ctx does, when what was asked is answered yet,
// and gives back what it held.
func serveConn(ctx context.Context, s *server, c net.Conn) {
	k := &conn{
		server: s, log: s.log,
		ready:   make(chan struct{}),
		cancels: map[jsonrpc2.ID]context.CancelCauseFunc{},
	}
	k.rpc = jsonrpc2.NewConn(context.WithoutCancel(ctx), newStream(c), k, quiet)
	close(k.ready)
	select {
	case <-k.rpc.DisconnectNotify():
		k.close(jsonrpc2.ErrClosed)
	case <-ctx.Done():
		k.close(errEnds)
		late := time.AfterFunc(answerTime, func() { k.rpc.Close() })
		defer late.Stop()
	}
	k.wg.Wait()
	k.rpc.Close()
	for _, held := range k.started { // no request is left to change it
		s.sessions.Release(held.session, held.tied)
	}
}

// Handle is called by the read loop, one message after the other.
func (k *conn) Handle(ctx context.Context, _ *jsonrpc2.Conn, req *jsonrpc2.Request) {
	<-k.ready
	if req.Notif {
		if req.Method == ide.MethodCancel {
			k.cancel(req)
		}
		return
	}
	ctx, cancel := context.WithCancelCause(ctx)
	if err := k.register(req.ID, cancel); err != nil {
		cancel(nil)
		k.answer(ctx, req.ID, nil, err)
		return
	}
	serve := func() {
		defer k.wg.Done()
		defer cancel(nil)
		result, after, err := k.call(ctx, req)
		if cause := context.Cause(ctx); err != nil && (cause == errCancelled || cause == errEnds) {
			err = cause
		}
		k.mu.Lock()
		delete(k.cancels, req.ID)
		k.mu.Unlock()
		k.answer(ctx, req.ID, result, err)
		if after != nil {
			after()
		}
	}
	if req.Method == ide.MethodInitialize { // what comes with it finds it done
		serve()
		return
	}
	go serve()
}

// close begins no request any more, and cancels those that are in flight.
func (k *conn) close(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.closed = true
	for _, cancel := range k.cancels {
		cancel(why)
	}
}

// register notes a request in flight, for which wg then waits.
func (k *conn) register(id jsonrpc2.ID, cancel context.CancelCauseFunc) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return jsonrpc2.ErrClosed
	}
	if _, ok := k.cancels[id]; ok {
		return &jsonrpc2.Error{Code: jsonrpc2.CodeInvalidRequest, Message: fmt.Sprintf("request %s is still being answered", id)}
	}
	if len(k.cancels) >= maxInFlight {
		return &jsonrpc2.Error{Code: jsonrpc2.CodeInvalidRequest, Message: fmt.Sprintf("more than %d requests at once", maxInFlight)}
	}
	k.cancels[id] = cancel
	k.wg.Add(1)
	return nil
}

func (k *conn) cancel(req *jsonrpc2.Request) {
	var p struct {
		ID jsonrpc2.ID `json:"id"`
	}
	if req.Params == nil || json.Unmarshal(*req.Params, &p) != nil {
		return // a notification has no answer
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if cancel, ok := k.cancels[p.ID]; ok {
		cancel(errCancelled)
	}
}

// call runs a request's method. A panic of it is that request's failure only.
func (k *conn) call(ctx context.Context, req *jsonrpc2.Request) (result any, after func(), err error) {
	defer func() {
		if r := recover(); r != nil {
			k.log.Error("request panics", "op", req.Method, "err", fmt.Sprint(r), "stack", string(debug.Stack()))
			err = fmt.Errorf("answering %s: mirrord has a bug: %v", req.Method, r)
		}
	}()
	m, ok := methods[req.Method]
	if !ok {
		return nil, nil, &jsonrpc2.Error{Code: jsonrpc2.CodeMethodNotFound, Message: fmt.Sprintf("no method %q", req.Method)}
	}
	if err := k.permit(req.Method); err != nil {
		return nil, nil, err
	}
	params := json.RawMessage("{}")
	if req.Params != nil {
		params = *req.Params
	}
	return m(k, ctx, params)
}

// permit lets only clients of our own version, and build if they have one, past
// initialize, but for daemon/shutdown.
func (k *conn) permit(method string) error {
	if method == ide.MethodInitialize {
		return nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	switch {
	case k.client == nil:
		return &jsonrpc2.Error{Code: codeNotInitialized, Message: "the first request must be " + ide.MethodInitialize}
	case method == ide.MethodShutdown:
	case k.client.Version != ide.Version:
		return otherVersion(k.client)
	case k.client.Build != "" && k.client.Build != protocol.Build:
		return otherBuild(k.client.Build, len(k.server.sessions.List()))
	}
	return nil
}

func (k *conn) answer(ctx context.Context, id jsonrpc2.ID, result any, err error) {
	if err != nil {
		err = k.rpc.ReplyWithError(ctx, id, toWire(err))
	} else {
		err = k.rpc.Reply(ctx, id, result)
	}
	if err != nil && !errors.Is(err, jsonrpc2.ErrClosed) {
		k.log.Debug("answer lost", "err", err)
	}
}

// reports returns what tells the client what the request with token is doing, and
// that it does no more. One that has nothing to tell sends nothing.
func (k *conn) reports(ctx context.Context, token string) (report func(message string), end func()) {
	if token == "" {
		return func(string) {}, func() {}
	}
	tell := func(kind, message string) {
		k.notify(ctx, ide.MethodProgress, ide.Progress{Token: token, Value: ide.ProgressValue{Kind: kind, Message: message}})
	}
	var begun atomic.Bool
	return func(message string) {
			if !begun.Swap(true) {
				tell("begin", "")
			}
			tell("report", message)
		}, func() {
			if begun.Load() {
				tell("end", "")
			}
		}
}

func (k *conn) notify(ctx context.Context, method string, params any) {
	if err := k.rpc.Notify(ctx, method, params); err != nil && !errors.Is(err, jsonrpc2.ErrClosed) {
		k.log.Debug("notification lost", "op", method, "err", err)
	}
}
