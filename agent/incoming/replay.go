package incoming

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/filter"
)

// A replay is what a mirrored client said, split as if it were stolen: the requests
// that the holder's filter chooses are his, and the others a server's which takes
// whatever comes (nobody). Nobody hears an answer: the pod has given it.
type replay struct {
	net.Conn // from which the client's words come
}

func (replay) Write(b []byte) (int, error) { return len(b), nil }
func (replay) CloseWrite() error           { return nil }

// choose gives the holder the requests that his filter chooses of the copy.
//
// Goroutines: one that brings what the client says, beside those of httpfilter.
func (o *outlet) choose(offer protocol.Incoming) error {
	defer context.AfterFunc(o.steal.life, func() { o.cancel(context.Cause(o.steal.life)) })()
	theirs, ours := net.Pipe()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer o.cancel(nil)
	wg.Go(func() {
		defer ours.Close()
		b := make([]byte, 32<<10)
		for {
			n, err := o.next(b)
			if n > 0 {
				_, err = ours.Write(b[:n])
			}
			if err != nil {
				return
			}
		}
	})
	err := httpfilter.Serve(o.ctx, replay{theirs}, &selection{o, offer})
	return errors.Join(context.Cause(o.ctx), err)
}

// next waits for bytes. io.EOF: the connection's own end.
func (o *outlet) next(b []byte) (int, error) {
	for {
		if n, err := o.take(b); n > 0 || err != nil {
			return n, err
		}
		select {
		case <-o.wake:
		case <-o.ctx.Done():
			return 0, context.Cause(o.ctx)
		}
	}
}

// selection is where the requests of a copy go.
type selection struct {
	*outlet
	offer protocol.Incoming
}

func (s *selection) Choose(r *filter.Request) (httpfilter.Holder, filter.Answer) {
	if s.steal.probed && probes(r) || s.steal.hold().Err() != nil {
		return nil, filter.No
	}
	answer := s.steal.filter.Match(r)
	if answer != filter.Yes {
		return nil, answer
	}
	return holding{Steal: s.steal, conn: s.offer, record: s.record}, answer
}

func (s *selection) Pod() (httpfilter.Conn, error) { return s.steal.in.mirrors.nobody.Dial() }
func (s *selection) Over() context.Context         { return s.steal.in.life }
func (s *selection) PodFirst() bool                { return false }
func (s *selection) Spoke(bool)                    {}
func (s *selection) Deaf() bool                    { return true }

// Secure is not asked: what is said in TLS is its two sides' alone.
func (s *selection) Secure(*tls.ClientHelloInfo) *httpfilter.Secured { return nil }

// nobody is an HTTP server that takes every request and does nothing.
//
// Goroutines: the server's, from the first connection until life's end.
type nobody struct {
	in    *Incoming
	start sync.Once
	conns chan net.Conn
}

// Dial connects to it.
func (n *nobody) Dial() (httpfilter.Conn, error) {
	n.start.Do(func() {
		srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
		})}
		srv.Protocols.SetHTTP1(true)
		srv.Protocols.SetUnencryptedHTTP2(true)
		n.in.team.Go(func() { _ = srv.Serve(n) })
		context.AfterFunc(n.in.life, func() { srv.Close() })
	})
	ours, theirs := newDuplex()
	select {
	case n.conns <- theirs:
		return ours, nil
	case <-n.in.life.Done():
		return nil, net.ErrClosed
	}
}

// Accept, Close and Addr make it a listener.
func (n *nobody) Accept() (net.Conn, error) {
	select {
	case c := <-n.conns:
		return c, nil
	case <-n.in.life.Done():
		return nil, net.ErrClosed
	}
}

func (n *nobody) Close() error   { return nil }
func (n *nobody) Addr() net.Addr { return new(net.TCPAddr) }

// A duplex is one end of a connection in memory, of which each side ends its own
// direction.
type duplex struct {
	net.Conn          // read from
	out      net.Conn // written to
}

func newDuplex() (a, b *duplex) {
	one, other := net.Pipe()
	back, forth := net.Pipe()
	return &duplex{one, back}, &duplex{forth, other}
}

func (d *duplex) Write(b []byte) (int, error) { return d.out.Write(b) }
func (d *duplex) CloseWrite() error           { return d.out.Close() }
func (d *duplex) Close() error                { return errors.Join(d.Conn.Close(), d.out.Close()) }
