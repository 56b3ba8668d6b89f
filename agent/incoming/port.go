package incoming

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A port is held by one steal of all its connections, or by any number that
// have filters.
type port struct {
	filtered bool
	over     context.Context          // good until the last steal is released
	end      context.CancelFunc       // of over
	podFirst atomic.Bool              // the pod has spoken before its client
	steals   atomic.Pointer[[]*Steal] // oldest first; replaced under Incoming.mu
	armed    map[*Steal]bool          // guarded by Incoming.mu
}

func (in *Incoming) port(number uint16) *port {
	in.mu.Lock()
	defer in.mu.Unlock()
	return in.ports[number]
}

// holders are those of the port, oldest first; nil: nobody holds it.
func (p *port) holders() []*Steal {
	if p == nil {
		return nil
	}
	return *p.steals.Load()
}

// holder is the only or the oldest one.
func (p *port) holder() *Steal {
	if all := p.holders(); len(all) > 0 {
		return all[0]
	}
	return nil
}

// words name the holders, for others who want the port.
func (p *port) words() string {
	var all []string
	for _, s := range p.holders() {
		of := ""
		if p.filtered {
			of = "with a filter "
		}
		all = append(all, fmt.Sprintf("%s %s(since %s, by agent process %d)",
			s.who(), of, s.since.UTC().Format(time.RFC3339), unix.Getpid()))
	}
	return strings.Join(all, " and ")
}

// claim makes s a holder of its port, and takes the port's lock for the first.
func (in *Incoming) claim(s *Steal) (way, error) {
	if in.disabled != nil {
		return nil, fmt.Errorf("stealing port %d: %w", s.port, in.disabled)
	}
	in.claims.Lock()
	defer in.claims.Unlock()
	p := in.port(s.port)
	switch {
	case p == nil:
		if err := in.lock(s.port); err != nil {
			return nil, err
		}
		p = &port{filtered: s.filter != nil, armed: map[*Steal]bool{}}
		p.over, p.end = context.WithCancel(in.life)
		p.steals.Store(new([]*Steal))
	case !p.filtered || s.filter == nil:
		return nil, unix.EADDRINUSE
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	all := append(slices.Clone(p.holders()), s)
	p.steals.Store(&all)
	in.ports[s.port] = p
	return &redirection{in, p}, nil
}

// lock takes a port's lock, which those who have a use for it share. in.claims is held.
func (in *Incoming) lock(port uint16) error {
	c := in.locks[port]
	if c == nil {
		var err error
		if c, err = claimPort(port, func() string { return in.words(port) }); err != nil {
			return err
		}
		in.locks[port] = c
	}
	c.users++
	return nil
}

// unlock gives it back. in.claims is held.
func (in *Incoming) unlock(port uint16) {
	c := in.locks[port]
	if c.users--; c.users == 0 {
		delete(in.locks, port)
		c.Release()
	}
}

// words say why another agent cannot have a port.
func (in *Incoming) words(port uint16) string {
	if p := in.port(port); p != nil {
		return p.words()
	}
	return fmt.Sprintf("agent process %d, which answers probes of a paused pod,", unix.Getpid())
}

// oust takes a port from all who hold it by this agent, and tells whether there
// was anybody.
func (in *Incoming) oust(s *Steal) bool {
	all := in.port(s.port).holders()
	for _, other := range all {
		other.lose(fmt.Errorf("%s has taken it over", s.who()))
	}
	return len(all) > 0
}

// redirection is the way of stolen connections.
type redirection struct {
	in   *Incoming
	port *port
}

func (r *redirection) Name() string { return r.in.redirect.Name() }

func (r *redirection) Arm(s *Steal) error {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	if err := r.in.redirect.Add(s.port); err != nil {
		return err
	}
	r.port.armed[s] = true
	return nil
}

// Suspend leaves connections to the pod when nobody else wants any.
func (r *redirection) Suspend(s *Steal) error {
	r.in.mu.Lock()
	defer r.in.mu.Unlock()
	return r.suspend(s)
}

func (r *redirection) suspend(s *Steal) error {
	was := r.port.armed[s]
	delete(r.port.armed, s)
	if !was || len(r.port.armed) > 0 || r.in.answered[s.port] > 0 {
		return nil
	}
	return r.in.redirect.Suspend(s.port)
}

// Release gives the port back when nobody else holds it.
func (r *redirection) Release(s *Steal) error {
	r.in.claims.Lock()
	defer r.in.claims.Unlock()
	r.in.mu.Lock()
	rest := slices.DeleteFunc(slices.Clone(r.port.holders()), func(other *Steal) bool { return other == s })
	r.port.steals.Store(&rest)
	if len(rest) > 0 {
		defer r.in.mu.Unlock()
		return r.suspend(s)
	}
	var err error
	if r.in.answered[s.port] == 0 {
		err = r.in.redirect.Remove(s.port)
	}
	delete(r.in.ports, s.port)
	r.in.mu.Unlock()
	r.port.end()
	r.in.unlock(s.port)
	return err
}
