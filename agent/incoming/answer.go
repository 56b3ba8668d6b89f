package incoming

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/httpfilter"
)

// While its container is paused the pod does not answer kubelet, which would restart
// it. Then the agent does: connections to the ports that kubelet probes come here,
// whether somebody steals them or not, and probes among them are told that all is
// well. All else is whosoever it is without that.

// answerTime bounds an answer, and the wait for a client that keeps its connection.
const answerTime = 10 * time.Second

// Answer has kubelet's probes of ports answered here until stop. A port that another
// agent has is left out, and the error says so.
func (in *Incoming) Answer(ports []uint16) (stop func(), err error) {
	var had []uint16
	for _, port := range ports {
		if e := in.answerOn(port); e != nil {
			err = fmt.Errorf("answering probes of port %d: %w", port, e)
			continue
		}
		had = append(had, port)
	}
	return func() {
		for _, port := range had {
			in.answerOff(port)
		}
	}, err
}

func (in *Incoming) answerOn(port uint16) error {
	if in.disabled != nil {
		return in.disabled
	}
	in.claims.Lock()
	defer in.claims.Unlock()
	if err := in.lock(port); err != nil {
		return err
	}
	in.mu.Lock()
	err := in.redirect.Add(port)
	if err == nil {
		in.answered[port]++
	}
	in.mu.Unlock()
	if err != nil {
		in.unlock(port)
	}
	return err
}

func (in *Incoming) answerOff(port uint16) {
	in.claims.Lock()
	defer in.claims.Unlock()
	in.mu.Lock()
	var err error
	if in.answered[port]--; in.answered[port] == 0 {
		delete(in.answered, port)
		if p := in.ports[port]; p == nil {
			err = in.redirect.Remove(port)
		} else if len(p.armed) == 0 {
			err = in.redirect.Suspend(port)
		}
	}
	in.mu.Unlock()
	if err != nil {
		in.log.Error("giving probed port back", "port", port, "err", err)
	}
	in.unlock(port)
}

// answers tells whether kubelet's probes of a port are answered here.
func (in *Incoming) answers(port uint16) bool {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.answered[port] > 0
}

// answer answers a probe, of which first was looked at.
func (in *Incoming) answer(ctx context.Context, conn *net.TCPConn, first opening) error {
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	_ = conn.SetDeadline(time.Now().Add(answerTime))
	var head bytes.Buffer
	if err := first.replay(conn, func(b []byte) error { head.Write(b); return nil }); err != nil {
		reset(conn)
		return err
	}
	wellness(conn, io.MultiReader(&head, conn))
	return nil
}

// closes tells whether a connection has ended without a byte, as a tcpSocket probe's
// does. It waits for what comes first, or peekPatience.
func closes(ctx context.Context, conn *net.TCPConn) bool {
	defer lookUntil(ctx, conn)()
	n, ended, err := peekMore(conn, make([]byte, 1), 0)
	return err == nil && ended && n == 0
}

// wellness serves HTTP on a connection, to who asks whether all is well.
func wellness(conn net.Conn, r io.Reader) {
	srv := &http.Server{
		Protocols: new(http.Protocols), Handler: http.HandlerFunc(well),
		ReadTimeout: answerTime, WriteTimeout: answerTime, IdleTimeout: answerTime,
		ErrorLog: log.New(io.Discard, "", 0), // clients that go away
	}
	srv.Protocols.SetHTTP1(true)
	srv.Protocols.SetUnencryptedHTTP2(true) // gRPC
	l := &single{asked: asked{Conn: conn, r: r, closed: make(chan struct{})}}
	_ = srv.Serve(l)
	_ = srv.Close()
}

func well(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Connection", "close") // of HTTP/2, too, in its own words
	if r.URL.Path != healthCheck {
		return
	}
	w.Header().Set("Content-Type", "application/grpc")
	// A message of HealthCheckResponse: not compressed, 2 bytes, of which field 1
	// (status) is SERVING.
	_, _ = w.Write([]byte{0, 0, 0, 0, 2, 1 << 3, 1})
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
}

// A single is a listener of one connection.
type single struct {
	asked
	given bool
}

func (s *single) Accept() (net.Conn, error) {
	if !s.given {
		s.given = true
		return &s.asked, nil
	}
	<-s.closed
	return nil, net.ErrClosed
}

func (s *single) Addr() net.Addr { return s.LocalAddr() }

// An asked connection has been read from already.
type asked struct {
	net.Conn
	r      io.Reader
	once   sync.Once
	closed chan struct{}
}

func (a *asked) Read(b []byte) (int, error) { return a.r.Read(b) }

func (a *asked) Close() error {
	a.once.Do(func() { close(a.closed) })
	return a.Conn.Close()
}

// An answerer is the holder of probes on a filtered port.
type answerer struct{ in *Incoming }

func (answerer) Name() string { return "the agent" }

func (a answerer) Take([]byte) (httpfilter.Conn, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("answering a probe: %w", err)
	}
	var ends [2]*net.UnixConn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "probe")
		c, e := net.FileConn(f)
		f.Close()
		if e != nil {
			err = e
			continue
		}
		ends[i] = c.(*net.UnixConn)
	}
	if err != nil {
		for _, c := range ends {
			if c != nil {
				c.Close()
			}
		}
		return nil, fmt.Errorf("answering a probe: %w", err)
	}
	a.in.team.Go(func() { wellness(ends[1], ends[1]) })
	return ends[0], nil
}
