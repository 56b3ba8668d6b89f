package forward

import (
	"net/netip"
	"testing"
	"testing/synctest"
	"time"
)

// Who is behind a connection is known for a while after its end, each for its own.
func TestPeersAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		in := newIncoming(t)
		source := func(i int) netip.AddrPort {
			return netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), uint16(1000+i))
		}
		const n = 10
		peers := make([]Peer, n)
		for i := range peers {
			in.peers[source(i)] = &peers[i]
			in.end(source(i), &peers[i])
			time.Sleep(time.Second)
		}
		later := &Peer{} // has the source of an ended one
		in.peers[source(3)] = later
		time.Sleep(peerKept - n*time.Second - time.Second/2)
		for over := range 2 * n { // so many have had their time
			for i := range peers {
				if _, known := in.Peer(source(i)); known != (i >= over || i == 3) {
					t.Errorf("when %d have had their time peer %d is known: %v", over, i, known)
				}
			}
			time.Sleep(time.Second)
		}
		if len(in.peers) != 1 || in.ended != nil {
			t.Errorf("%d peers and %d ended ones are left", len(in.peers), len(in.ended))
		}
	})
}
