package link

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"time"
)

// A Dialer opens the links of one client.
type Dialer struct {
	log   *slog.Logger
	id    ID
	grace time.Duration
	dial  func(context.Context) (net.Conn, error)

	control *Client // which Control has opened
}

// NewDialer makes one whose links may be without a connection for grace. dial
// makes the connections below them: now, and again whenever one is lost, at
// times several at once. Its context is not the connection's.
func NewDialer(log *slog.Logger, id ID, grace time.Duration, dial func(context.Context) (net.Conn, error)) *Dialer {
	return &Dialer{log: log, id: id, grace: grace, dial: dial}
}

// Control opens the link that makes the client known. The first connection
// must succeed.
func (d *Dialer) Control(ctx context.Context) (*Client, error) {
	nc, err := d.dial(ctx)
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	peer, err := open(nc, opening{id: d.id, channel: Control})
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		nc.Close()
		return nil, err
	}
	c := d.client(Control)
	d.control = c
	w, err := c.attach(nc, peer)
	if err != nil {
		return nil, err
	}
	go c.keep(w)
	return c, nil
}

// Bulk opens the second link of a client that is known. It can be used at
// once; what is written waits for the first connection.
func (d *Dialer) Bulk() *Client {
	c := d.client(Bulk)
	go c.keep(nil)
	return c
}

func (d *Dialer) client(ch Channel) *Client {
	return &Client{Conn: newConn(d.log, ch), Dialer: d, gone: make(chan struct{})}
}

// A Client is the client's end of a link.
//
// Goroutines: one keeps the link up, with those that dial for it and that of
// Conn; Wait returns when they are gone.
type Client struct {
	*Conn
	*Dialer
	attempt uint32 // of keep: how many openings went out after a control link's first
	gone    chan struct{}
}

// Wait returns when the link has ended and nothing of it is left.
func (c *Client) Wait() { <-c.gone }

// keep serves w, then one connection after the other.
func (c *Client) keep(w *wire) {
	defer close(c.gone)
	ctx, cancel := context.WithCancel(context.Background())
	watched := make(chan struct{})
	defer func() { <-watched }()
	defer cancel()
	go func() {
		defer close(watched)
		select {
		case <-c.done:
			cancel()
		case <-ctx.Done():
		}
	}()
	for {
		if w == nil {
			start := time.Now()
			nc, peer, err := c.redial(ctx)
			if err == nil {
				w, err = c.attach(nc, peer)
			}
			if err != nil {
				c.fail(err)
				return
			}
			c.Conn.log.Info("link up", "dur", time.Since(start))
		}
		err := c.serve(w)
		if c.Err() != nil {
			return
		}
		c.Conn.log.Info("link lost", "err", err)
		w = nil
	}
}

// Of redialling. A network that is back must not wait for a pause of ours, and
// a dial into one that swallows everything must not hold up the next.
const (
	redialFirst = 5 * time.Millisecond
	redialMost  = 100 * time.Millisecond // between two failures
	hedge       = time.Second            // after it a second dial begins beside the first
	maxDials    = 4                      // at one time
	dialMost    = 5 * time.Second        // for one
	headStart   = 50 * time.Millisecond  // of a control link whose bulk link is lost, too
)

// giveWay has a control link resumed before its bulk link, which will move much at once:
// small operations go on sooner by a third.
func (c *Client) giveWay(ctx context.Context) {
	if c.channel != Bulk || c.attempt == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, headStart)
	defer cancel()
	select {
	case <-time.After(redialFirst): // control may not have noticed yet
	case <-ctx.Done():
		return
	}
	for {
		up, changed := c.control.Up()
		if up {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

type dialled struct {
	nc  net.Conn
	err error
}

// redial tries until a connection resumes the link, or the grace is over.
// Several may be dialled at a time, but only one is opened: the agent takes
// the latest opening for the one that counts.
func (c *Client) redial(ctx context.Context) (net.Conn, uint64, error) {
	c.giveWay(ctx)
	ctx, cancel := context.WithTimeoutCause(ctx, c.grace, ErrGrace)
	results := make(chan dialled)
	dials := 0
	defer func() {
		cancel()
		for ; dials > 0; dials-- {
			if r := <-results; r.err == nil {
				r.nc.Close()
			}
		}
	}()
	next := time.NewTimer(0)
	defer next.Stop()
	for wait := redialFirst; ; {
		var r dialled
		select {
		case <-ctx.Done():
			return nil, 0, context.Cause(ctx)
		case <-next.C:
			if dials < maxDials {
				dials++
				go func() {
					ctx, cancel := context.WithTimeout(ctx, dialMost)
					defer cancel()
					nc, err := c.dial(ctx)
					results <- dialled{nc, err}
				}()
			}
			next.Reset(hedge)
			continue
		case r = <-results:
			dials--
		}
		err := r.err
		if err == nil {
			var peer uint64
			if peer, err = c.resume(ctx, r.nc); err == nil {
				return r.nc, peer, nil
			}
		}
		if errors.Is(err, ErrGone) {
			return nil, 0, err
		}
		c.Conn.log.Debug("link not resumed", "err", err)
		next.Reset(wait)
		wait = min(2*wait, redialMost)
	}
}

func (c *Client) resume(ctx context.Context, nc net.Conn) (uint64, error) {
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	c.attempt++
	peer, err := open(nc, opening{c.id, c.Channel(), c.attempt, c.received.Load()})
	if err != nil {
		nc.Close()
	}
	return peer, err
}
