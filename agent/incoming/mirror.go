package incoming

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/incoming/capture"
)

// Limits of mirrors.
const (
	maxFlows    = 4096
	maxCopies   = 8192            // also of connections that are over
	mirrorTick  = time.Second     // how often what is overdue is looked for
	flowSilence = 5 * time.Minute // whoever is silent for so long makes room for others
	flowOpening = time.Minute     // for the client's answer to the pod's
	ownLinger   = 2 * time.Second // a packet stays no longer in the ring
)

// mirrors copies what comes to mirrored ports. The pod answers; it is never
// waited for anything here: who is too slow for its traffic loses the copy.
//
//	capture ─ flow ─┬ outlet ─▶ stream to the holder of one mirror
//	                └ outlet ─▶ … of another
//
// Where a filter chooses requests, a copy is split as a stolen connection is
// (replay.go); the pod's is not touched for that either.
//
// Goroutines: one that reads, while a port is mirrored or a mirrored
// connection lasts; two for each outlet. Incoming waits for them.
type mirrors struct {
	log      *slog.Logger
	in       *Incoming
	buffered atomic.Int64 // of all outlets, in bytes
	nobody   nobody

	mu    sync.Mutex             // lock order: Steal.mu, then mu, then outlet.mu
	armed map[uint16][]*Steal    // guarded by mu
	ring  *capture.Ring          // nil: nobody reads; guarded by mu
	flows map[flowKey]*flow      // guarded by mu
	own   map[netip.AddrPort]own // guarded by mu
	spare int                    // copies that there may be yet; guarded by mu
	drops int                    // packets missed since the pod's sockets were asked; guarded by mu
	asked uint64                 // the ring's mark then, 0: that was compared; guarded by mu
}

// A flowKey names a connection by its client's and the pod's end.
type flowKey struct{ client, pod netip.AddrPort }

// A flow is a connection that may be mirrored.
type flow struct {
	start    uint32 // the sequence number it was asked for with
	assembly *capture.Assembly
	outlets  []*outlet
	open     bool // its client knows that the pod has accepted it
	paths    bool // it is MPTCP's, and may have more paths some time
	seen     time.Time
	received uint64 // bytes that the pod had when it was asked
	over     bool   // the pod had its end then
}

// own is a source of connections of this agent to the pod.
type own struct{ gone time.Time } // zero: it is in use

func newMirrors(log *slog.Logger, in *Incoming) *mirrors {
	return &mirrors{
		log: log, in: in, spare: maxCopies, nobody: nobody{in: in, conns: make(chan net.Conn)},
		armed: map[uint16][]*Steal{}, flows: map[flowKey]*flow{}, own: map[netip.AddrPort]own{},
	}
}

func (m *mirrors) Name() string { return "packet" }

// Arm begins to mirror new connections to s's port.
func (m *mirrors) Arm(s *Steal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	started := m.ring == nil
	if started {
		ring, err := capture.Open()
		if err != nil {
			return fmt.Errorf("mirroring port %d: %w", s.port, err)
		}
		m.ring = ring
	}
	m.armed[s.port] = append(m.armed[s.port], s)
	err := m.watch()
	if err != nil {
		m.disarm(s)
		err = fmt.Errorf("mirroring port %d: %w", s.port, err)
	}
	switch {
	case started && err != nil:
		m.ring.Close()
		m.ring = nil
	case started:
		m.in.team.Go(m.read)
	}
	return err
}

// Suspend mirrors no new connections; those that are mirrored go on.
func (m *mirrors) Suspend(s *Steal) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.disarm(s)
	return nil // the filter is narrowed with the next tick
}

func (m *mirrors) Release(s *Steal) error { return m.Suspend(s) }

func (m *mirrors) disarm(s *Steal) {
	rest := slices.DeleteFunc(m.armed[s.port], func(other *Steal) bool { return other == s })
	if len(rest) == 0 {
		delete(m.armed, s.port)
	} else {
		m.armed[s.port] = rest
	}
}

// watch has the ring see what is mirrored. The caller has mu.
func (m *mirrors) watch() error {
	ports := map[uint16]bool{}
	for p := range m.armed {
		ports[p] = true
	}
	for k := range m.flows {
		ports[k.pod.Port()] = true
	}
	if len(ports) > capture.MaxPorts {
		return fmt.Errorf("more than %d ports are mirrored: %w", capture.MaxPorts, unix.E2BIG)
	}
	return m.ring.Watch(slices.Sorted(maps.Keys(ports)))
}

// Interrupt ends the reading.
func (m *mirrors) Interrupt() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ring != nil {
		m.ring.Interrupt()
	}
}

// Exclude says that connections from a source are the agent's own, until undone.
func (m *mirrors) Exclude(from netip.AddrPort) (undo func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.own[from] = own{}
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.ring == nil {
			delete(m.own, from)
		} else { // its packets may not have been read yet
			m.own[from] = own{gone: time.Now()}
		}
	}
}

// read takes packets until nothing is mirrored any more.
func (m *mirrors) read() {
	next := time.Now().Add(mirrorTick)
	for {
		err := m.ring.Read(next, m.segment)
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			why := context.Canceled
			if !errors.Is(err, os.ErrClosed) {
				m.log.Error("reading packets", "err", err)
				why = errBlind
			}
			m.stop(why)
			return
		}
		if now := time.Now(); !now.Before(next) {
			next = now.Add(mirrorTick)
			if !m.tick(now) {
				return
			}
		}
	}
}

// stop ends every flow, and tells who mirrors.
func (m *mirrors) stop(why error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for k, f := range m.flows {
		m.end(k, f, why)
	}
	for _, s := range slices.Concat(slices.Collect(maps.Values(m.armed))...) {
		s.cut(why)
	}
	m.ring.Close()
	m.ring = nil
}

// tick ends what is overdue, and the reading where nothing is left of it.
func (m *mirrors) tick(now time.Time) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	n, err := m.ring.Drops()
	if err != nil || n > 0 {
		m.log.Warn("packets not mirrored", "drops", n, "err", err)
	}
	m.drops += n
	compare := m.asked != 0 && m.ring.Passed(m.asked)
	for k, f := range m.flows {
		switch {
		case f.assembly.Stale(now) || compare && f.misses():
			m.end(k, f, capture.ErrGap)
		case !f.open && now.Sub(f.seen) > flowOpening || f.abandoned():
			m.end(k, f, context.Canceled)
		}
	}
	maps.DeleteFunc(m.own, func(_ netip.AddrPort, o own) bool { return !o.gone.IsZero() && now.Sub(o.gone) > ownLinger })
	if len(m.armed) == 0 && len(m.flows) == 0 {
		m.ring.Close()
		m.ring = nil
		return false
	}
	if compare {
		m.asked = 0
	}
	if m.drops > 0 && m.asked == 0 {
		if err := m.ask(); err != nil {
			m.log.Warn("whose packets were missed is not known", "err", err)
		}
		m.drops, m.asked = 0, m.ring.Mark()
	}
	if err := m.watch(); err != nil {
		m.log.Error("mirroring", "err", err)
	}
	return true
}

// abandoned reports that nobody wants to hear more of a flow.
func (f *flow) abandoned() bool {
	return !slices.ContainsFunc(f.outlets, func(o *outlet) bool { return !o.Over() })
}

// end ends a flow; err is nil where it came to its own end. The caller has mu.
func (m *mirrors) end(k flowKey, f *flow, err error) {
	delete(m.flows, k)
	if !f.open { // nobody was told of it
		err = cmp.Or(err, error(unix.ECONNRESET))
		m.spare += len(f.outlets)
	}
	for _, o := range f.outlets {
		o.End(err)
	}
}

// segment brings one segment to its flow.
func (m *mirrors) segment(s capture.Segment) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	k := flowKey{s.From, s.To}
	if s.Outgoing {
		k = flowKey{s.To, s.From}
	}
	f := m.flows[k]
	switch {
	case s.Resets():
		if f != nil {
			m.end(k, f, unix.ECONNRESET)
		}
		return
	case s.Outgoing:
		return
	case s.Begins():
		if f != nil && f.start == s.Seq {
			return // once more
		}
		if f != nil {
			m.end(k, f, unix.ECONNRESET) // we missed how it ended
		}
		if f = m.begin(k, s, now); f == nil {
			return
		}
	case f == nil:
		return // it began before
	case !f.open:
		if f.open = m.opens(k); !f.open {
			m.end(k, f, context.Canceled)
			return
		}
		for _, o := range f.outlets {
			m.in.team.Go(func() {
				o.run(k)
				m.mu.Lock()
				defer m.mu.Unlock()
				m.spare++
			})
		}
	}
	f.seen = now
	done, err := f.assembly.Add(s, now, func(b []byte) {
		b = slices.Clone(b)
		for _, o := range f.outlets {
			o.Push(b)
		}
	})
	if done || err != nil {
		m.end(k, f, err)
	}
}

// begin makes a flow where somebody wants it.
func (m *mirrors) begin(k flowKey, syn capture.Segment, now time.Time) *flow {
	wanted := m.armed[k.pod.Port()]
	if _, ours := m.own[k.client]; ours || len(wanted) == 0 || !m.in.local.Has(k.pod.Addr()) {
		return nil
	}
	if !m.room(now) {
		refuse(wanted)
		return nil
	}
	f := &flow{start: syn.Seq, assembly: capture.NewAssembly(syn)}
	var joins bool
	if f.paths, joins = syn.Multipath(); joins {
		m.split(k.pod.Port())
		return nil
	}
	if len(wanted) > m.spare {
		m.log.Warn("too many copies of mirrored connections", "limit", maxCopies)
		refuse(wanted)
		return nil
	}
	m.spare -= len(wanted)
	for _, s := range wanted {
		f.outlets = append(f.outlets, newOutlet(s, m.in.record(k.pod.Port(), k.client, true), &m.buffered))
	}
	m.flows[k] = f
	return f
}

// refuse tells those who would mirror a connection that they do not.
func refuse(wanted []*Steal) {
	for _, s := range wanted {
		s.cut(errMany)
	}
}

// opens tells whether a connection that its client has opened is the pod's: one
// that a mesh leads to its sidecar comes to the pod later, and in plain words.
func (m *mirrors) opens(k flowKey) bool {
	elsewhere, err := translated(k.client, k.pod)
	if err != nil {
		m.log.Debug("mirroring it all the same", "err", err)
	}
	return !elsewhere
}

// split ends the flows that a new path of MPTCP may belong to: their bytes may
// go another way from now on.
func (m *mirrors) split(port uint16) {
	for k, f := range m.flows {
		if f.paths && k.pod.Port() == port {
			m.end(k, f, errSplit)
		}
	}
}

// room reports whether one more flow may be; it makes some where it can.
func (m *mirrors) room(now time.Time) bool {
	if len(m.flows) < maxFlows {
		return true
	}
	var silent flowKey
	longest := flowSilence
	for k, f := range m.flows {
		if d := now.Sub(f.seen); d > longest {
			silent, longest = k, d
		}
	}
	f := m.flows[silent]
	if f == nil {
		m.log.Warn("too many mirrored connections", "limit", maxFlows)
		return false
	}
	m.end(silent, f, errSilent)
	return true
}
