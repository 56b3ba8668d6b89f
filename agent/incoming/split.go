package incoming

import (
	"context"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"

	"mirrord/agent/httpfilter"
	"mirrord/protocol"
	"mirrord/protocol/filter"
)

// split brings the requests of one stolen connection to whom they belong.
func (in *Incoming) split(ctx context.Context, log *slog.Logger, conn *net.TCPConn, p *port, client, local netip.AddrPort) {
	err := httpfilter.Serve(ctx, conn, &exits{
		in: in, ctx: ctx, port: p, offer: protocol.Incoming{Port: local.Port(), Client: client, Local: local},
	})
	log.Debug("stolen connection ended", "err", err)
}

// exits are where the requests of one connection go.
type exits struct {
	in    *Incoming
	ctx   context.Context // good as long as the agent
	port  *port
	offer protocol.Incoming
}

func (e *exits) Pod() (httpfilter.Conn, error) {
	c, undo, err := e.in.dialPod(e.ctx, e.offer.Local)
	if err != nil {
		return nil, err
	}
	return &podConn{TCPConn: c, undo: sync.OnceFunc(undo)}, nil
}

// Choose gives a request to the oldest holder that wants it and has not left its
// connections to the pod. Kubelet's probes are nobody's.
func (e *exits) Choose(r *filter.Request) (httpfilter.Holder, filter.Answer) {
	for _, s := range e.port.holders() {
		if s.probed && probes(r) {
			return nil, filter.No
		}
		if s.hold().Err() != nil {
			continue
		}
		switch s.filter.Match(r) {
		case filter.Yes:
			return holding{s, e.offer}, filter.Yes
		case filter.Unsure:
			return nil, filter.Unsure
		}
	}
	return nil, filter.No
}

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

// holding is a steal as the holder of one connection's requests.
type holding struct {
	*Steal
	conn protocol.Incoming
}

func (h holding) Name() string { return h.client.Name() }

func (h holding) Take() (httpfilter.Conn, error) {
	stream, err := h.offer(h.conn)
	if err != nil {
		return nil, err
	}
	return protocol.NewChunked(stream), nil
}

// podConn is a connection to the pod's own container.
type podConn struct {
	*net.TCPConn
	undo func() // of its exemption
}

// NetConn is what may be written to and read from in the same way.
func (c *podConn) NetConn() net.Conn { return c.TCPConn }

func (c *podConn) Close() error {
	defer c.undo()
	return c.TCPConn.Close()
}
