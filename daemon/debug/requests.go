package main

import (
	"context"
	"errors"
	"os"
	"strings"
	"sync"

	"mirrord/daemon/debug/endpoint"
	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// A requests asks the daemon which request is served. It holds a connection on
// which it listens to the session's traffic: only then requests are looked at.
type requests struct {
	id, dir string // of the session, and the runtime directory

	mu     sync.Mutex
	client *rpc.Client // guarded by mu; nil: none yet
}

// inSession takes what the launcher has said of the session, which is not for
// the debuggee, and begins to listen. nil: this Delve is in none.
func inSession() endpoint.Serving {
	id, dir, ok := strings.Cut(os.Getenv(endpoint.SessionEnv), " ")
	if !ok {
		return nil
	}
	os.Unsetenv(endpoint.SessionEnv)
	r := &requests{id: id, dir: dir}
	go func() { _, _ = r.listen(context.Background()) }() // tried again when a request is asked for
	return r.serving
}

// listen connects to the daemon, unless that was done. A daemon that was lost is
// started again by the launcher.
func (r *requests) listen(ctx context.Context) (*rpc.Client, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.client != nil {
		select {
		case <-r.client.Gone():
			r.client = nil
		default:
			return r.client, nil
		}
	}
	c, err := rpc.Dial(ctx, r.dir, "dlv", nil)
	if err != nil {
		if c != nil {
			c.Close()
		}
		return nil, err
	}
	go func() {
		defer c.Close()
		// Nothing that it tells is of interest here.
		_ = c.Events(context.Background(), ide.SessionEventsParams{ID: r.id, Traffic: true}, nil)
	}()
	r.client = c
	return c, nil
}

// serving is an endpoint.Serving.
func (r *requests) serving(ctx context.Context, p ide.ServingParams) (ide.ServingResult, error) {
	c, err := r.listen(ctx)
	if err != nil {
		return ide.ServingResult{}, errors.Join(errors.New("asking for the request that is served"), err)
	}
	p.ID = r.id
	return c.Serving(ctx, p)
}
