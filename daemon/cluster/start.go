package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

const (
	tryEach = 50 * time.Millisecond
	tryMax  = 5 * time.Second
	// No pod answers sooner; a try before it only burdens the kubelet.
	firstTry = 120 * time.Millisecond

	rounds = 4 // how often an agent may end under our hands, being idle
)

var errEnded = errors.New("the agent ended while it was being reached")

// StartAgent finds or creates the agent for a target and hands try fresh
// connections to it until one succeeds, which try then owns. It ends with an
// error as soon as the agent's pod cannot come to run, in the words of the
// cluster's own event, or in those of a target that does not run any more. After an
// error or ctx's end it leaves no job behind, unless another session uses it.
//
// progress may be nil; it is never called concurrently.
func (c *Cluster) StartAgent(ctx context.Context, t *Target, spec AgentSpec, progress func(step string), try func(context.Context, net.Conn) error) (*Agent, error) {
	manifest, err := job(t, spec)
	if err != nil {
		return nil, err
	}
	s := &start{c: c, manifest: manifest, port: spec.Port, try: try, tell: progress}
	agent, err := s.start(ctx, spec)
	if IsKind(err, AgentFailed) && !t.Targetless() {
		// It may have ended for want of a container that had just crashed.
		if _, now := c.Resolve(ctx, Path{Kind: pods.name, Name: t.Pod, Container: t.Container}); IsKind(now, NotRunning) {
			err = now
		}
	}
	return agent, err
}

func (s *start) start(ctx context.Context, spec AgentSpec) (agent *Agent, err error) {
	timeout := cmp.Or(spec.StartupTimeout, time.Minute)
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, errStartup)
	defer cancel()
	for range rounds {
		agent, err = s.round(ctx)
		if !errors.Is(err, errEnded) {
			if errors.Is(err, errStartup) {
				err = s.failed(fmt.Errorf("not reached within %v%s", timeout, s.seen()), "")
			}
			return agent, err
		}
	}
	return nil, s.failed(err, "")
}

var errStartup = errors.New("startup timeout")

// A start is one call of StartAgent.
type start struct {
	c        *Cluster
	manifest *batchv1.Job
	port     int
	try      func(context.Context, net.Conn) error
	tell     func(step string)
	refused  bool // the server's answer: there is no job of ours

	mu    sync.Mutex
	step  string // guarded by mu: what progress was told last
	tried error  // guarded by mu: the last try's
}

func (s *start) progress(step string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.step == step {
		return
	}
	s.step = step
	if s.tell != nil {
		s.tell(step)
	}
}

// seen is what is known when time is up.
func (s *start) seen() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	text := " (" + s.step
	if s.tried != nil {
		text += "; last try: " + s.tried.Error()
	}
	return text + ")"
}

func (s *start) failed(err error, hint string) error {
	return &Error{
		Kind: AgentFailed, Msg: fmt.Sprintf("starting agent %s in namespace %s", s.manifest.Name, s.manifest.Namespace),
		Err: err, Hint: hint,
	}
}

// round claims the job and follows it to an answering agent or its end.
//
// Goroutines: it starts one that follows the job's pod and one that looks for
// the job's events; either ends the tries by cancelling ctx. It waits for both.
func (s *start) round(ctx context.Context) (agent *Agent, err error) {
	parent := ctx
	defer func() {
		if err != nil {
			agent = nil
			s.release(parent, err)
		}
	}()
	job, created, err := s.claim(ctx)
	if err != nil {
		return nil, err
	}
	claimed := time.Now()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	found := make(chan *corev1.Pod, 1)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel(nil)
	wg.Go(func() { cancel(s.followPod(ctx, job, created, found)) })
	wg.Go(func() {
		if err := s.followEvents(ctx, job, created); err != nil {
			cancel(err)
		}
	})
	select {
	case pod := <-found:
		agent = &Agent{c: s.c, Namespace: pod.Namespace, Job: job.Name, Pod: pod.Name, Created: created, uid: string(pod.UID), job: job.UID, port: s.port}
		return agent, s.reach(ctx, agent, claimed)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// reach tries until the agent answers or ctx says why it never will.
func (s *start) reach(ctx context.Context, a *Agent, claimed time.Time) error {
	if a.Created {
		if err := pause(ctx, firstTry-time.Since(claimed)); err != nil {
			return err
		}
	}
	for {
		began := time.Now()
		err := s.attempt(ctx, a)
		if err == nil {
			return nil
		}
		if d, ok := ctx.Deadline(); ok && time.Until(d) <= 0 {
			<-ctx.Done() // a connection's deadline is the same, and may come first
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if errors.Is(err, ErrFinal) || IsKind(err, Forbidden) || IsKind(err, Unauthorized) {
			return err
		}
		s.mu.Lock()
		s.tried = err
		s.mu.Unlock()
		if err := pause(ctx, tryEach-time.Since(began)); err != nil {
			return err
		}
	}
}

func (s *start) attempt(ctx context.Context, a *Agent) error {
	ctx, cancel := context.WithTimeout(ctx, tryMax)
	defer cancel()
	conn, err := a.Dial(ctx)
	if err != nil {
		return err
	}
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	err = s.try(ctx, conn)
	if !stop() && err == nil {
		err = context.Cause(ctx) // closed under try's hands
	}
	if err != nil {
		conn.Close()
	}
	return err
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(max(d, 0)):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// A deadError says that the job's pod will never run.
type deadError struct{ error }

func (e deadError) Unwrap() error { return e.error }

func (s *start) dead(err error, hint string) error { return deadError{s.failed(err, hint)} }
