package serve

import (
	"context"
	"fmt"
	"net"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/incoming"
	"mirrord/agent/pause"
	"mirrord/protocol"
)

// still has the target stand still for as long as the stream is open.
func still(_ context.Context, c *client, stream net.Conn, f protocol.Frame) error {
	op := f.Kind.String()
	q, err := decode[protocol.Pause](f)
	if err != nil {
		return protocol.WriteError(stream, op, err)
	}
	if err := c.steals.begin(); err != nil {
		return protocol.WriteError(stream, op, err)
	}
	defer c.steals.done()
	var lost atomic.Pointer[error]
	end := func(err error) {
		lost.CompareAndSwap(nil, &err)
		_ = stream.SetReadDeadline(time.Unix(1, 0))
	}
	hold, err := c.server.pauser.Hold(end)
	if err != nil {
		return protocol.WriteError(stream, op, err)
	}
	s := &stillness{client: c, session: q.Session, since: time.Now(), hold: hold}
	defer hold.Release()
	c.steals.add(s, end)
	defer c.steals.remove(s)
	if err := protocol.WriteMessage(stream, f.Kind, protocol.PauseReply{}, nil); err != nil {
		return err
	}
	_, err = protocol.ReadFrame(stream)
	if why := lost.Load(); why != nil {
		return protocol.WriteError(stream, op, *why)
	}
	if err == nil {
		return protocol.WriteError(stream, op, fmt.Errorf("there is nothing to say here: %w", unix.EPROTO))
	}
	return nil // it is over
}

// A stillness is a client's pause of the target, which goes on while the client is away.
type stillness struct {
	client  *client
	session string
	since   time.Time
	hold    *pause.Hold
	away    atomic.Bool
}

func (s *stillness) Suspend(incoming.Why) {
	s.away.Store(true)
	s.hold.Release()
}

func (s *stillness) Resume(incoming.Why) error {
	s.away.Store(false)
	if err := s.hold.Resume(); err != nil {
		return fmt.Errorf("the target is not paused any more: %w", err)
	}
	return nil
}

func (s *stillness) Holder() protocol.Holder {
	return protocol.Holder{
		Client: s.client.Name(), Session: s.session, Pause: true,
		Since: s.since.UTC().Format(time.RFC3339), Away: s.away.Load(),
	}
}
