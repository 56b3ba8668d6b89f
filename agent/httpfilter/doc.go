// Package httpfilter splits the HTTP requests of one client's connection between
// the pod's own container and the holders of its port, each of which has a
// connection of its own.
//
//	client ─▶ requests ─ choose ─┬▶ pod    ─ answers ─▶ client
//	                             ├▶ holder ─ answers ─┘
//	                             └▶ holder ─ …
//
// Its rule: what it does not understand is the pod's, byte by byte, from there
// to the connection's end. So it understands little: heads and bodies as RFC 9112
// has them, without any of the leniencies that let two readers see two different
// requests (both lengths, two lengths, bare line feeds, folded lines). What it
// understands passes unchanged as well, but for HTTP/2, whose frames are made anew.
//
// HTTP/1: requests that follow each other to the same receiver are passed on
// without waiting, as the client sent them; one for another receiver waits until
// all before it are answered. That keeps the order of answers without storing any,
// and a connection whose requests are all the pod's flows as through a mere relay.
//
// When nobody but the pod gets requests any more, the connection is brought to its
// end, so that its client's next one is the pod's own: see drain.go.
//
// Nothing is read that cannot be passed on: what is kept of a connection is a
// head, or of a body as much as a filter may look at; in HTTP/2 also what one stream's
// receiver does not take, so that it holds up no other: see kept.go.
package httpfilter

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"time"

	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// Limits of one connection.
const (
	maxHead     = 64 << 10
	maxBody     = 64 << 10              // that a filter looks at
	maxAsked    = 64                    // requests that wait for an answer
	headTime    = 5 * time.Second       // for a head, from its first byte
	bodyTime    = time.Second           // for a body that a filter looks at
	lingerTime  = 5 * time.Second       // for the other side to see the end
	drainTime   = 30 * time.Second      // for one more request, at whose answer a connection ends
	firstWords  = 10 * time.Millisecond // who speaks no sooner may wait for the pod's words
	alongMost   = 16 << 10              // bytes of requests that go along with the asking for a connection
	alongTime   = time.Millisecond      // that is waited for them
	firstBuffer = 4 << 10
	copyBuffer  = 32 << 10
)

// A Conn is a connection of which each side ends its own direction. Closing it
// before is a reset.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// A Holder gets requests. Holders are compared.
type Holder interface {
	Name() string
	// Take opens a connection for one client's requests to it. What is written to
	// it begins with first, which may have gone along with the asking: Write leaves
	// out what has. An error says that it has got nothing, unless it is ErrUnsure.
	Take(first []byte) (Conn, error)
}

// ErrUnsure: a holder may have got what went along. Only what may be done twice is the
// pod's then.
var ErrUnsure = errors.New("whether it was delivered is not known")

// Exits are where a connection's requests go.
type Exits interface {
	// Pod opens a connection to the pod's own container.
	Pod() (Conn, error)
	// Choose tells whose a request is; nil: the pod's. Unsure: its body decides.
	Choose(*filter.Request) (Holder, filter.Answer)
	// PodFirst tells whether on this port the pod speaks first, as far as Spoke was told.
	PodFirst() bool
	Spoke(podFirst bool)
	// Deaf tells whether nobody hears the answers: the client's words are a copy.
	Deaf() bool
	// Secure tells how a client's TLS that begins with this hello is opened; nil: it
	// is not, and Choose tells whose it is, by its server's name alone.
	Secure(*tls.ClientHelloInfo) *Secured
	// Over is done when no request is anybody's but the pod's any more.
	Over() context.Context
}

// reset closes a connection so that its peer knows that it did not end well.
func reset(c net.Conn) {
	_ = socket.SetLinger(c, 0)
	_ = c.Close()
}
