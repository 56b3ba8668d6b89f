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

// A Server keeps the agent's ends of its clients' links.
type Server struct {
	log   *slog.Logger
	grace time.Duration

	mu      sync.Mutex
	clients map[ID]*client // guarded by mu
}

// A client hands connections one after the other to the goroutine that serves its link.
type client struct {
	conn *Conn
	next chan handover // unbuffered
}

type handover struct {
	nc   net.Conn
	peer uint64
}

// NewServer makes a server whose clients may be without a connection for grace.
func NewServer(log *slog.Logger, grace time.Duration) *Server {
	return &Server{log: log, grace: grace, clients: map[ID]*client{}}
}

// Serve accepts connections until ctx ends or l fails. handle runs once for
// each new client; the link is closed when it returns. Goroutines: one for
// each connection that opens, two for each client; Serve waits for all.
func (s *Server) Serve(ctx context.Context, l net.Listener, handle func(ctx context.Context, c *Conn, id ID)) error {
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

// open answers a new connection's opening and gives it to its client.
func (s *Server) open(ctx context.Context, wg *sync.WaitGroup, nc net.Conn, handle func(context.Context, *Conn, ID)) error {
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	nc.SetDeadline(time.Now().Add(openTimeout))
	o, err := readOpening(nc)
	if err != nil {
		return err
	}
	cl := s.client(ctx, wg, o, handle)
	if cl == nil {
		_, err := nc.Write(appendAnswer(nil, statusUnknown, 0))
		nc.Close()
		return err
	}
	cl.conn.drop() // the client knows better than we that its last connection is lost
	select {
	case cl.next <- handover{nc, o.received}:
		return nil
	case <-cl.conn.done:
		return cl.conn.Err()
	}
}

// client finds o's client, or makes it where o does not resume; nil: neither.
func (s *Server) client(ctx context.Context, wg *sync.WaitGroup, o opening, handle func(context.Context, *Conn, ID)) *client {
	s.mu.Lock()
	defer s.mu.Unlock()
	cl := s.clients[o.id]
	switch {
	case cl != nil && !o.resume:
		return nil // its stream cannot begin anew
	case cl != nil || o.resume:
		return cl
	}
	cl = &client{conn: newConn(s.log), next: make(chan handover)}
	s.clients[o.id] = cl
	wg.Go(func() {
		defer func() {
			s.mu.Lock()
			delete(s.clients, o.id)
			s.mu.Unlock()
		}()
		s.keep(ctx, cl)
	})
	wg.Go(func() {
		defer cl.conn.Close()
		handle(ctx, cl.conn, o.id)
	})
	return cl
}

// keep serves the client's connections until its link ends.
func (s *Server) keep(ctx context.Context, cl *client) {
	c := cl.conn
	defer context.AfterFunc(ctx, func() { c.Close() })()
	for {
		grace := time.NewTimer(s.grace)
		select {
		case h := <-cl.next:
			grace.Stop()
			if _, err := h.nc.Write(appendAnswer(nil, statusOK, c.received())); err != nil {
				h.nc.Close()
				continue
			}
			h.nc.SetDeadline(time.Time{})
			if err := c.serve(h.nc, h.peer); c.Err() == nil {
				s.log.Info("link lost", "err", err)
			}
		case <-grace.C:
			c.mu.Lock()
			c.end(ErrGrace)
			c.mu.Unlock()
		case <-c.done:
			grace.Stop()
			return
		}
	}
}

// drop closes the connection in use, if any.
func (c *Conn) drop() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cur != nil {
		c.cur.Close()
	}
}
