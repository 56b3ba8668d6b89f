package forward

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"time"

	"mirrord/protocol"
)

// An Offer is a stream by which the agent offers a connection. The connection's first
// bytes may be there before it is answered.
type Offer struct {
	net.Conn
	ahead []byte // read already
	waits bool   // the agent knows that it is not delivered before it has granted that
}

// NewOffer makes one of a stream whose request was read; it waits if that says so.
func NewOffer(stream net.Conn, waits bool) *Offer { return &Offer{Conn: stream, waits: waits} }

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

// hasBody finds the fields by which a request of HTTP has a body.
var hasBody = regexp.MustCompile(`(?i)\n(content-length|transfer-encoding):`)

// saidAll tells whether the client has most likely said all that it does before it has
// heard the debuggee: a request of HTTP without a body, in the words that went along.
func (o *Offer) saidAll() bool {
	if len(o.ahead) < protocol.ChunkHead {
		return false
	}
	words := o.ahead[protocol.ChunkHead:]
	return bytes.HasPrefix(words, []byte("GET ")) && bytes.HasSuffix(words, []byte("\r\n\r\n")) && !hasBody.Match(words)
}

// Refuse answers that the connection is not taken.
func (o *Offer) Refuse(err error) {
	_ = protocol.WriteError(o.Conn, "incoming", err) // the agent notices the end, too
	o.Close()
}

// Wait tells the agent that the connection waits for its debuggee: should the link be
// cut meanwhile, it is not the debuggee's.
func (o *Offer) Wait() error {
	if o.waits {
		return nil
	}
	o.waits = true
	if err := protocol.WriteMessage(o.Conn, protocol.KindIncoming, protocol.IncomingReply{Waits: true}, nil); err != nil {
		return fmt.Errorf("telling the agent that a connection waits: %w", err)
	}
	return nil
}

// ask has the agent leave the connection to us; ctx ends the wait for its answer.
func (o *Offer) ask(ctx context.Context) error {
	if !o.waits {
		return o.there()
	}
	stop := context.AfterFunc(ctx, func() { _ = o.SetReadDeadline(time.Unix(1, 0)) })
	err := protocol.WriteMessage(o.Conn, protocol.KindIncoming, protocol.IncomingReply{Asks: true}, nil)
	if err == nil {
		o.ahead, err = protocol.ReadGranted(o.Conn, o.ahead)
	}
	if !stop() || err != nil {
		return fmt.Errorf("asking for a connection that waited: %w", cmp.Or(err, ctx.Err()))
	}
	o.waits = false
	return nil
}

// there is an error where the agent does not wait for an answer any more: it has given
// the connection to the pod, or its client is gone.
func (o *Offer) there() (err error) {
	_ = o.SetReadDeadline(time.Unix(1, 0))
	defer o.SetReadDeadline(time.Time{})
	for b := make([]byte, 512); len(o.ahead) < protocol.MaxFirst; {
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
