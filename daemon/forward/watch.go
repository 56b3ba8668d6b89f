package forward

import "mirrord/protocol"

// A Watch is shown what a connection does: that it was answered, or how it was
// refused; what it carries; its end, unless it was refused. It does not wait.
type Watch interface {
	protocol.Watch
	Answered(err error)
	Ended(err error)
}

// unwatched is a connection that nobody watches.
type unwatched struct{}

func (unwatched) Answered(error)  {}
func (unwatched) Ended(error)     {}
func (unwatched) Sends([]byte)    {}
func (unwatched) Receives([]byte) {}

func watching(w Watch) Watch {
	if w == nil {
		return unwatched{}
	}
	return w
}
