package incoming

import (
	"errors"
	"fmt"
	"net"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
)

// once is what a holder of one connection, or of one request, has left of it. It is
// the daemon that decides: it may hold several ports, and says so when what it wanted
// has come elsewhere.
type once struct {
	arm  atomic.Uint64 // number of the arming; 0: spent
	last atomic.Uint64
}

var errSpent = fmt.Errorf("the holder has had what it wanted: %w", unix.EALREADY)

// armed tells whether s may be offered something, and by which arming.
func (s *Steal) armed() (arm uint64, ok bool) {
	switch {
	case s == nil:
		return 0, false
	case s.once == nil:
		return 0, true
	}
	arm = s.once.arm.Load()
	return arm, arm != 0
}

// arm notes the number of an arming, or that it is spent.
func (s *Steal) arm(number uint64) {
	if s.once == nil {
		return
	}
	if number == 0 || number > s.once.last.Load() {
		s.once.arm.Store(number)
		s.once.last.Store(max(number, s.once.last.Load()))
	}
	s.rest()
}

// rest leaves connections to the pod as long as none is wanted. Of a filtered port
// they are wanted all the same: they may carry a request later. s.mu is held.
func (s *Steal) rest() {
	if _, ok := s.armed(); ok {
		s.off &^= sated
	} else if s.filter == nil {
		s.off |= sated
	}
}

// Arm has the holder offered one more connection, or request; 0: none.
func (s *Steal) Arm(number uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.arm(number)
	return s.settle()
}

// take offers a connection that an arming is for; see offer.
func (s *Steal) take(conn protocol.Incoming, first said, arm uint64) (stream net.Conn, ahead int, err error) {
	if s.once == nil {
		return s.offer(conn, first)
	}
	if arm == 0 || !s.once.arm.CompareAndSwap(arm, 0) {
		return nil, 0, errSpent
	}
	stream, ahead, err = s.offer(conn, first)
	if err != nil && !errors.Is(err, unix.EALREADY) {
		s.once.arm.CompareAndSwap(0, arm)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rest()
	if err := s.settle(); err != nil {
		s.in.log.Error("leaving port to the pod", "port", s.port, "err", err)
	}
	return stream, ahead, err
}
