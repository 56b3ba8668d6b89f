package session

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/cluster"
	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
	"mirrord/protocol/link"
)

// ofWorkload gives a session other pods. Nobody follows the workload but the test,
// and the pods' agent is the one that runs here.
func ofWorkload(t *testing.T, m *Manager, id string) (*Session, *others) {
	t.Helper()
	s, err := m.session(id)
	if err != nil {
		t.Fatal(err)
	}
	o := newOthers(m.agents, nil, cluster.Path{Kind: "deployment", Name: "web"}, s.config)
	addr := s.start.Overrides.Agent
	o.reach = func(pod string) (*replica, error) {
		a, err := m.agents.open(s.ctx, "address "+addr, func(ctx context.Context) (opened, error) {
			t, err := m.agents.dial(ctx, addr, link.Grace)
			return opened{tunnel: t}, err
		})
		return &replica{agent: a, target: target{pod: pod, uid: pod, name: "pod/" + pod}, since: time.Now()}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	o.s, s.others, o.begun = s, o, true
	s.wg.Go(o.run)
	return s, o
}

func readyPod(name string) cluster.Replica {
	return cluster.Replica{Pod: name, UID: name, Target: new(cluster.Target), Ready: true}
}

// Where there is no port to be taken one pod joins, when the main one is about to go.
func TestWhoIsToJoin(t *testing.T) {
	o := newOthers(nil, nil, cluster.Path{}, nil)
	main := &replica{target: target{uid: "main"}}
	o.s = &Session{replicas: []*replica{main}}
	o.s.main.Store(main)
	o.see([]cluster.Replica{
		readyPod("main"), readyPod("b"), {Pod: "c", UID: "c", Target: new(cluster.Target)}, {Pod: "d", UID: "d", Why: "it does not run"},
	}, true)
	now := time.Now()
	want := func(what string, want string, later bool) {
		t.Helper()
		list, wait := o.due(now)
		var got string
		for _, name := range []string{"main", "b", "c", "d"} {
			for _, c := range list {
				if c.Pod == name {
					got += name
				}
			}
		}
		if got != want || (wait < retryFirst+time.Second) != later {
			t.Errorf("%s: %q join, others after %v; want %q", what, got, wait, want)
		}
	}
	want("without a port", "", false)
	main.ending = true
	want("when the main pod is about to go", "b", false)
	o.known["b"].joining = true
	want("while one joins", "", false)
	o.known["b"].joining = false
	o.known["b"].failed(errors.New("no agent"))
	want("when that has failed", "c", true)
	o.taking = true
	want("with a port", "c", true)
	now = now.Add(retryFirst + time.Second)
	want("later", "bc", false)
}

// While the main pod is being replaced, listen(2) waits for the next.
func TestListenWaitsForTheNextPod(t *testing.T) {
	m, info, told := begin(t, "")
	s, o := ofWorkload(t, m, info.ID)
	o.see(nil, true)
	a := s.agent()
	m.agentNews(a, news{words: "target pod a was deleted", lost: true})
	a.tunnel.Close()
	pod, own := serve(t, "pod"), serve(t, "debuggee")
	c := attach(t, m, info.ID)
	s.mu.Lock()
	changed := o.changed
	s.mu.Unlock()
	go func() {
		<-changed // it listens
		o.see([]cluster.Replica{readyPod("b")}, true)
	}()
	c.listen(pod.at().Port(), own.Listener)
	wantAnswer(t, "in the next pod", whoAnswers(pod.at().Port()), "debuggee")
	if e := until(t, told, ide.EventMoved); e.Message != "pod/b" {
		t.Errorf("it has moved to %s", e.Message)
	}

	// Whose agent ends at once is not started again at once.
	b := s.agent()
	m.agentNews(b, news{words: "its agent ended", lost: true})
	s.mu.Lock()
	defer s.mu.Unlock()
	if k := o.known["b"]; k.err == nil || k.pause != 2*retryFirst {
		t.Errorf("it is tried again after %v, %v", k.pause, k.err)
	}
}

// A port that is another's at a replica is taken when that gives it back.
func TestPortOfAReplicaIsTriedAgain(t *testing.T) {
	m, info, _ := begin(t, "")
	pod, first, second := serve(t, "pod"), serve(t, "first"), serve(t, "second")
	port := pod.at().Port()
	attach(t, m, info.ID).listen(port, first.Listener)
	one, err := m.session(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	p := one.start
	p.ID = ""
	if info, err = m.Start(t.Context(), p, func(string) {}); err != nil {
		t.Fatal(err)
	}
	s, _ := ofWorkload(t, m, info.ID)
	l := &listener{at: addresses{{Addr: second.at()}}, held: map[*replica]*tunnel.Held{}}
	s.mu.Lock()
	s.listeners[port] = l
	s.mu.Unlock()
	s.takeAt(s.main.Load(), port, l)
	if len(l.held) > 0 {
		t.Fatal("two have the port")
	}
	if err := m.Stop(t.Context(), one.id); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); ; {
		got := <-whoAnswers(port)
		if got == "second" {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("still answered by %q", got)
		}
	}
}

// What may be stolen is asked of each replica, when its port is taken.
func TestNodeNetworkOfAReplica(t *testing.T) {
	m, info, _ := begin(t, "")
	s, err := m.session(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	r := &replica{agent: s.agent(), target: target{pod: "b", namespace: "shop", nodes: true}}
	pod := serve(t, "pod")
	held, err := s.steal(t.Context(), r, pod.at().Port(), new(listener))
	if err == nil {
		held.Release()
	}
	if e, ok := errors.AsType[*ide.Error](err); !ok || e.Code != ide.CodeConfig || !strings.Contains(e.Hint, "host_network") {
		t.Errorf("stealing from a node: %v", err)
	}
	mirrored, err := s.steal(t.Context(), r, pod.at().Port(), &listener{terms: terms{mirror: true}})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EPERM) {
		t.Errorf("mirroring a node: %v", err)
	} else if err == nil {
		mirrored.Release()
	}
	s.mu.Lock()
	s.config.Incoming.HostNetwork = true
	err = r.target.stealable(s.config)
	s.mu.Unlock()
	if err != nil {
		t.Error(err)
	}
}

// What the former pod's agent has answered is not to be kept after a move.
func TestLeaseAcrossAMove(t *testing.T) {
	m, info, _ := begin(t, "")
	c := attach(t, m, info.ID)
	s, err := m.session(info.ID)
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	var l *launcher
	for l = range s.launchers {
	}
	s.mu.Unlock()
	lease := protocol.Lease{ID: 1, Seq: 5}
	for i, by := range []*tunnel.Tunnel{s.tunnel(), new(tunnel.Tunnel)} {
		if err := l.replyBy(by, &layer.Reply{Seq: 99, Lease: lease}, nil); err != nil {
			t.Fatal(err)
		}
		if reply, _ := c.read(99); (reply.Lease == lease) != (i == 0) {
			t.Errorf("answer %d may be kept by %+v", i, reply.Lease)
		}
	}
}

// Of several replicas a ready one that stays becomes the main one, and the session
// says what it is bound to now.
func TestWhoIsNext(t *testing.T) {
	m, info, told := begin(t, "")
	s, o := ofWorkload(t, m, info.ID)
	main := s.main.Load()
	main.target.uid = "main"
	s.mu.Lock()
	for _, name := range []string{"ready", "leaving", "starting"} {
		r := &replica{agent: &agent{tunnel: main.agent.tunnel}, target: target{pod: name, uid: name, name: "pod/" + name}, ending: name == "leaving"}
		s.replicas = append(s.replicas, r)
		c := readyPod(name)
		c.Ready = name == "ready"
		o.known[name] = &candidate{Replica: c, pause: retryFirst}
	}
	s.mu.Unlock()
	m.agentNews(main.agent, news{words: "target pod main is being deleted", ending: true})
	if e := until(t, told, ide.EventMoved); e.Message != "pod/ready" {
		t.Errorf("it has moved to %s", e.Message)
	}
	if l, err := m.Launch(t.Context(), info.ID); err != nil || l.Session.Pod != "ready" || !l.Policy.Steal || l.Start.Pod != "ready" {
		t.Errorf("launchers are told of %+v, %v", l, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.replicas { // the test's have agents that nobody counts
		if r != main {
			defer s.drop(r)
		}
	}
}
