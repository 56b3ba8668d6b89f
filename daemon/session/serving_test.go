package session

import (
	"context"
	"net/netip"
	"testing"
)

// Who has an address is asked once, also where the answer comes too late for the
// first, and what a thread serves is told once.
func TestPeersAreAskedOnce(t *testing.T) {
	s := &Session{}
	s.ctx, s.cancel = context.WithCancel(t.Context())
	asked, answer := 0, make(chan string)
	find := func(context.Context) (string, error) {
		asked++
		return <-answer, nil
	}
	at := netip.MustParseAddr("10.1.2.3")
	first := s.peerAt(at, find)
	second := s.peerAt(at, find)
	answer <- "shop/client"
	<-second.known
	if first.name != "shop/client" || second.name != first.name || asked != 1 {
		t.Errorf("%q, %q after %d questions", first.name, second.name, asked)
	}
	s.cancel()
	s.wg.Wait()
	for i, want := range []bool{true, false, true, false} {
		if s.served(35, uint64(7+i/2)) != want {
			t.Errorf("stop %d is told: %v", i, !want)
		}
	}
}
