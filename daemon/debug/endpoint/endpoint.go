// Package endpoint is where an editor that speaks DAP (the debug adapter
// protocol) meets Delve. The daemon starts a launcher for each debug session and
// answers the editor where to connect to; no byte of the debug session passes
// through it, so that it goes on when the daemon dies:
//
//	daemon ── Start ──▶ mirrord dlv --session ID -- endpoint unix:PATH, a launcher
//	                      └─ keeper
//	editor ───────────────────▶ └─ dlv endpoint: Serve, and Delve behind it
//	                                 └─ the debuggee
//
// Its rule: the first who sends a whole request is the client, and there is no
// other. What client and Delve say to each other passes as it is, but for the
// requests that a filter knows.
package endpoint

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"
)

// Command stands where a command of Delve could, for the process that serves.
const Command = "endpoint"

// SessionEnv names the variable of a Delve in a session that says which one: its
// id, a space, and the daemon's runtime directory.
const SessionEnv = "MIRRORD_DLV_SESSION"

// Is tells whether a command line of Delve is ours.
func Is(args []string) bool { return len(args) == 2 && args[0] == Command }

// Transports of an endpoint, which its address begins with on the command line.
const (
	Unix = "unix" // a socket in the runtime directory
	TCP  = "tcp"  // a port of 127.0.0.1
)

const (
	clientTime  = 60 * time.Second       // for a client to come, and to say something
	maxConns    = 32                     // that have not said anything
	acceptPause = 50 * time.Millisecond  // what accept(2) lacked comes back
	lingerTime  = 500 * time.Millisecond // for who is refused to read it
)

// Listen opens the endpoint that a command line names: unix:PATH or tcp:.
func Listen(addr string) (net.Listener, error) {
	transport, path, _ := strings.Cut(addr, ":")
	switch transport {
	case TCP:
		return net.Listen("tcp4", "127.0.0.1:0")
	case Unix:
	default:
		return nil, fmt.Errorf("opening the endpoint: %q is none of unix:PATH, tcp:", addr)
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, fmt.Errorf("opening the endpoint: %w", err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening the endpoint: %w", err)
	}
	return l, nil
}

// Remove removes what a command line's process left, which was killed.
func Remove(args []string) {
	if path, ok := strings.CutPrefix(args[1], Unix+":"); ok {
		os.Remove(path) // usually it is gone
	}
}

// Name is where clients of l connect to.
func Name(l net.Listener) string {
	if a, ok := l.Addr().(*net.UnixAddr); ok {
		return Unix + ":" + a.Name
	}
	return l.Addr().String()
}

// A Server answers the clients of one endpoint.
//
// Goroutines: Serve starts one that accepts and one for each connection until
// that has said who it is, and waits for them.
type Server struct {
	Listener   net.Listener
	ClientTime time.Duration // for the client to come; 0: clientTime

	// Serving knows of requests; nil: nobody does.
	Serving Serving

	// Debug is Delve: it serves the client until that is gone, or over is
	// closed, and closes its connection.
	Debug func(client net.Conn, over <-chan struct{})

	wg sync.WaitGroup

	mu     sync.Mutex
	taken  bool              // guarded by mu; there is a client
	closed bool              // guarded by mu
	conns  map[net.Conn]bool // guarded by mu; have yet to say who they are
}

// Serve returns when the client was served, when none has come, or over is
// closed, which why tells the client. Then the endpoint is gone.
func (s *Server) Serve(over <-chan struct{}, why string) {
	if s.ClientTime == 0 {
		s.ClientTime = clientTime
	}
	s.conns = map[net.Conn]bool{}
	first := make(chan *filter, 1)
	s.wg.Go(func() { s.accept(first) })
	defer s.close()
	timer := time.NewTimer(s.ClientTime)
	defer timer.Stop()
	select {
	case client := <-first:
		s.debug(client, over, why)
	case <-timer.C:
		select {
		case client := <-first: // at the last moment
			s.debug(client, over, why)
		default:
		}
	case <-over:
	}
}

func (s *Server) debug(client *filter, over <-chan struct{}, why string) {
	end, done := make(chan struct{}), make(chan struct{})
	told := make(chan struct{})
	go func() {
		defer close(told)
		select {
		case <-over:
			client.say(why)
			close(end)
		case <-done:
		}
	}()
	s.Debug(client, end)
	close(done)
	<-told
	client.Close()
	client.wait()
}

// close ends the endpoint and what waits at it.
func (s *Server) close() {
	s.Listener.Close() // removes a socket's file as well
	s.mu.Lock()
	s.closed = true
	for c := range s.conns {
		c.Close()
	}
	s.mu.Unlock()
	s.wg.Wait()
}

func (s *Server) accept(first chan<- *filter) {
	for {
		c, err := s.Listener.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(acceptPause)
			continue
		}
		if !sameUser(c) || !s.enter(c) {
			c.Close()
			continue
		}
		s.wg.Go(func() { s.greet(c, first) })
	}
}

// enter notes a connection, unless there are too many.
func (s *Server) enter(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || len(s.conns) >= maxConns {
		return false
	}
	s.conns[c] = true
	return true
}

// take makes c the client if there is none.
func (s *Server) take(c net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken || s.closed {
		return false
	}
	s.taken = true
	delete(s.conns, c) // it is Debug's now
	return true
}

func (s *Server) leave(c net.Conn) {
	s.mu.Lock()
	delete(s.conns, c)
	s.mu.Unlock()
	c.Close()
}

// greet waits for c's first request. Who leaves without one was nobody.
func (s *Server) greet(c net.Conn, first chan<- *filter) {
	c.SetReadDeadline(time.Now().Add(s.ClientTime))
	r := bufio.NewReader(c)
	m, err := readMessage(r)
	if err != nil {
		s.leave(c)
		return
	}
	c.SetReadDeadline(time.Time{})
	if s.take(c) {
		first <- newFilter(c, r, false, s.Serving, m)
		return
	}
	defer s.leave(c)
	if q, ok := m.request(); ok {
		_, _ = c.Write(refusal(q, inUse, "the debug session has another client: each needs an endpoint of its own (debug/start)"))
		linger(c)
	}
}

// linger closes c so that what was written is read: else what c has not read of
// the other end would make a reset of it.
func linger(c net.Conn) {
	if w, ok := c.(interface{ CloseWrite() error }); ok {
		_ = w.CloseWrite()
	}
	c.SetReadDeadline(time.Now().Add(lingerTime))
	var scrap [4 << 10]byte
	for {
		if _, err := c.Read(scrap[:]); err != nil {
			return
		}
	}
}
