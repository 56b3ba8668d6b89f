package incoming

import (
	"context"
	"fmt"
	"net"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/filter"
	"mirrord/protocol/socket"
)

// A Client is who gets stolen connections.
type Client interface {
	Name() string
	Open() (net.Conn, error) // a new stream to it
	Hears() bool             // it has a link, which is not silent
	// ReadFile reads a file of the target for it.
	ReadFile(path string) ([]byte, error)
}

// patience is how long a holder may take to answer an offer, unless it asks for
// more, as one does whose debuggee may be stopped. Who is silent for longer is cut
// off, and the pod serves its client where that does no harm. What waits, perhaps for
// a client that has given up, leaves room for other connections.
const (
	patience    = 5 * time.Second
	maxPatience = 24 * time.Hour
	maxWaiting  = maxConns / 4 // offers that may take longer than patience
)

// leaveTime is how long the answer to an offer may be on its way when its holder
// does not want any more.
const leaveTime = 2 * time.Second

// nothing is the hold of who is offered nothing.
var nothing = func() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	return ctx
}()

// A way is how a port's connections come to their holder.
type way interface {
	Name() string         // for a protocol.StealReply
	Arm(s *Steal) error   // new connections come
	Suspend(*Steal) error // they do not
	Release(*Steal) error // nor will they ever
}

// A Steal is the holding of a port by a client. Its methods may be called by
// any goroutine, in any order and more than once.
type Steal struct {
	in       *Incoming
	way      way
	id       uint64 // its client's
	session  string // its client's
	port     uint16
	probed   bool           // kubelet connects to it
	filter   *filter.Filter // nil: all connections
	words    string         // of the filter
	keys     *keys          // that the filter's TLS is opened with; nil: none were given
	since    time.Time
	patience time.Duration
	client   Client
	life     context.Context // good until the client ends

	once *once // nil: it is offered all

	mu       sync.Mutex         // lock order: mu, then Incoming.mu
	flushes  string             // guarded by mu; what it wants cut when it comes, a protocol.Flush constant
	held     context.Context    // done while nothing is offered; guarded by mu
	letGo    context.CancelFunc // of held; guarded by mu
	off      Why                // guarded by mu; why nothing is offered, 0: all is
	comes    bool               // guarded by mu; way is armed
	stay     context.CancelFunc // guarded by mu; ends flush
	flushed  chan struct{}      // guarded by mu; closed when flush has looked at all once
	released bool               // guarded by mu
	lost     error              // guarded by mu; why somebody else has it
	onLost   func(error)        // guarded by mu

	cuts cuts
}

// who names the holder for others.
func (s *Steal) who() string {
	if s.session == "" {
		return s.client.Name()
	}
	return s.client.Name() + ", session " + s.session
}

// Holder tells others of it.
func (s *Steal) Holder() protocol.Holder {
	s.mu.Lock()
	defer s.mu.Unlock()
	return protocol.Holder{
		Client: s.client.Name(), Session: s.session, Port: s.port, Mirror: s.way == s.in.mirrors, Filter: s.words, Once: s.once != nil,
		Since: s.since.UTC().Format(time.RFC3339), Away: s.off&Absent != 0, Redirect: s.way.Name(),
	}
}

// OnLost has f called, once, when the port is lost to somebody else.
func (s *Steal) OnLost(f func(error)) {
	s.mu.Lock()
	s.onLost = f
	err := s.lost
	s.mu.Unlock()
	if err != nil {
		f(err)
	}
}

// Lost is why somebody else has the port; nil: nobody has taken it over.
func (s *Steal) Lost() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.lost
}

// lose releases the port in favour of somebody else.
func (s *Steal) lose(err error) {
	s.mu.Lock()
	f, known := s.onLost, s.lost != nil
	if !known {
		s.lost = err
	}
	s.mu.Unlock()
	s.Release()
	if f != nil && !known {
		f(err)
	}
}

// Why is a set of reasons for a holder not to be offered what is new.
type Why uint8

const (
	Absent Why = 1 << iota // its client has no link
	Paused                 // it does not want any, for now
	sated                  // it wanted one connection, and has it
)

// Redirect names what brings the connections.
func (s *Steal) Redirect() string { return s.way.Name() }

// Release gives the port back: first to the kernel, so that nothing new comes;
// what came and is not taken yet goes to the pod, once its holder has said so; where
// that was silent for leaveTime, see offer. Connections that were taken go on.
func (s *Steal) Release() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return
	}
	s.released, s.comes = true, false
	if err := s.way.Release(s); err != nil {
		s.in.log.Error("releasing port", "port", s.port, "err", err)
	}
	s.leave()
	s.stay()
	s.in.log.Info("port released", "port", s.port, "holder", s.client.Name())
}

// Suspend leaves what is new to the pod, or to other holders, until Resume for
// the same reason, while the port stays claimed. What came and is not taken yet
// goes there, too, but for what is unsure (offer); connections that were taken go on.
func (s *Steal) Suspend(why Why) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released || s.off&why != 0 {
		return
	}
	s.off |= why
	if err := s.settle(); err != nil {
		s.in.log.Error("suspending port", "port", s.port, "err", err)
	}
	s.in.log.Info("port suspended", "port", s.port, "holder", s.client.Name())
}

// Resume ends what Suspend began, for a reason. An error says that nothing comes.
func (s *Steal) Resume(why Why) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.released {
		return fmt.Errorf("resuming port %d: it was released: %w", s.port, unix.EBADF)
	}
	if s.off&why == 0 {
		return nil
	}
	s.off &^= why
	if err := s.settle(); err != nil {
		s.off |= why
		return err
	}
	s.in.log.Info("port resumed", "port", s.port, "holder", s.client.Name())
	return nil
}

// settle has come, and be offered, what the reasons leave. A pause does not
// redirect a filtered port's connections: what they carry later may be wanted. The
// caller has mu.
func (s *Steal) settle() error {
	if s.released {
		return nil
	}
	held := s.off == 0
	comes := held || s.filter != nil && s.off == Paused
	switch {
	case held && s.held.Err() != nil: // the first connection may come at once
		s.held, s.letGo = context.WithCancel(s.life)
	case !held:
		defer s.leave()
	}
	if comes == s.comes {
		return nil
	}
	do := s.way.Suspend
	if comes {
		do = s.way.Arm
	}
	if err := do(s); err != nil {
		if comes {
			s.leave()
		}
		return err
	}
	if s.comes = comes; !comes {
		s.stay()
		return nil
	}
	var ctx context.Context
	ctx, s.stay = context.WithCancel(s.life)
	flushed, which := make(chan struct{}), s.flushes
	s.flushed = flushed
	if which == protocol.FlushAll { // it is of the beginning: the pod's of a pause are left to come to their end
		s.flushes = protocol.FlushIdle
	}
	s.in.team.Go(func() { s.flush(ctx, which, sync.OnceFunc(func() { close(flushed) })) })
	return nil
}

// leave has nothing offered any more. What is offered may have been taken: the answer
// is waited for, but not without a link. The caller has mu.
func (s *Steal) leave() {
	if s.off&Absent != 0 {
		s.letGo()
	} else {
		time.AfterFunc(leaveTime, s.letGo)
	}
	s.held, s.letGo = nothing, func() {}
}

// hold is the context of the present hold, done where there is none.
func (s *Steal) hold() context.Context {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.held
}

// relay moves a taken connection's bytes, of which the holder has had the first
// ahead ones; ctx is the agent's life.
func (s *Steal) relay(ctx context.Context, r *record, conn *net.TCPConn, stream net.Conn, first opening, ahead int) error {
	// Where only the pod's side is still sending, nobody waits on the stream.
	defer context.AfterFunc(s.life, func() { reset(conn) })()
	defer context.AfterFunc(ctx, func() { reset(conn) })()
	write := func(b []byte) error {
		r.Sends(b)
		for part := range slices.Chunk(b, protocol.MaxDatagram) {
			if err := protocol.WriteDatagram(stream, part); err != nil {
				return err
			}
		}
		return nil
	}
	err := first.replay(conn, write)
	if err == nil && ahead > 0 {
		r.from.Add(int64(ahead))
		err = socket.Discard(conn, ahead)
	}
	if err != nil {
		reset(conn)
		stream.Close()
		return err
	}
	return protocol.RelayBy(s.in.team, conn, stream, r)
}
