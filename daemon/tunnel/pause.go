package tunnel

import (
	"context"
	"errors"
	"net"

	"mirrord/protocol"
)

// Pause has the target stand still until release. lost is called when it cannot be
// kept so.
func (t *Tunnel) Pause(ctx context.Context, q protocol.Pause, lost func(error)) (release func(), err error) {
	s, _, err := t.control.call(ctx, protocol.KindPause, q, new(protocol.PauseReply))
	if err != nil {
		return nil, err
	}
	begun := t.begin(func() {
		_, err := protocol.ReadAnswer(s, protocol.KindPause, new(protocol.PauseReply))
		if e, ok := errors.AsType[*protocol.Error](err); ok {
			lost(errors.New(e.Msg))
		}
	})
	if !begun {
		s.Close()
		return nil, net.ErrClosed
	}
	return func() { s.Close() }, nil
}
