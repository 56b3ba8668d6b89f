// Package tunnel is the daemon's side of its connection to one agent: yamux
// sessions over two links that survive cuts. Each operation is one stream; what moves
// many bytes goes over the bulk link, so that no small operation waits behind it.
//
//	session ─ Call, Steal ───────────▶ control ═▶ agent
//	session ─ Connect, Datagram, reads ▶ bulk ══▶ agent
//	session ◀─ handler of the port ───── bulk ══ agent (Incoming)
package tunnel

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/crew"
	"mirrord/protocol/link"
)

// ErrBuild: daemon and agent do not speak the same version.
var ErrBuild = errors.New("agent is of another version")

// A Tunnel is open from Open to Close or until its agent is gone.
//
// Goroutines: one ends both links when either has ended, one for each link
// accepts the agent's streams, one for each of them; Close waits for all.
type Tunnel struct {
	log           *slog.Logger
	control, bulk *channel
	hello         protocol.HelloReply
	ctx           context.Context // good until Close
	cancel        context.CancelFunc
	done          chan struct{} // closed with err
	err           error         // set before done is closed
	ended         *crew.Crew
	lanes         lanes

	mu     sync.Mutex
	steals map[uint64]Handler // guarded by mu, by id
	last   uint64             // guarded by mu; id of a steal
}

// A channel is one of the links and its streams.
type channel struct {
	link *link.Client
	mux  *yamux.Session
}

// Open links to an agent as client id and greets it. dial connects to the
// agent, now and after each cut; without a connection the tunnel ends after
// grace. The bulk link is dialled when Open has returned; operations that need
// it wait for it.
func Open(ctx context.Context, log *slog.Logger, who protocol.Client, id link.ID, grace time.Duration, dial func(context.Context) (net.Conn, error)) (*Tunnel, error) {
	dialer := link.NewDialer(log, id, grace, dial)
	l, err := dialer.Control(ctx)
	if err != nil {
		return nil, err
	}
	t := &Tunnel{log: log, done: make(chan struct{}), ended: crew.New(), steals: map[uint64]Handler{}, lanes: lanes{rest: readersRest}}
	t.ctx, t.cancel = context.WithCancel(context.Background())
	if t.control, err = t.channel(l); err != nil {
		return nil, err
	}
	if err = t.greet(ctx, who, grace); err != nil {
		err = fmt.Errorf("greeting agent: %w", err)
	} else {
		t.bulk, err = t.channel(dialer.Bulk())
	}
	if err != nil {
		t.cancel()
		t.control.close()
		t.ended.Wait()
		return nil, err
	}
	t.ended.Go(t.watch)
	return t, nil
}

func (t *Tunnel) channel(l *link.Client) (*channel, error) {
	mux, err := yamux.Client(l, l.Mux())
	if err != nil {
		l.Close()
		l.Wait()
		return nil, fmt.Errorf("starting yamux: %w", err)
	}
	c := &channel{l, mux}
	t.ended.Go(func() { t.accept(c) })
	return c, nil
}

func (c *channel) close() {
	c.mux.Close()
	c.link.Wait()
}

func (t *Tunnel) greet(ctx context.Context, who protocol.Client, grace time.Duration) error {
	request := protocol.Hello{Version: protocol.Version, Build: protocol.Build, Client: who, GraceMS: uint64(grace.Milliseconds())}
	s, _, err := t.control.call(ctx, protocol.KindHello, request, &t.hello)
	if err != nil {
		return err
	}
	s.Close()
	if t.hello.Version != protocol.Version {
		return fmt.Errorf("it speaks version %d, we %d: %w", t.hello.Version, protocol.Version, ErrBuild)
	}
	return nil
}

// watch ends the tunnel with either link: a client is both or nothing.
func (t *Tunnel) watch() {
	select {
	case <-t.control.link.Done():
		t.err = t.control.link.Err()
	case <-t.bulk.link.Done():
		t.err = t.bulk.link.Err()
	}
	t.bulk.link.Close()
	t.control.link.Close()
	close(t.done)
}

// Hello is what the agent told of itself and the target.
func (t *Tunnel) Hello() protocol.HelloReply { return t.hello }

// Done is closed when the tunnel is of no more use.
func (t *Tunnel) Done() <-chan struct{} { return t.done }

// Err says why, after Done.
func (t *Tunnel) Err() error {
	select {
	case <-t.done:
		return t.err
	default:
		return nil
	}
}

// Close ends all streams.
func (t *Tunnel) Close() {
	t.mu.Lock()
	t.cancel() // from here on begin adds nothing to ended
	t.mu.Unlock()
	t.control.close()
	t.bulk.close()
	t.ended.Wait()
}

// Up tells whether the control link has a connection, for now: without one,
// nothing of what the agent tells arrives. changed is closed when that changes.
func (t *Tunnel) Up() (up bool, changed <-chan struct{}) { return t.control.link.Up() }
