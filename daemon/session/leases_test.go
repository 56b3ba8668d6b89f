package session

import (
	"testing"

	"mirrord/protocol"
)

// Who waits in vain for the word of a change does not allow answers to be kept
// that the lost link, or what was heard meanwhile, has forbidden.
func TestMissedWord(t *testing.T) {
	var told []protocol.Expired
	tell := func(e protocol.Expired) { told = append(told, e) }
	h := &hearing{tell: tell, news: make(chan struct{})}
	last := func() protocol.Expired { return told[len(told)-1] }
	h.missed(3, tell)
	if e := last(); e.Seq != 3 || !e.All {
		t.Errorf("with a link: %+v", e)
	}
	h.expired(protocol.Expired{Seq: 7})
	h.missed(5, tell)
	if e := last(); e.Seq != 7 || !e.All {
		t.Errorf("after more was heard: %+v", e)
	}
	h.link(false)
	h.missed(9, tell)
	if e := last(); e.Seq != noLeases {
		t.Errorf("without a link: %+v", e)
	}
	h.link(true)
	if e := last(); e.Seq != 7 || !e.All {
		t.Errorf("with a link again: %+v", e)
	}
}
