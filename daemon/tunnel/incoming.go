package tunnel

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"time"

	"mirrord/protocol"
)

// A Handler gets the stolen connections of one port. It answers the stream
// with IncomingReply or an error, and closes it.
type Handler func(ctx context.Context, stream net.Conn, in protocol.Incoming)

const headTimeout = 10 * time.Second // for the first frame of a stream

// accept serves the streams that the agent opens on c.
func (t *Tunnel) accept(c *channel) {
	for {
		s, err := c.mux.AcceptStream()
		if err != nil {
			return
		}
		t.ended.Go(func() { t.incoming(s) })
	}
}

func (t *Tunnel) incoming(s net.Conn) {
	if err := t.deliver(s); err != nil {
		t.log.Info("incoming connection not delivered", "err", err)
		s.Close()
	}
}

func (t *Tunnel) deliver(s net.Conn) error {
	s.SetReadDeadline(time.Now().Add(headTimeout))
	f, err := protocol.ReadFrame(s)
	if err != nil {
		return fmt.Errorf("reading incoming: %w", err)
	}
	s.SetReadDeadline(time.Time{})
	var in protocol.Incoming
	if f.Kind != protocol.KindIncoming || json.Unmarshal(f.Header, &in) != nil {
		return protocol.WriteError(s, "incoming", fmt.Errorf("unexpected request of kind %v", f.Kind))
	}
	t.mu.Lock()
	h := t.steals[in.ID]
	t.mu.Unlock()
	if h == nil {
		protocol.WriteError(s, "incoming", fmt.Errorf("port %d is not stolen", in.Port))
		return s.Close()
	}
	h(t.ctx, s, in)
	return nil
}
