package traffic

import (
	"errors"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// An Outgoing watches one connection of a debuggee: Answered, then Receives and
// Sends, then Ended. One that the target refuses has no more than an answer.
type Outgoing struct {
	source *Source
	proto  string
	to     netip.AddrPort
	thread uint32 // of the debuggee
	begun  time.Time
	dns    bool
	in     atomic.Int64
	out    atomic.Int64

	mu    sync.Mutex
	id    uint64 // guarded by mu; 0: it was not told yet
	pid   int    // guarded by mu
	ended bool   // guarded by mu
}

// Outgoing watches a connection to an address that a thread has asked for.
func (s *Source) Outgoing(proto string, to netip.AddrPort, thread uint32) *Outgoing {
	to = netip.AddrPortFrom(to.Addr().Unmap(), to.Port())
	return &Outgoing{source: s, proto: proto, to: to, thread: thread, begun: time.Now(), dns: proto == "udp" && to.Port() == resolverPort}
}

// Answered takes the target's answer.
func (o *Outgoing) Answered(err error) { o.note(err, err != nil) }

// Ended tells of the end. Only the first counts.
func (o *Outgoing) Ended(err error) { o.note(err, true) }

func (o *Outgoing) note(err error, end bool) {
	o.mu.Lock()
	again := o.ended
	o.ended = o.ended || end
	o.mu.Unlock()
	w := o.source.current.Load()
	if again || w == nil {
		return
	}
	took, in, out := time.Since(o.begun), o.in.Load(), o.out.Load()
	w.note(func() {
		o.mu.Lock()
		if o.id == 0 {
			o.id, o.pid = o.source.id(), process(o.thread)
		}
		e := &ide.Outgoing{ID: o.id, PID: o.pid}
		o.mu.Unlock()
		e.Proto, e.Address, e.Name = o.proto, o.to.String(), o.source.names.of(o.to.Addr())
		e.MS, e.Error, e.Ended, e.BytesIn, e.BytesOut = ms(took), errorName(err), end, in, out
		o.source.tell(ide.SessionEvent{Kind: ide.EventOutgoing, Outgoing: e})
	})
}

// Receives counts what the debuggee gets.
func (o *Outgoing) Receives(b []byte) {
	if o.source.Watched() {
		o.in.Add(int64(len(b)))
	}
	if o.dns {
		o.source.names.learn(b)
	}
}

// Sends counts what the debuggee says.
func (o *Outgoing) Sends(b []byte) {
	if o.source.Watched() {
		o.out.Add(int64(len(b)))
	}
}

// errorName is an error's errno, where it has one.
func errorName(err error) string {
	switch errno, ok := errors.AsType[syscall.Errno](err); {
	case err == nil:
		return ""
	case ok:
		return unix.ErrnoName(errno)
	case errors.Is(err, protocol.ErrReset):
		return unix.ErrnoName(unix.ECONNRESET)
	}
	return err.Error()
}
