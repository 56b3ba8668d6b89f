package session

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"mirrord/daemon/config"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// pauseTarget has a replica's container stand still, if that is wanted of all. It does so
// until the session ends, or the replica is none of its any more.
func (s *Session) pauseTarget(ctx context.Context, r *replica) error {
	s.mu.Lock()
	wanted := s.still && r.resume == nil && !r.gone && !r.ending
	s.mu.Unlock()
	if !wanted {
		return nil
	}
	q := protocol.Pause{Session: s.id}
	for _, port := range r.target.ownProbes {
		q.Probes = append(q.Probes, uint16(port))
	}
	resume, err := r.agent.tunnel.Pause(ctx, q, func(err error) { s.unpaused(r, err) })
	if err != nil {
		return &ide.Error{
			Code: ide.CodeAgent, Msg: fmt.Sprintf("pausing %s: %v", r.target.name, err), Err: err,
			Hint: `leave out "feature": {"pause": true} to start without`,
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ctx.Err() != nil || r.gone || r.ending || r.resume != nil || !s.still {
		resume()
		return nil
	}
	r.resume = resume
	s.log.Info("target paused", "target", r.target.name)
	s.event(ide.SessionEvent{Kind: ide.EventMessage, Message: r.target.name + " is paused"})
	return nil
}

// withoutAnswer warns of probes that the agent does not know while the target is paused.
func (t *target) withoutAnswer(cfg *config.Config) (list []string) {
	if cfg.Pause {
		for _, probe := range t.unlike {
			list = append(list, "kubelet has no answer from the paused container, and may restart it: "+probe)
		}
	}
	return list
}

// goOn ends a replica's pause. Session.mu is held.
func (r *replica) goOn() {
	if r.resume != nil {
		r.resume()
		r.resume = nil
	}
}

// unpaused tells the user that a container runs that was to stand still.
func (s *Session) unpaused(r *replica, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if r.gone || s.ctx.Err() != nil {
		return
	}
	r.goOn()
	s.say(fmt.Sprintf("%s is not paused any more: %v", r.target.name, err))
}

// pauseTargets has all replicas stand still, or go on.
func (s *Session) pauseTargets(ctx context.Context, on bool) error {
	s.mu.Lock()
	s.still = on
	all := slices.Clone(s.replicas)
	if !on {
		for _, r := range all {
			r.goOn()
		}
	}
	s.mu.Unlock()
	var failed error
	for _, r := range all {
		failed = errors.Join(failed, s.pauseTarget(ctx, r))
	}
	return failed
}
