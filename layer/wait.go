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
	readable waitEnd = iota
	callerGone
	timeOver // by SO_RCVTIMEO
)

// wait waits until d has something to read.
func (c *call) wait(d *duplicate) waitEnd {
	var deadline time.Time
	if tv, err := unix.GetsockoptTimeval(d.fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO); err == nil && tv.Nano() > 0 {
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
		poll := []unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, int(step.Milliseconds()))
		switch {
		case err != nil && err != unix.EINTR:
			return readable // and reading tells what is wrong
		case !c.wanted():
			return callerGone
		case n > 0:
			return readable
		}
	}
}
