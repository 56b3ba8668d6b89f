package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"
)

const (
	redialFirst = 5 * time.Millisecond
	redialMost  = time.Second
)

// Dial opens a link to an agent as client id. dial makes the connections below
// it: now, and again whenever one is lost; its context ends with the link. The
// first must succeed. Goroutines: one keeps the link up, with those of Conn;
// Wait returns when they are gone.
func Dial(ctx context.Context, log *slog.Logger, id ID, dial func(context.Context) (net.Conn, error)) (*Client, error) {
	nc, err := dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	peer, err := open(nc, opening{id: id})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := &Client{Conn: newConn(log), id: id, dial: dial, gone: make(chan struct{})}
	go c.keep(nc, peer)
	return c, nil
}

// A Client is the client's end of a link.
type Client struct {
	*Conn
	id   ID
	dial func(context.Context) (net.Conn, error)
	gone chan struct{}
}

// Wait returns when the link has ended and nothing of it is left.
func (c *Client) Wait() { <-c.gone }

func (c *Client) keep(nc net.Conn, peer uint64) {
	defer close(c.gone)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		err := c.serve(nc, peer)
		if c.Err() != nil {
			return
		}
		c.log.Info("link lost", "err", err)
		start := time.Now()
		if nc, peer, err = c.redial(ctx); err != nil {
			c.mu.Lock()
			c.end(err)
			c.mu.Unlock()
			return
		}
		c.log.Info("link resumed", "dur", time.Since(start))
	}
}

// redial tries until a connection resumes the link, or the grace is over.
func (c *Client) redial(ctx context.Context) (net.Conn, uint64, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, Grace, ErrGrace)
	defer cancel()
	for wait := redialFirst; ; wait = min(2*wait, redialMost) {
		nc, peer, err := c.resume(ctx)
		if err == nil || errors.Is(err, ErrGone) {
			return nc, peer, err
		}
		c.log.Debug("link not resumed", "err", err)
		select {
		case <-ctx.Done():
			return nil, 0, fmt.Errorf("resuming link: %w (last: %v)", context.Cause(ctx), err)
		case <-time.After(wait):
		}
	}
}

func (c *Client) resume(ctx context.Context) (net.Conn, uint64, error) {
	nc, err := c.dial(ctx)
	if err != nil {
		return nil, 0, err
	}
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	peer, err := open(nc, opening{id: c.id, resume: true, received: c.received()})
	if err != nil {
		nc.Close()
	}
	return nc, peer, err
}
