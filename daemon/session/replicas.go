package session

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	"mirrord/daemon/cluster"
	"mirrord/daemon/config"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

const (
	// settlePatience is how long listen(2) waits for the agents of the replicas
	// that there are; those that come later take the ports that are taken by then.
	settlePatience = 10 * time.Second

	maxJoining = 8 // agents that are started at a time

	// A replica whose agent did not start, or is gone, is tried again.
	retryFirst = time.Second
	retryLast  = time.Minute
)

// A replica is a pod whose ports a session takes, by an agent of its own.
type replica struct {
	agent  *agent
	target target
	since  time.Time // when it joined
	ending bool      // guarded by Session.mu; its pod is being deleted
	gone   bool      // guarded by Session.mu; it is none any more
	resume func()    // guarded by Session.mu; ends the pause of its container; nil: there is none
}

// others are the pods of a session's workload beside the main one. Once a port is
// taken, each pod that runs is a replica, whatever scales or rolls out: so its ports
// are taken before it is ready. Where the main one is about to go, another takes
// its place, which is found then if there is no port to be taken.
//
// Goroutines: one that hears of pods and one that has them join, from the first
// need on, and one for each that joins; Session.close waits for all.
type others struct {
	s        *Session
	agents   *agents
	cluster  *cluster.Cluster
	path     cluster.Path // of the workload, with the container
	config   *config.Config
	reach    func(pod string) (*replica, error) // gets a pod an agent
	slots    chan struct{}                      // one for each that joins
	wake     chan struct{}                      // of capacity 1
	patience time.Duration

	// Guarded by Session.mu.
	known   map[string]*candidate // by the pod's uid
	begun   bool                  // its goroutines run
	all     bool                  // known has been complete
	taking  bool                  // a port is, or was, taken
	changed chan struct{}         // closed when something here changes
}

// A candidate is a pod that may become a replica.
type candidate struct {
	cluster.Replica // as it was seen last
	joining         bool
	err             error // of the last try
	told            bool  // the user knows why it is none
	retry           time.Time
	pause           time.Duration // before the next try but one
}

// failed has c wait before it is tried again, for longer each time.
func (c *candidate) failed(err error) {
	c.err, c.retry = err, time.Now().Add(c.pause)
	c.pause = min(2*c.pause, retryLast)
}

func newOthers(as *agents, c *cluster.Cluster, path cluster.Path, cfg *config.Config) *others {
	o := &others{
		agents: as, cluster: c, path: path, config: cfg, patience: settlePatience,
		slots: make(chan struct{}, maxJoining), wake: make(chan struct{}, 1),
		known: map[string]*candidate{}, changed: make(chan struct{}),
	}
	o.reach = o.inCluster
	return o
}

// expect begins before a port is taken, where one is likely to be.
func (o *others) expect() {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.taking = true
	o.begin()
	o.change()
}

// begin starts to follow the workload. s.mu is held.
func (o *others) begin() {
	if o.begun || o.s.ctx.Err() != nil {
		return
	}
	o.begun = true
	o.s.wg.Go(func() {
		if err := o.cluster.Replicas(o.s.ctx, o.path, o.see); o.s.ctx.Err() == nil {
			o.s.log.Warn("replicas are not followed", "err", err)
			o.s.mu.Lock()
			defer o.s.mu.Unlock()
			o.all = true // nobody waits for more
			o.change()
			o.s.say(fmt.Sprintf("only pod %s is used of %s: %v", o.s.main.Load().target.pod, o.path, err))
		}
	})
	o.s.wg.Go(o.run)
}

// change tells who waits here that something is different. s.mu is held.
func (o *others) change() {
	close(o.changed)
	o.changed = make(chan struct{})
	select {
	case o.wake <- struct{}{}:
	default:
	}
}

// see takes note of pods.
func (o *others) see(list []cluster.Replica, all bool) {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	was := o.known
	if all {
		o.known, o.all = map[string]*candidate{}, true
	}
	for _, r := range list {
		c := was[r.UID]
		switch {
		case r.Gone:
			delete(o.known, r.UID)
			continue
		case c == nil:
			c = &candidate{pause: retryFirst}
		}
		c.Replica = r
		o.known[r.UID] = c
	}
	o.change()
}

// run has pods join when they are due.
func (o *others) run() {
	for {
		var retry <-chan time.Time
		if wait := o.joinDue(); wait < math.MaxInt64 {
			retry = time.After(wait)
		}
		select {
		case <-o.wake:
		case <-retry:
		case <-o.s.ctx.Done():
			return
		}
	}
}

// joinDue returns how long to wait for the next that is tried again.
func (o *others) joinDue() time.Duration {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	if o.s.ctx.Err() != nil {
		return math.MaxInt64
	}
	list, wait := o.due(time.Now())
	for _, c := range list {
		c.joining = true
		pod := c.Pod
		o.s.wg.Go(func() { o.join(c, pod) })
	}
	return wait
}

// due are those that are to join now, and how long it is till others are. Where
// there is no port to be taken it is one, a ready one if there is any. s.mu is held.
func (o *others) due(now time.Time) (list []*candidate, wait time.Duration) {
	wait = math.MaxInt64
	for _, c := range o.known {
		if !o.wanted(c) {
			continue
		}
		if until := c.retry.Sub(now); until > 0 {
			wait = min(wait, until)
			continue
		}
		list = append(list, c)
	}
	if !o.taking && len(list) > 1 {
		i := slices.IndexFunc(list, func(c *candidate) bool { return c.Ready })
		list = []*candidate{list[max(i, 0)]}
	}
	return list, wait
}

// wanted tells whether c is to join. s.mu is held.
func (o *others) wanted(c *candidate) bool {
	if c.Target == nil || c.joining || slices.ContainsFunc(o.s.replicas, func(r *replica) bool { return r.target.uid == c.UID }) {
		return false
	}
	if o.taking {
		return true
	}
	for _, other := range o.known {
		if other.joining {
			return false
		}
	}
	main := o.s.main.Load()
	return main.gone || main.ending
}

// join makes a replica of c, which is that pod.
func (o *others) join(c *candidate, pod string) {
	s := o.s
	var r *replica
	err := context.Canceled
	select {
	case o.slots <- struct{}{}:
		r, err = o.reach(pod)
		<-o.slots
	case <-s.ctx.Done():
	}
	s.mu.Lock()
	c.joining = false
	o.change()
	switch {
	case s.ctx.Err() != nil:
		s.mu.Unlock()
		if err == nil {
			o.agents.put(r.agent)
		}
		return
	case err != nil:
		defer s.mu.Unlock()
		c.failed(err)
		if !c.told && o.known[c.UID] == c {
			c.told = true
			s.say(fmt.Sprintf("replica %s of %s keeps its own requests for now: %v", c.Pod, o.path, err))
		}
		return
	}
	c.err, c.told = nil, false
	if !o.agents.has(r.agent) { // it was lost before it could be heard of
		c.failed(errLost)
		s.mu.Unlock()
		o.agents.put(r.agent)
		return
	}
	s.replicas = append(s.replicas, r)
	s.log.Info("replica joined", "target", r.target.pod)
	s.event(ide.SessionEvent{Kind: ide.EventMessage, Message: "replica " + r.target.pod + " has joined"})
	if main := s.main.Load(); main.gone || main.ending {
		defer o.move(r, "")()
	}
	listeners := maps.Clone(s.listeners)
	s.mu.Unlock()
	if err := s.pauseTarget(s.ctx, r); err != nil && s.ctx.Err() == nil {
		s.mu.Lock()
		s.say(fmt.Sprintf("replica %s is not paused: %v", r.target.pod, err))
		s.mu.Unlock()
	}
	for port, l := range listeners {
		s.takeAt(r, port, l)
	}
}

var errLost = errors.New("its agent was lost")

// inCluster gets a pod an agent.
func (o *others) inCluster(pod string) (*replica, error) {
	t, err := o.cluster.Resolve(o.s.ctx, cluster.Path{Kind: "pod", Name: pod, Container: o.path.Container})
	if err != nil {
		return nil, err
	}
	r := &replica{target: targetOf(o.cluster, t), since: time.Now()}
	o.s.mu.Lock()
	err = r.target.stealable(o.s.config)
	o.s.mu.Unlock()
	if err == nil {
		r.agent, err = o.agents.reach(o.s.ctx, o.cluster, t, o.config, func(string) {})
	}
	return r, err
}

// settle waits, for a while, until all pods that are ready are replicas, and
// tells of those that are none.
func (o *others) settle(ctx context.Context) {
	o.expect()
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	o.await(ctx, func() bool { return !o.unsettled() })
	o.tellMissing()
}

// await waits until it is so, but not for longer than is reasonable. s.mu is held,
// but not meanwhile.
func (o *others) await(ctx context.Context, so func() bool) {
	timeout := time.NewTimer(o.patience)
	defer timeout.Stop()
	for late := false; !so() && !late && ctx.Err() == nil && o.s.ctx.Err() == nil; {
		changed := o.changed
		o.s.mu.Unlock()
		select {
		case <-changed:
		case <-timeout.C:
			late = true
		case <-ctx.Done():
		case <-o.s.ctx.Done():
		}
		o.s.mu.Lock()
	}
}

// replaced tells whether there is another main replica than the one whose agent is
// gone, which is waited for.
func (o *others) replaced(ctx context.Context, main *replica) bool {
	o.s.mu.Lock()
	defer o.s.mu.Unlock()
	select {
	case <-main.agent.tunnel.Done():
	default:
		if !main.gone {
			return false
		}
	}
	o.await(ctx, func() bool { return o.s.main.Load() != main })
	return o.s.main.Load() != main
}

// unsettled tells whether there is one that may become a replica at once. s.mu is held.
func (o *others) unsettled() bool {
	if !o.all {
		return true
	}
	for _, c := range o.known {
		if c.Ready && (c.joining || o.wanted(c) && c.err == nil) {
			return true
		}
	}
	return false
}

// tellMissing names, once, those that are no replicas. s.mu is held.
func (o *others) tellMissing() {
	var missing []string
	for _, c := range o.known {
		switch {
		case c.told:
			continue
		case c.Target == nil:
			missing = append(missing, c.Pod+" ("+c.Why+")")
		case c.joining && c.Ready:
			missing = append(missing, c.Pod+" (its agent does not answer yet)")
		default:
			continue
		}
		c.told = true
	}
	if len(missing) > 0 {
		slices.Sort(missing)
		o.s.say(fmt.Sprintf("not taken yet of %s: %s; their requests follow when they are ready", o.path, strings.Join(missing, ", ")))
	}
}

// hear takes news of a replica's agent.
func (o *others) hear(r *replica, n news) {
	done := func() {}
	defer func() { done() }()
	s := o.s
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gone {
		return
	}
	r.ending = r.ending || n.ending
	if r.ending {
		r.goOn() // it is asked to end, and could not
	}
	if n.lost {
		s.drop(r)
		o.agents.put(r.agent)
		if c := o.known[r.target.uid]; c != nil {
			if time.Since(r.since) > retryLast {
				c.pause = retryFirst
			} else { // another may end as soon
				c.failed(errLost)
			}
		}
	}
	o.change()
	switch {
	case s.main.Load() != r:
		s.event(ide.SessionEvent{Kind: ide.EventMessage, Message: n.words})
	case !n.lost && !n.ending:
		s.say(n.words)
	default:
		done = o.succeed(n)
	}
}

// succeed finds another main replica, where the news of the present one say that
// it is about to go or gone. s.mu is held; done is called without it.
func (o *others) succeed(n news) (done func()) {
	s := o.s
	var next *replica // a ready one if there is any, and the last to come
	for _, r := range s.replicas {
		if !r.ending && (next == nil || o.ready(r) || !o.ready(next)) {
			next = r
		}
	}
	if next != nil {
		return o.move(next, n.words+": ")
	}
	o.begin()
	if n.lost {
		n.words += fmt.Sprintf(": what is remote fails until the agent of a ready replica of %s runs", o.path)
		s.lost = errors.New(n.words)
	}
	s.say(n.words)
	return func() {}
}

// ready tells whether a replica's pod is. s.mu is held.
func (o *others) ready(r *replica) bool {
	c := o.known[r.target.uid]
	return c != nil && c.Ready
}

// move makes r the main replica. s.mu is held; done is called without it.
func (o *others) move(r *replica, why string) (done func()) {
	s, since := o.s, "from now on; the environment stays, and what is open ends with its pod"
	if s.main.Swap(r).target.uid == r.target.uid { // by another agent
		since = "again; what was open is gone"
	}
	s.lost = nil
	o.change()
	hello := r.agent.tunnel.Hello()
	s.launch.Session.Pod, s.launch.Session.Target = r.target.pod, r.target.name
	s.launch.Hostname, s.launch.Addrs = hello.Hostname, hello.Addrs
	s.launch.Policy, s.launch.Start.Pod = s.config.Policy(r.target.mounts), r.target.pod
	for l := range s.launchers { // what they know is the former one's
		l.notices.expired(protocol.Expired{Seq: noLeases, All: true})
	}
	s.log.Info("moved", "target", r.target.name)
	s.event(ide.SessionEvent{Kind: ide.EventMoved, Message: r.target.name})
	s.say(fmt.Sprintf("%sfiles, names and outgoing connections are those of pod %s %s", why, r.target.pod, since))
	return func() {
		if h := r.agent.hearing.Load(); h != nil {
			h.renew()
		} // else it is told when it hears
	}
}

// replicaOf is the session's replica that a serves; nil: none.
func (s *Session) replicaOf(a *agent) *replica {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas {
		if r.agent == a {
			return r
		}
	}
	return nil
}

// drop makes r none of the replicas; its agent is the caller's to put. s.mu is held.
func (s *Session) drop(r *replica) {
	r.gone = true
	r.goOn()
	s.replicas = slices.DeleteFunc(s.replicas, func(other *replica) bool { return other == r })
	for _, l := range s.listeners {
		if held := l.held[r]; held != nil {
			held.Release()
			delete(l.held, r)
		}
	}
}

// takeAt takes a port that is taken at the main replica at another one, too. Where
// that fails it is tried again.
func (s *Session) takeAt(r *replica, port uint16, l *listener) {
	err := s.tryAt(r, port, l)
	if err == nil {
		return
	}
	s.mu.Lock()
	if s.wants(r, port, l) {
		s.say(fmt.Sprintf("replica %s keeps its own requests to port %d for now: %v", r.target.pod, port, err))
	}
	s.mu.Unlock()
	s.spawn(func() { s.takeLater(r, port, l) })
}

func (s *Session) takeLater(r *replica, port uint16, l *listener) {
	for pause := retryFirst; ; pause = min(2*pause, retryLast) {
		select {
		case <-time.After(pause):
		case <-s.ctx.Done():
			return
		}
		s.mu.Lock()
		wants := s.wants(r, port, l)
		s.mu.Unlock()
		if !wants {
			return
		}
		if s.tryAt(r, port, l) == nil {
			s.mu.Lock()
			s.say(fmt.Sprintf("requests to port %d of replica %s come, too, from now on", port, r.target.pod))
			s.mu.Unlock()
			return
		}
	}
}

// wants tells whether l's port is to be taken at r. s.mu is held.
func (s *Session) wants(r *replica, port uint16, l *listener) bool {
	return s.ctx.Err() == nil && !r.gone && s.listeners[port] == l
}

func (s *Session) tryAt(r *replica, port uint16, l *listener) error {
	held, err := s.steal(s.ctx, r, port, l)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := held.Lost(); err != nil {
		held.Release()
		return err
	}
	if !s.wants(r, port, l) {
		held.Release()
		return nil
	}
	l.held[r] = held
	s.settle(l) // which may have changed meanwhile
	return nil
}

// putAll gives the agents of a session that has ended back.
func (as *agents) putAll(s *Session) {
	s.mu.Lock()
	all := s.replicas
	s.replicas = nil
	s.mu.Unlock()
	for _, r := range all {
		as.put(r.agent)
	}
}
