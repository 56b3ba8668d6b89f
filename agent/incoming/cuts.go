package incoming

import (
	"errors"
	"fmt"
	"slices"
	"sync"

	"mirrord/agent/incoming/capture"
)

// Why connections are not mirrored, or not to their end, that are neither their own
// end nor their holder's.
var (
	errSlow   = errors.New("the debuggee reads slower than the pod")
	errSplit  = errors.New("its client uses several paths of MPTCP")
	errSilent = fmt.Errorf("it was silent for %v, and others need its place", flowSilence)
	errMany   = errors.New("too many are mirrored")
	errBlind  = errors.New("the agent cannot read the pod's packets any more")
)

// cuts are the reasons that a mirror's holder is told, each once.
type cuts struct {
	mu   sync.Mutex // no lock is taken under it
	seen []error    // guarded by mu
	tell func(why error)
}

// OnCut has f called, once for each reason, when connections are not mirrored, or
// not to their end.
func (s *Steal) OnCut(f func(why error)) {
	s.cuts.mu.Lock()
	defer s.cuts.mu.Unlock()
	s.cuts.tell = f
	for _, why := range s.cuts.seen {
		s.in.team.Go(func() { f(why) })
	}
}

// cut notes a reason, if it is one to tell. It does not wait, whatever is locked.
func (s *Steal) cut(why error) {
	switch why {
	case capture.ErrGap, errSlow, errSplit, errSilent, errMany, errBlind:
	default:
		return
	}
	s.cuts.mu.Lock()
	defer s.cuts.mu.Unlock()
	if slices.Contains(s.cuts.seen, why) {
		return
	}
	s.cuts.seen = append(s.cuts.seen, why)
	if f := s.cuts.tell; f != nil {
		s.in.team.Go(func() { f(why) })
	}
}
