package link

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

// acceptPause is the wait after accept(2) failed: the descriptors or memory it
// lacked come back when others end.
const acceptPause = 50 * time.Millisecond

var errStale = errors.New("a later connection of the client was here before")

// A Server keeps the agent's ends of its clients' links.
type Server struct {
	log   *slog.Logger
	grace time.Duration

	mu   sync.Mutex
	ends map[name]*end // guarded by mu
}

// A name tells the links of an agent apart.
type name struct {
	id      ID
	channel Channel
}

// An end hands connections one after the other to the goroutine that serves its link.
type end struct {
	conn    *Conn
	next    chan handover // unbuffered
	attempt uint32        // the latest; guarded by Server.mu
}

type handover struct {
	nc net.Conn
	o  opening
}

// NewServer makes a server whose links may be without a connection for grace, unless
// SetGrace says otherwise.
func NewServer(log *slog.Logger, grace time.Duration) *Server {
	return &Server{log: log, grace: grace, ends: map[name]*end{}}
}

// A Handler uses one link of a client until it ends; the link is closed when
// the handler returns. A client's bulk link ends with its control link.
type Handler func(ctx context.Context, c *Conn, id ID, ch Channel)

// Serve accepts connections until ctx ends or l fails. handle runs once for
// each new link. Goroutines: one for each connection that opens, two for each
// link; Serve waits for all.
func (s *Server) Serve(ctx context.Context, l net.Listener, handle Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer context.AfterFunc(ctx, func() { l.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for {
		nc, err := l.Accept()
		switch {
		case ctx.Err() != nil:
			if nc != nil {
				nc.Close()
			}
			return ctx.Err()
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting link: %w", err)
		case err != nil:
			s.log.Warn("accepting link", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		wg.Go(func() {
			if err := s.open(ctx, &wg, nc, handle); err != nil {
				s.log.Info("link not opened", "err", err)
				nc.Close()
			}
		})
	}
}

// open reads a new connection's opening and gives it to its link.
func (s *Server) open(ctx context.Context, wg *sync.WaitGroup, nc net.Conn, handle Handler) error {
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	nc.SetDeadline(time.Now().Add(openTimeout))
	o, err := readOpening(nc)
	if err != nil {
		return err
	}
	e, err := s.end(ctx, wg, o, handle)
	if err == ErrGone {
		_, err := nc.Write(appendAnswer(nil, statusUnknown, 0))
		nc.Close()
		return err
	}
	if err != nil {
		return err
	}
	e.conn.drop() // the client knows better than we that its last connection is lost
	select {
	case e.next <- handover{nc, o}:
		return nil
	case <-e.conn.done:
		return e.conn.Err()
	}
}

// end finds o's link, or makes it: a client's control link by its first
// opening, its bulk link by any while the client is known.
func (s *Server) end(ctx context.Context, wg *sync.WaitGroup, o opening, handle Handler) (*end, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := name{o.id, o.channel}
	if e := s.ends[n]; e != nil {
		if o.attempt <= e.attempt {
			return nil, errStale
		}
		e.attempt = o.attempt
		return e, nil
	}
	fresh := o.received == 0
	if o.channel == Control {
		fresh = fresh && o.attempt == 0
	} else {
		fresh = fresh && s.ends[name{o.id, Control}] != nil
	}
	if !fresh {
		return nil, ErrGone
	}
	e := &end{conn: newConn(s.log, o.channel), next: make(chan handover), attempt: o.attempt}
	e.conn.SetGrace(s.grace)
	s.ends[n] = e
	wg.Go(func() {
		defer s.forget(n)
		s.keep(ctx, e)
	})
	wg.Go(func() {
		defer e.conn.Close()
		handle(ctx, e.conn, o.id, o.channel)
	})
	return e, nil
}

// latest reports whether nobody came after h: what an older opening says of
// the bytes received is no longer true.
func (s *Server) latest(e *end, h handover) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return h.o.attempt == e.attempt
}

// forget removes a link that has ended, and ends what cannot be without it.
func (s *Server) forget(n name) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.ends, n)
	if bulk := s.ends[name{n.id, Bulk}]; n.channel == Control && bulk != nil {
		bulk.conn.fail(net.ErrClosed)
	}
}

// keep serves a link's connections until it ends.
func (s *Server) keep(ctx context.Context, e *end) {
	c := e.conn
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		grace := time.NewTimer(c.Grace())
		select {
		case h := <-e.next:
			grace.Stop()
			if !s.latest(e, h) {
				h.nc.Close()
				continue
			}
			if _, err := h.nc.Write(appendAnswer(nil, statusOK, c.received.Load())); err != nil {
				h.nc.Close()
				continue
			}
			h.nc.SetDeadline(time.Time{})
			w, err := c.attach(h.nc, h.o.received)
			if err != nil {
				continue
			}
			if err := c.serve(w); c.Err() == nil {
				c.log.Info("link lost", "err", err)
			}
		case <-grace.C:
			c.fail(ErrGrace)
		case <-c.done:
			grace.Stop()
			return
		}
	}
}
