package layer

import (
	"errors"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/layer/policy"
	"mirrord/layer/seccomp"
	wire "mirrord/protocol/layer"
)

// A call is one hooked call. What quick read from the debuggee's memory is
// kept here, so that slow decides by the same bytes.
type call struct {
	seccomp.Notification
	l       *Layer
	buf     *[seccomp.MaxPath]byte // the receiver's, for paths
	hook    *hook
	flight  *flight
	path    string // absolute, as the debuggee spelled it; "" for an empty one
	path2   string // of calls with two paths; of others what else is in memory
	walk    walk   // of openat2
	verdict policy.Verdict
	other   policy.Verdict // path2's
	addr    sockaddr       // of calls with an address
	socket  uint64         // the inode of the socket in question
	file    *file
	fault   unix.Errno // of a descriptor, or of what is in memory beside paths
	doubt   error      // what kept quick from knowing: the call fails with EIO
}

// same tells whether d asks what c asks.
func (c *call) same(d *call) bool {
	return c.Args == d.Args && c.path == d.path && c.path2 == d.path2 &&
		c.walk == d.walk && c.addr == d.addr && c.socket == d.socket && c.file == d.file
}

// An answer is what a call comes to.
type answer struct {
	carryOn bool // the kernel carries out the call itself
	errno   unix.Errno
	val     int64
	inject  int // with fd: a descriptor to give, and its number is the result
	hasFD   bool
	cloexec bool
	writes  []memory
	// settle, if set, is called once: taken tells whether the debuggee got the answer.
	settle func(taken bool)
	// again: found anew, rather than kept, for a caller that was interrupted.
	again bool
	// abandoned: the caller is gone and nothing was done.
	abandoned bool
}

// A memory is bytes to be written into the debuggee.
type memory struct {
	addr  uint64
	bytes []byte
}

func fail(errno unix.Errno) answer { return answer{errno: errno} }
func value(v int64) answer         { return answer{val: v} }

var carryOn = answer{carryOn: true}

// failWith answers with err's errno, or EIO.
func failWith(err error) answer {
	var errno unix.Errno
	if errors.As(err, &errno) && errno != 0 {
		return fail(errno)
	}
	return fail(unix.EIO)
}

// A flightKey is by which a call that is asked again finds its flight: a thread
// waits for one call at a time.
type flightKey struct {
	tid uint32
	nr  int32
}

// flightTime is how long an answer waits for the call to be asked again.
const flightTime = 5 * time.Second

// A flight is a call on its way to an answer. A signal ends a notification but
// not the flight: the call, asked again, joins it. A thread that asks something
// else has given it up.
type flight struct {
	key   flightKey
	first call       // what is asked
	mu    sync.Mutex // lock order: mu, then sock.mu, Layer.mu
	last  call       // the newest asking, by its ID the one that waits; guarded by mu
	ready bool       // guarded by mu
	done  bool       // guarded by mu
	ans   answer     // guarded by mu
	timer *time.Timer
}

// fly makes the flight of a call that nobody has asked before; l.mu is held.
func (l *Layer) fly(key flightKey, c call) *flight {
	f := &flight{key: key, first: c, last: c}
	l.flights[key] = f
	return f
}

// start answers c, or lets it join the flight of an earlier asking; with done in no
// goroutine.
func (l *Layer) start(c call) (done bool) {
	select {
	case l.waiting <- struct{}{}:
	default:
		_ = l.listener.Fail(c.ID, unix.EAGAIN)
		return true
	}
	key := flightKey{c.TID, c.NR}
	l.mu.Lock()
	f := l.flights[key]
	var old *flight // of a call that was given up
	if f != nil && !f.first.same(&c) {
		f, old = nil, f
	}
	fresh := f == nil
	if fresh {
		f = l.fly(key, c)
	}
	l.mu.Unlock()
	if fresh && old == nil {
		switch ans, how := c.atOnce(f); how {
		case begun:
			return true
		case answered: // no more work than a goroutine
			<-l.waiting
			if ans.hasFD {
				l.turn.end()
				defer l.turn.take()
			}
			l.finish(f, ans)
			return true
		}
	}
	l.team.Go(func() {
		defer func() { <-l.waiting }()
		if old != nil {
			l.giveUp(old)
		}
		for !fresh {
			if l.join(f, c) {
				return
			}
			l.mu.Lock()
			other := l.flights[key]
			if other == nil {
				other, fresh = l.fly(key, c), true
			}
			l.mu.Unlock()
			if !other.first.same(&c) {
				return // c itself was given up
			}
			f = other
		}
		l.fulfil(f, c)
	})
	return false
}

// progress is how far the receiver came with a call, as it never waits.
type progress uint8

const (
	nothing  progress = iota
	answered          // as the answer says
	begun             // and finished will be called
)

// atOnce does in the receiver what can be done there.
func (c *call) atOnce(f *flight) (ans answer, how progress) {
	if c.doubt != nil || c.fault != 0 {
		return ans, nothing
	}
	if served, known := c.judged(); !known || !served {
		return ans, nothing
	}
	switch c.hook.Call {
	case seccomp.Connect:
		if c.l.listener.Valid(c.ID) && c.connectBegun(f) {
			how = begun
		}
	case seccomp.Accept, seccomp.Accept4:
		if c.l.listener.Valid(c.ID) {
			return c.acceptNow(f)
		}
	default:
		var ok bool
		if ans, ok = c.known(); ok {
			how = answered
		}
	}
	return ans, how
}

// fulfil finds f's answer and gives it, as c asks and whoever asks after it.
func (l *Layer) fulfil(f *flight, c call) {
	for again := true; again; {
		c.flight = f
		c, again = l.finish(f, c.answer())
	}
}

// ask has the daemon asked by the receiver, if that can be done at once. then does not
// wait, and has finished called.
func (l *Layer) ask(q *wire.Request, then func(r reply)) bool {
	l.team.Add(1)
	asked := l.Daemon.ask(q, func(r reply) {
		defer l.team.Done()
		then(r)
	})
	if !asked {
		l.team.Done()
	}
	return asked
}

// finished gives f its answer, which was begun by the receiver.
func (l *Layer) finished(f *flight, ans answer) {
	c, again := l.finish(f, ans)
	if !again {
		<-l.waiting
		return
	}
	l.team.Go(func() {
		defer func() { <-l.waiting }()
		l.fulfil(f, c)
	})
}

// answer finds the answer to c.
func (c *call) answer() answer {
	switch {
	case !c.l.listener.Valid(c.ID): // what quick read may have been another task's
		return answer{abandoned: true}
	case !c.served():
		c.strays()
		return carryOn
	case c.doubt != nil:
		c.l.log.Error("looking at a call of the debuggee", "op", c.hook.Call, "err", c.doubt)
		return fail(unix.EIO)
	case c.fault != 0:
		return fail(c.fault)
	}
	return c.hook.slow(c)
}

// join makes f answer c's notification. False: f has been answered before.
func (l *Layer) join(f *flight, c call) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		return false
	}
	f.last = c
	if f.ready {
		l.deliver(f)
	}
	return true
}

// finish gives f its answer. An abandoned call may have been asked again since:
// then it is to be done again, as it was asked last.
func (l *Layer) finish(f *flight, ans answer) (c call, again bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.done {
		if ans.settle != nil {
			ans.settle(false)
		}
		return c, false
	}
	if ans.abandoned && l.listener.Valid(f.last.ID) {
		return f.last, true
	}
	f.ans, f.ready = ans, true
	if ans.abandoned {
		l.end(f, false)
		return c, false
	}
	l.deliver(f)
	switch {
	case f.done:
	case ans.again:
		l.end(f, false)
	default:
		f.timer = time.AfterFunc(flightTime, func() { l.giveUp(f) })
	}
	return c, false
}

// deliver answers f's notification; f.mu is held. If nobody waits any more, f stays.
func (l *Layer) deliver(f *flight) {
	err := l.send(f)
	if errors.Is(err, seccomp.ErrGone) {
		return
	}
	if err != nil {
		l.log.Debug("answering a call", "op", f.key.nr, "err", err)
	}
	l.end(f, err == nil)
}

func (l *Layer) send(f *flight) error {
	a := &f.ans
	if a.carryOn {
		return l.listener.Continue(f.last.ID)
	}
	if len(a.writes) > 0 && !l.listener.Valid(f.last.ID) {
		return seccomp.ErrGone
	}
	for _, w := range a.writes {
		if err := seccomp.Write(f.key.tid, w.addr, w.bytes); err != nil {
			return l.refuse(f, unix.EFAULT, err)
		}
	}
	switch {
	case a.errno != 0:
		return l.listener.Fail(f.last.ID, a.errno)
	case !a.hasFD:
		return l.listener.Return(f.last.ID, a.val)
	}
	err := l.listener.Inject(f.last.ID, a.inject, a.cloexec)
	var errno unix.Errno
	if errors.As(err, &errno) { // the task has no room for it
		return l.refuse(f, errno, err)
	}
	return err
}

// refuse fails a call whose answer cannot be given: that is the next one's before the
// thread goes on, which may ask again at once.
func (l *Layer) refuse(f *flight, errno unix.Errno, why error) error {
	if !l.listener.Valid(f.last.ID) {
		return seccomp.ErrGone
	}
	if f.ans.settle != nil {
		f.ans.settle(false)
	}
	f.ans = answer{errno: errno, again: f.ans.again}
	return errors.Join(l.listener.Fail(f.last.ID, errno), why)
}

// end is the end of f; f.mu is held.
func (l *Layer) end(f *flight, taken bool) {
	if f.done {
		return
	}
	f.done = true
	if f.timer != nil {
		f.timer.Stop()
	}
	if f.ans.settle != nil {
		f.ans.settle(taken)
	}
	l.mu.Lock()
	if l.flights[f.key] == f {
		delete(l.flights, f.key)
	}
	l.mu.Unlock()
}

// giveUp ends f, whose thread has not come back, or with something else.
func (l *Layer) giveUp(f *flight) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l.end(f, false)
}

// settle ends the flights that have an answer nobody came for.
func (l *Layer) settle() {
	l.mu.Lock()
	var all []*flight
	for _, f := range l.flights {
		all = append(all, f)
	}
	l.mu.Unlock()
	for _, f := range all {
		f.mu.Lock()
		if f.ready {
			l.end(f, false)
		}
		f.mu.Unlock()
	}
}

// wanted tells whether somebody still waits for c.
func (c *call) wanted() bool {
	c.flight.mu.Lock()
	id := c.flight.last.ID
	c.flight.mu.Unlock()
	return c.l.listener.Valid(id)
}

// givenUp tells whether c's thread has come back with something else.
func (c *call) givenUp() bool {
	c.flight.mu.Lock()
	defer c.flight.mu.Unlock()
	return c.flight.done
}
