package layer

import (
	"time"

	"golang.org/x/sys/unix"
)

// waitStep is how often a waiting call looks whether its caller still waits:
// the kernel does not tell when a signal has taken it away.
const waitStep = 200 * time.Millisecond

// How a wait ended.
type waitEnd uint8

const (
	ready waitEnd = iota
	callerGone
	timeOver // by the socket's own option
)

// wait waits until d has something to read (POLLIN), or can be written to
// (POLLOUT).
func (c *call) wait(d *duplicate, event int16) waitEnd {
	option := unix.SO_RCVTIMEO
	if event == unix.POLLOUT {
		option = unix.SO_SNDTIMEO
	}
	var deadline time.Time
	if tv, err := unix.GetsockoptTimeval(d.fd, unix.SOL_SOCKET, option); err == nil && tv.Nano() > 0 {
		deadline = time.Now().Add(time.Duration(tv.Nano()))
	}
	for {
		step := waitStep
		if !deadline.IsZero() {
			left := time.Until(deadline)
			if left <= 0 {
				return timeOver
			}
			step = min(step, left+time.Millisecond)
		}
		poll := []unix.PollFd{{Fd: int32(d.fd), Events: event}}
		n, err := unix.Poll(poll, int(step.Milliseconds()))
		switch {
		case err != nil && err != unix.EINTR:
			return ready // and the call itself tells what is wrong
		case !c.wanted():
			return callerGone
		case n > 0:
			return ready
		}
	}
}
