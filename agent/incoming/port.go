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
	claim    *claim
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
	if p == nil || !p.filtered || s.filter == nil {
		p = &port{filtered: s.filter != nil, armed: map[*Steal]bool{}}
		p.over, p.end = context.WithCancel(in.life)
		p.steals.Store(new([]*Steal))
		var err error
		if p.claim, err = claimPort(s.port, p.words); err != nil {
			p.end()
			return nil, err
		}
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	all := append(slices.Clone(p.holders()), s)
	p.steals.Store(&all)
	in.ports[s.port] = p
	return &lookup{in, p}, nil
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

// lookup is the way of stolen connections: redirected by a program.
type lookup struct {
	in   *Incoming
	port *port
}

func (l *lookup) Name() string { return "sk_lookup" }

func (l *lookup) Arm(s *Steal) error {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if err := l.in.redirect.Add(s.port); err != nil {
		return err
	}
	l.port.armed[s] = true
	return nil
}

// Suspend leaves connections to the pod when nobody else wants any.
func (l *lookup) Suspend(s *Steal) error {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	return l.suspend(s)
}

func (l *lookup) suspend(s *Steal) error {
	was := l.port.armed[s]
	delete(l.port.armed, s)
	if !was || len(l.port.armed) > 0 {
		return nil
	}
	return l.in.redirect.Suspend(s.port)
}

// Release gives the port back when nobody else holds it.
func (l *lookup) Release(s *Steal) error {
	l.in.claims.Lock()
	defer l.in.claims.Unlock()
	l.in.mu.Lock()
	rest := slices.DeleteFunc(slices.Clone(l.port.holders()), func(other *Steal) bool { return other == s })
	l.port.steals.Store(&rest)
	if len(rest) > 0 {
		defer l.in.mu.Unlock()
		return l.suspend(s)
	}
	err := l.in.redirect.Remove(s.port)
	delete(l.in.ports, s.port)
	l.in.mu.Unlock()
	l.port.end()
	l.port.claim.Release()
	return err
}
