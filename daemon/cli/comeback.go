package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// A comeback starts a session again whose daemon has ended, and holds it.
type comeback struct {
	dir   string // the runtime directory
	start ide.SessionStartParams
	c     *rpc.Client // to the last daemon it found, nil before
	other error       // mirrord was replaced by another build: each try would end that one's daemon
}

// again finds or starts a daemon. One launcher at a time makes the session; the
// others of it are answered with that one. It is not called again before it has returned.
func (b *comeback) again(ctx context.Context) (socket, session string, err error) {
	if b.other != nil {
		return "", "", b.other
	}
	c, err := dialIn(ctx, b.dir)
	if errors.Is(err, rpc.ErrBuild) {
		b.other = err
	}
	if err != nil {
		return "", "", err
	}
	s, err := c.Start(ctx, b.start, func(string) {})
	if err != nil {
		c.Close()
		return "", "", err
	}
	b.close()
	b.c = c
	return c.Info.Layer, s.ID, nil
}

func (b *comeback) close() {
	if b.c != nil {
		b.c.Close()
	}
}

const (
	backTime = time.Minute // for a session to be there again
	backPoll = 50 * time.Millisecond
)

// follow does what is to be done with session id ("": with all), and does it again
// where the daemon ends meanwhile: launchers start the next, and their sessions in it.
// The end of ctx is no error. It closes c.
func follow(ctx context.Context, w io.Writer, c *rpc.Client, id string, do func(*rpc.Client) error) error {
	for {
		err := do(c)
		c.Close()
		if errors.Is(err, rpc.ErrGone) && ctx.Err() == nil {
			fmt.Fprintln(w, "mirrord: the daemon has ended; waiting for the next one")
			if c, err = next(ctx, id); err == nil {
				continue
			}
		}
		if ctx.Err() != nil && (errors.Is(err, context.Cause(ctx)) || errors.Is(err, rpc.ErrGone)) {
			return nil // as its user wanted
		}
		return err
	}
}

// next waits for a daemon that somebody starts, and for session id in it.
func next(ctx context.Context, id string) (*rpc.Client, error) {
	dir, err := runtimeDir()
	if err != nil {
		return nil, err
	}
	wait, end := context.WithTimeout(ctx, backTime)
	defer end()
	poll := time.NewTicker(backPoll)
	defer poll.Stop()
	for wait.Err() == nil {
		c, err := rpc.Dial(wait, dir, caller, nil)
		switch {
		case err != nil && !errors.Is(err, rpc.ErrNoDaemon) && wait.Err() == nil:
			return nil, err
		case c != nil && (id == "" || there(wait, c, id)):
			return c, nil
		case c != nil:
			c.Close()
		}
		select {
		case <-poll.C:
		case <-wait.Done():
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	what := "another"
	if id != "" {
		what = "one with session " + id
	}
	return nil, &ide.Error{
		Code: ide.CodeSession, Msg: fmt.Sprintf("the daemon has ended, and after %v there is not %s", backTime, what),
		Hint: "`mirrord session ls` lists the sessions that run",
	}
}

// there tells whether session id comes to be in c's daemon, before wait or the daemon
// ends.
func there(wait context.Context, c *rpc.Client, id string) bool {
	heard, found := context.WithCancel(wait)
	defer found()
	_ = c.Events(heard, ide.SessionEventsParams{}, func(e ide.SessionEvent) {
		if e.Session == id {
			found()
		}
	})
	return heard.Err() != nil && wait.Err() == nil
}
