package incoming

import (
	"context"
	"net"
	"net/netip"
	"strings"
	"sync"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// split brings the requests of one stolen connection to whom they belong.
func (in *Incoming) split(ctx context.Context, r *record, conn *net.TCPConn, p *port, client, local netip.AddrPort) error {
	return httpfilter.Serve(ctx, &measured{direct: newDirect(conn, func() {}), record: r}, &exits{
		in: in, ctx: ctx, port: p, offer: protocol.Incoming{Port: local.Port(), Client: client, Local: local}, record: r,
	})
}

// exits are where the requests of one connection go.
type exits struct {
	in    *Incoming
	ctx   context.Context // good as long as the agent
	port  *port
	offer protocol.Incoming

	record *record
}

func (e *exits) Pod() (httpfilter.Conn, error) {
	c, undo, err := e.in.dialPod(e.ctx, e.offer.Client, e.offer.Local)
	if err != nil {
		return nil, err
	}
	return newDirect(c, undo), nil
}

// Choose gives a request to the oldest holder that wants it and has not left its
// connections to the pod. Kubelet's probes are nobody's, or answered here.
func (e *exits) Choose(r *filter.Request) (httpfilter.Holder, filter.Answer) {
	if r.Method != "" && e.in.answers(e.offer.Port) && probes(r) {
		return answerer{e.in}, filter.Yes
	}
	h, answer := e.choose(r)
	if answer != filter.Unsure && r.Method != "" { // else it is the client's hello
		e.record.request(h != nil)
	}
	if h == nil {
		return nil, answer
	}
	return *h, answer
}

func (e *exits) choose(r *filter.Request) (*holding, filter.Answer) {
	for _, s := range e.port.holders() {
		if s.probed && probes(r) {
			return nil, filter.No
		}
		arm, ok := s.armed()
		if !ok || s.hold().Err() != nil {
			continue
		}
		switch s.filter.Match(r) {
		case filter.Yes:
			h := &holding{Steal: s, conn: e.offer, record: e.record}
			if s.once != nil {
				h.ticket = &ticket{arm}
			}
			return h, filter.Yes
		case filter.Unsure:
			return nil, filter.Unsure
		}
	}
	return nil, filter.No
}

func (e *exits) Deaf() bool            { return false }
func (e *exits) Over() context.Context { return e.port.over }

func (e *exits) PodFirst() bool { return e.port.podFirst.Load() }

func (e *exits) Spoke(podFirst bool) {
	if e.PodFirst() != podFirst {
		e.port.podFirst.Store(podFirst)
	}
}

// probes tells whether a request is kubelet's, as look does of bytes.
func probes(r *filter.Request) bool {
	if r.Path == healthCheck {
		return true
	}
	for _, h := range r.Header {
		if strings.EqualFold(h.Name, "user-agent") {
			return strings.HasPrefix(h.Value, probeAgent)
		}
	}
	return false
}

// holding is a steal as the holder of one connection's requests, or of one of them.
type holding struct {
	*Steal
	conn   protocol.Incoming
	record *record
	ticket *ticket // nil: of all
}

// A ticket makes a holder of one request another than that of the next.
type ticket struct{ arm uint64 }

func (h holding) Name() string { return h.client.Name() }

func (h holding) Take(first []byte) (httpfilter.Conn, error) {
	var arm uint64
	if h.ticket != nil {
		arm = h.ticket.arm
	}
	stream, ahead, err := h.take(h.conn, said{read: first}, arm)
	if err != nil {
		return nil, err
	}
	h.record.had(h.Steal)
	return &begun{protocol.NewChunked(stream), ahead}, nil
}

// A begun connection's receiver has had its first bytes before they are written.
type begun struct {
	*protocol.Chunked
	ahead int // bytes
}

func (b *begun) Write(p []byte) (int, error) {
	had := min(b.ahead, len(p))
	b.ahead -= had
	n, err := b.Chunked.Write(p[had:])
	return had + n, err
}

// A direct is a TCP connection that is read and written with less ado.
type direct struct {
	stream
	fast net.Conn
	undo func() // when it is closed
}

func newDirect(c stream, undo func()) *direct {
	return &direct{c, socket.New(c), sync.OnceFunc(undo)}
}

func (d *direct) Read(b []byte) (int, error)  { return d.fast.Read(b) }
func (d *direct) Write(b []byte) (int, error) { return d.fast.Write(b) }

// NetConn is for who has the kernel move bytes.
func (d *direct) NetConn() net.Conn { return d.stream }

func (d *direct) Close() error {
	defer d.undo()
	return d.stream.Close()
}
