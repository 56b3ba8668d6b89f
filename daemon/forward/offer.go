package forward

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"mirrord/protocol"
)

// mostAhead is more than an agent sends before it is answered.
const mostAhead = 64 << 10

// An Offer is a stream by which the agent offers a connection. The connection's first
// bytes may be there before it is answered.
type Offer struct {
	net.Conn
	ahead []byte // read already
}

// NewOffer makes one of a stream whose request was read.
func NewOffer(stream net.Conn) *Offer { return &Offer{Conn: stream} }

func (o *Offer) Read(b []byte) (int, error) {
	if len(o.ahead) == 0 {
		return o.Conn.Read(b)
	}
	n := copy(b, o.ahead)
	if o.ahead = o.ahead[n:]; len(o.ahead) == 0 {
		o.ahead = nil
	}
	return n, nil
}

// Refuse answers that the connection is not taken.
func (o *Offer) Refuse(err error) {
	_ = protocol.WriteError(o.Conn, "incoming", err) // the agent notices the end, too
	o.Close()
}

// waits is an error where the agent does not wait for an answer any more: it has given
// the connection to the pod, or its client is gone.
func (o *Offer) waits() (err error) {
	_ = o.SetReadDeadline(time.Unix(1, 0))
	defer o.SetReadDeadline(time.Time{})
	for b := make([]byte, 512); len(o.ahead) < mostAhead; {
		var n int
		n, err = o.Conn.Read(b)
		o.ahead = append(o.ahead, b[:n]...)
		if e, ok := errors.AsType[net.Error](err); ok && e.Timeout() {
			return nil
		}
		if err != nil || n == 0 {
			return fmt.Errorf("the agent does not wait for an answer any more: %w", cmp.Or(err, io.ErrUnexpectedEOF))
		}
	}
	return nil
}
