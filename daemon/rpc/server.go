package rpc

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const maxConns = 128 // each costs descriptors

// acceptPause is the wait after accept(2) failed: the descriptors or memory it
// lacked come back when others end.
const acceptPause = 50 * time.Millisecond

// Why a server ended by itself.
var (
	errIdle     = errors.New("nothing was asked for long enough")
	errShutdown = errors.New("a client asked to")
)

// A server answers clients. Goroutines: serve waits for one per connection,
// and each of those for one per request.
type server struct {
	log      *slog.Logger
	sessions Sessions
	layer    string        // path of the layer's socket
	idle     time.Duration // without clients and sessions it ends
	stop     context.CancelCauseFunc

	mu    sync.Mutex
	conns int         // guarded by mu
	timer *time.Timer // guarded by mu; runs while conns is 0
}

// serve accepts clients until ctx is done or the server has no more use.
func (s *server) serve(ctx context.Context, l *net.UnixListener) error {
	ctx, s.stop = context.WithCancelCause(ctx)
	defer s.stop(nil)
	defer context.AfterFunc(ctx, func() { l.Close() })()

	s.mu.Lock()
	s.timer = time.AfterFunc(s.idle, s.rest)
	s.mu.Unlock()
	defer s.timer.Stop()

	conns, end := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer end()
	defer s.sessions.End() // while clients can hear of it
	for {
		c, err := l.AcceptUnix()
		if ctx.Err() != nil {
			if c != nil {
				c.Close()
			}
			s.log.Info("daemon ends", "err", context.Cause(ctx))
			return nil
		}
		if errors.Is(err, net.ErrClosed) {
			return err
		}
		if err != nil {
			s.log.Warn("accepting client", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		if err := samePeer(c); err != nil {
			s.log.Warn("client refused", "err", err)
			c.Close()
			continue
		}
		if !s.count(1) {
			s.log.Warn("client refused", "err", fmt.Sprintf("more than %d connections", maxConns))
			s.count(-1)
			c.Close()
			continue
		}
		wg.Go(func() {
			defer s.count(-1)
			serveConn(conns, s, c)
		})
	}
}

// count notes a connection that came or went, and reports whether
// they are not too many.
func (s *server) count(n int) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns += n
	if s.timer.Stop(); s.conns == 0 {
		s.timer.Reset(s.idle)
	}
	return s.conns <= maxConns
}

// rest runs when the idle time is over.
func (s *server) rest() {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.conns > 0: // one came meanwhile
	case len(s.sessions.List()) > 0:
		s.timer.Reset(s.idle)
	default:
		s.stop(errIdle)
	}
}
