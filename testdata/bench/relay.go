package main

import (
	"errors"
	"io"
	"net"
	"sync"
	"time"
)

// A relay passes TCP connections on to an address, each byte so much later: a
// kernel's netem may be missing. It does not limit the rate.
//
// Goroutines: one accepts, four are each connection's; close waits for them.
type relay struct {
	net.Listener
	to    string
	delay time.Duration // of one direction
	wg    sync.WaitGroup

	mu     sync.Mutex
	closed bool                  // guarded by mu
	conns  map[net.Conn]struct{} // guarded by mu
}

// inFlight bounds what a direction holds, in chunks: more than 100 MB/s need
// at 20 ms.
const (
	inFlight = 256
	chunk    = 64 << 10
)

func newRelay(to string, delay time.Duration) (*relay, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r := &relay{Listener: l, to: to, delay: delay, conns: map[net.Conn]struct{}{}}
	r.wg.Go(r.accept)
	return r, nil
}

func (r *relay) accept() {
	for {
		near, err := r.Accept()
		if err != nil {
			return // closed
		}
		r.wg.Go(func() { r.serve(near) })
	}
}

func (r *relay) serve(near net.Conn) {
	far, err := net.Dial("tcp", r.to)
	if err != nil {
		near.Close()
		return
	}
	defer r.forget(near, far)
	if !r.remember(near, far) {
		return
	}
	var both sync.WaitGroup
	both.Go(func() { r.pass(far, near) })
	both.Go(func() { r.pass(near, far) })
	both.Wait()
}

func (r *relay) remember(conns ...net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		r.conns[c] = struct{}{}
	}
	return !r.closed
}

func (r *relay) forget(conns ...net.Conn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, c := range conns {
		c.Close()
		delete(r.conns, c)
	}
}

// late is what is to be written at a time.
type late struct {
	at   time.Time
	data []byte
}

func (r *relay) pass(to, from net.Conn) {
	queue := make(chan late, inFlight)
	var reader sync.WaitGroup
	reader.Go(func() {
		defer close(queue)
		for {
			data := make([]byte, chunk)
			n, err := from.Read(data)
			if n > 0 {
				queue <- late{time.Now().Add(r.delay), data[:n]}
			}
			if err != nil {
				return
			}
		}
	})
	var err error
	for l := range queue {
		if err != nil {
			continue // until the reader notices
		}
		time.Sleep(time.Until(l.at))
		if _, err = to.Write(l.data); err != nil {
			from.Close()
		}
	}
	reader.Wait()
	if c, ok := to.(*net.TCPConn); ok && err == nil {
		err = c.CloseWrite()
	}
	if err != nil && !errors.Is(err, io.EOF) {
		to.Close()
	}
}

func (r *relay) close() {
	r.mu.Lock()
	r.closed = true
	for c := range r.conns {
		c.Close()
	}
	r.mu.Unlock()
	r.Listener.Close()
	r.wg.Wait()
}
