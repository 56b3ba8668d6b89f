package serve

import (
	"context"
	"fmt"
	"net"
	"sync"
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
	s := &stillness{client: c, session: q.Session, probes: q.Probes, since: time.Now()}
	s.answer()
	if s.hold, err = c.server.pauser.Hold(end); err != nil {
		s.stop()
		return protocol.WriteError(stream, op, err)
	}
	defer s.Suspend(incoming.Absent)
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
	probes  []uint16
	since   time.Time
	hold    *pause.Hold
	away    atomic.Bool
	stop    func() // that probes are answered; steals.mu guards it, or nobody else knows s
}

// answer has kubelet's probes answered. It is not a reason to fail that one is not.
func (s *stillness) answer() {
	s.stop = func() {}
	if in := s.client.server.incoming; in != nil {
		stop, err := in.Answer(s.probes)
		if err != nil {
			s.client.log.Warn("kubelet may restart the paused container", "err", err)
		}
		s.stop = sync.OnceFunc(stop)
	}
}

func (s *stillness) Suspend(incoming.Why) {
	s.away.Store(true)
	s.hold.Release()
	s.stop()
}

func (s *stillness) Resume(incoming.Why) error {
	s.away.Store(false)
	s.answer()
	if err := s.hold.Resume(); err != nil {
		s.stop()
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
