package incoming

import (
	"context"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Counts are of all connections that came, since the agent began.
type Counts struct {
	Open           atomic.Int64 // now
	Stolen         atomic.Int64 // ended, and a holder had something of them
	Passed         atomic.Int64 // ended, and all of them was the pod's, or kubelet's probe
	Mirrored       atomic.Int64 // ended copies, by holder
	RequestsStolen atomic.Int64 // on filtered ports
	RequestsPassed atomic.Int64
	BytesIn        atomic.Int64 // from clients, of ended connections
	BytesOut       atomic.Int64 // to clients
}

// A record is what is told of one connection, or of one copy of it, when it has
// ended: one line of the log at level debug, and in the counts.
type record struct {
	in     *Incoming
	port   uint16
	client netip.AddrPort
	mirror bool
	probe  bool // it is answered here
	began  time.Time

	requests atomic.Int64 // on filtered ports
	from, to atomic.Int64 // bytes of and for the client

	mu      sync.Mutex
	holders []string // guarded by mu; who had something of it
}

// record makes one; begin and end count it.
func (in *Incoming) record(port uint16, client netip.AddrPort, mirror bool) *record {
	return &record{in: in, port: port, client: client, mirror: mirror, began: time.Now()}
}

func (r *record) begin() { r.in.Counts.Open.Add(1) }

// had notes that a holder had something of it.
func (r *record) had(s *Steal) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if who := s.who(); !slices.Contains(r.holders, who) {
		r.holders = append(r.holders, who)
	}
}

// request notes whose a request is.
func (r *record) request(holders bool) {
	r.requests.Add(1)
	if holders {
		r.in.Counts.RequestsStolen.Add(1)
	} else {
		r.in.Counts.RequestsPassed.Add(1)
	}
}

// Sends and Receives make it a protocol.Watch.
func (r *record) Sends(b []byte)    { r.from.Add(int64(len(b))) }
func (r *record) Receives(b []byte) { r.to.Add(int64(len(b))) }

// measure takes what the kernel has counted of a client's socket that is about to
// be closed. tcp(7): tcp_info.
func (r *record) measure(c *direct) {
	raw, err := c.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		if info, err := unix.GetsockoptTCPInfo(int(fd), unix.SOL_TCP, unix.TCP_INFO); err == nil {
			r.from.Store(int64(info.Bytes_received))
			r.to.Store(int64(info.Bytes_sent - info.Bytes_retrans))
		}
	})
}

// end tells, err being why the connection ended, nil for its own end.
func (r *record) end(err error) {
	c := &r.in.Counts
	c.Open.Add(-1)
	c.BytesIn.Add(r.from.Load())
	c.BytesOut.Add(r.to.Load())
	r.mu.Lock()
	who := strings.Join(r.holders, "; ")
	r.mu.Unlock()
	mode := "steal"
	switch {
	case r.mirror:
		mode = "mirror"
		c.Mirrored.Add(1)
	case who != "":
		c.Stolen.Add(1)
	case r.probe:
		who = "the agent, as a probe of a paused pod"
		c.Passed.Add(1)
	default:
		who = "the pod"
		c.Passed.Add(1)
	}
	if r.in.log.Enabled(context.Background(), slog.LevelDebug) {
		r.log().Debug("connection ended", "mode", mode, "served", who, "requests", r.requests.Load(),
			"in", r.from.Load(), "out", r.to.Load(), "took", time.Since(r.began).Round(time.Microsecond), "err", err)
	}
}

// log is for what concerns it. It is made anew: mostly nobody asks.
func (r *record) log() *slog.Logger { return r.in.log.With("port", r.port, "client", r.client) }

// A measured is a client's connection that is measured when it is closed.
type measured struct {
	*direct
	record *record
	once   sync.Once
}

func (m *measured) Close() error {
	m.once.Do(func() { m.record.measure(m.direct) })
	return m.direct.Close()
}
