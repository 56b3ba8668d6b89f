package tunnel

import (
	"context"
	"encoding/json"
	"fmt"

	"mirrord/protocol"
)

// Watch makes the agent give leases, and hands on what of them expires until
// ctx or the tunnel ends.
func (t *Tunnel) Watch(ctx context.Context, expired func(protocol.Expired)) error {
	s, _, err := t.control.call(ctx, protocol.KindWatch, struct{}{}, new(protocol.WatchReply))
	if err != nil {
		return err
	}
	defer s.Close()
	defer abandon(ctx, s)()
	// While a session of yamux ends, which takes until its link has, who waits for
	// what comes by a stream of it spins.
	defer abandon(t.ctx, s)()
	for {
		f, err := protocol.ReadFrame(s)
		if err != nil {
			return fmt.Errorf("hearing of leases: %w", err)
		}
		var e protocol.Expired
		if err := json.Unmarshal(f.Header, &e); err != nil || f.Kind != protocol.KindWatch {
			return fmt.Errorf("hearing of leases: frame of kind %v: %w", f.Kind, err)
		}
		expired(e)
	}
}
