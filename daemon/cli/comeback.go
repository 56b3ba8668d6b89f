package cli

import (
	"context"

	"mirrord/daemon/rpc"
	"mirrord/protocol/ide"
)

// A comeback starts a session again whose daemon has ended, and holds it.
type comeback struct {
	dir   string // the runtime directory
	start ide.SessionStartParams
	c     *rpc.Client // to the last daemon it found, nil before
}

// again finds or starts a daemon. One launcher at a time makes the session; the
// others of it are answered with that one. It is not called again before it has returned.
func (b *comeback) again(ctx context.Context) (socket, session string, err error) {
	c, err := dialIn(ctx, b.dir)
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
