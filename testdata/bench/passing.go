package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	filteredPort = "8300" // the first of the pod's: HTTP, echo, bulk
	barePort     = "8400" // the first of those of relays that only copy

	plainPort2    = "8010" // the same for HTTP/2
	filteredPort2 = "8310"
	barePort2     = "8410"

	mostAdded = 2 // ms to the slowest hundredth, at half load
)

// passing is what a port costs on which somebody has a filter, to those whose
// requests it does not match: clients here reach a server there through the agent,
// or, the direct way of these rows, through a relay in the agent's place.
func passing(p *programs) *scene {
	w := newWorld(p, "passing")
	through := func(r row, client ...string) row {
		amount := span
		if r.slow {
			amount = transferred
		}
		by := func(port string) figure {
			return w.mine(append(client[:len(client):len(client)], thereAddr, port, amount)...)
		}
		r.direct, r.ours = by(barePort), by(filteredPort)
		return r
	}
	through2 := func(r row) row {
		by := func(port string) figure { return w.mine(w.static, "work", "streams", thereAddr, port, span) }
		r.direct, r.ours = by(barePort2), by(filteredPort2)
		return r
	}
	// added is how much later than directly the slowest hundredth is answered, at half
	// of the requests that the filtered port takes.
	added := func(name, kind string, most ...string) row {
		half := ""
		return row{name: name, unit: "ms", goal: 1,
			before: func(ctx context.Context) error {
				if half != "" {
					return nil
				}
				n, err := w.mine(append(most[:len(most):len(most)], thereAddr, filteredPort, span)...)(ctx)
				half = strconv.FormatFloat(n/2, 'f', 0, 64)
				return err
			},
			direct: func(context.Context) (float64, error) { return mostAdded, nil },
			ours: func(ctx context.Context) (float64, error) {
				at := func(port string) (float64, error) {
					return w.mine(w.static, "work", kind, thereAddr, port, half, span)(ctx)
				}
				ours, err1 := at(filteredPort)
				direct, err2 := at(plainPort)
				return max(ours-direct, 0.001), errors.Join(err1, err2) // not less than nothing
			},
		}
	}
	bare := func(ctx context.Context, port, to string) error {
		return w.keep(w.there, w.there.command(ctx, w.static, "work", "relay", net.JoinHostPort(thereAddr, port), net.JoinHostPort(thereAddr, to)), "ready")
	}
	begin := func(ctx context.Context) error {
		if err := w.begin(ctx); err != nil {
			return err
		}
		serve2 := func(s *side, address, port string) error {
			return w.keep(s, s.command(ctx, w.static, "work", "serve2", net.JoinHostPort(address, port)), "ready")
		}
		filter := `{"feature": {"network": {"incoming": {"mode": "steal", "http_filter": {"header_filter": "^x-user: nobody$"}}}}}`
		return errors.Join(
			os.WriteFile(w.config, []byte(filter), 0o600),
			w.keep(w.there, w.there.command(ctx, w.c, "serve", thereAddr, filteredPort), "ready"),
			bare(ctx, barePort, plainPort),
			bare(ctx, "8402", "8002"),
			w.keep(w.here, w.mirrord(ctx, nil, w.c, "serve", "0.0.0.0", filteredPort), "ready"),
			serve2(w.there, thereAddr, plainPort2),
			serve2(w.there, thereAddr, filteredPort2),
			bare(ctx, barePort2, plainPort2),
			w.keep(w.here, w.mirrord(ctx, nil, w.static, "work", "serve2", net.JoinHostPort("0.0.0.0", filteredPort2)), "ready"),
		)
	}
	return &scene{group: "passing", begin: begin, pin: w.pin, end: w.end, rows: []row{
		through(row{name: "passing/HTTP, 32 connections", unit: "requests/s", goal: 0.8}, w.c, "many"),
		through(row{name: "passing/HTTP, each on a new connection, 32 at a time", unit: "requests/s", goal: 0.8}, w.static, "work", "new"),
		through(row{name: "passing/down, not HTTP", unit: "MB/s", goal: 0.8, slow: true}, w.c, "down"),
		through2(row{name: "passing/HTTP/2, 32 streams of a connection", unit: "requests/s", goal: 0.8}),
		added("passing/HTTP, added to p99 at half load", "late", w.c, "many"),
		added("passing/HTTP, each on a new connection, added to p99 at half load", "late-new", w.static, "work", "new"),
	}}
}

// news makes HTTP requests for so many seconds, each on a connection of its own,
// and tells how many there were per second.
func news(address, seconds string) (float64, error) {
	s, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return 0, err
	}
	return asked(s, func() error { return ask(address) })
}

// asked has 32 at a time ask for so many seconds, and tells how often they did per second.
func asked(seconds float64, ask func() error) (float64, error) {
	var done atomic.Int64
	began := time.Now()
	until := began.Add(time.Duration(seconds * float64(time.Second)))
	var wg sync.WaitGroup
	failed := make(chan error, 32)
	for range cap(failed) {
		wg.Go(func() {
			for time.Now().Before(until) {
				if err := ask(); err != nil {
					failed <- err
					return
				}
				done.Add(1)
			}
		})
	}
	wg.Wait()
	close(failed)
	return float64(done.Load()) / time.Since(began).Seconds(), <-failed
}

// slowest makes so many HTTP requests per second, from 32 clients, on connections of
// their own or on 32 that are kept, and tells what the slowest hundredth took, in ms.
func slowest(address, perSecond, seconds string, kept bool) (float64, error) {
	n, err1 := strconv.ParseFloat(perSecond, 64)
	s, err2 := strconv.ParseFloat(seconds, 64)
	if err := errors.Join(err1, err2); err != nil {
		return 0, err
	}
	const clients = 32
	every := time.Duration(clients / n * float64(time.Second))
	took := make([][]float64, clients)
	errs := make([]error, clients)
	start := time.Now()
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			do := func() error { return ask(address) }
			if kept {
				c, err := net.Dial("tcp", address)
				if err != nil {
					errs[i] = err
					return
				}
				defer c.Close()
				answer := make([]byte, 4096)
				do = func() error {
					_, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: bench\r\n\r\n"))
					if err == nil {
						_, err = c.Read(answer) // it comes in one piece
					}
					return err
				}
			}
			for due := start.Add(every * time.Duration(i) / clients); time.Since(start).Seconds() < s; due = due.Add(every) {
				time.Sleep(time.Until(due))
				began := time.Now()
				if errs[i] = do(); errs[i] != nil {
					return
				}
				took[i] = append(took[i], float64(time.Since(began))/float64(time.Millisecond))
			}
		})
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	if len(all) == 0 {
		return 0, errors.New("nothing was measured")
	}
	return quantile(all, 0.99), nil
}

// streams makes HTTP/2 requests for so many seconds, 32 at a time on one connection,
// and tells how many there were per second.
func streams(address, seconds string) (float64, error) {
	s, err := strconv.ParseFloat(seconds, 64)
	if err != nil {
		return 0, err
	}
	t := &http.Transport{Protocols: new(http.Protocols)}
	t.Protocols.SetUnencryptedHTTP2(true)
	defer t.CloseIdleConnections()
	get := func() error {
		r, err := (&http.Client{Transport: t}).Get("http://" + address + "/")
		if err != nil {
			return err
		}
		defer r.Body.Close()
		_, err = io.Copy(io.Discard, r.Body)
		return err
	}
	if err := get(); err != nil { // so that there is one connection
		return 0, err
	}
	return asked(s, get)
}

// serves2 answers in HTTP/2 until it is killed.
func serves2(address string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	s := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		_, _ = io.WriteString(w, "hello, this is the answer\n")
	})}
	s.Protocols.SetUnencryptedHTTP2(true)
	os.Stdout.WriteString("ready\n")
	return s.Serve(l)
}

func ask(address string) error {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write([]byte("GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")); err != nil {
		return err
	}
	if n, err := io.Copy(io.Discard, c); n == 0 || err != nil {
		return fmt.Errorf("an answer of %d bytes: %w", n, cmp.Or(err, io.ErrUnexpectedEOF))
	}
	return nil
}

// relays copies between connections to an address and ones to another, until it
// is killed.
func relays(address, to string) error {
	l, err := net.Listen("tcp", address)
	if err != nil {
		return err
	}
	os.Stdout.WriteString("ready\n")
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer c.Close()
			d, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer d.Close()
			go func() {
				_, _ = io.Copy(d, c)
				_ = d.(*net.TCPConn).CloseWrite()
			}()
			_, _ = io.Copy(c, d)
		}()
	}
}
