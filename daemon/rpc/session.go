package rpc

import (
	"context"
	"errors"

	"mirrord/protocol/ide"
)

// sessionStart answers with an ide.Session, or as asked with an ide.Launch.
func sessionStart(k *conn, ctx context.Context, p ide.SessionStartParams) (any, error) {
	report, end := k.reports(ctx, p.Progress)
	defer end()
	s, err := k.server.sessions.Start(ctx, p, report)
	if err != nil {
		return s, err
	}
	if ctx.Err() != nil {
		// Nobody learns of the session from us. Untied: others may hold it, by an
		// id that they knew.
		k.server.sessions.Release(s.ID, false)
		return s, context.Cause(ctx)
	}
	k.mu.Lock()
	k.started = append(k.started, started{s.ID, p.Tied})
	k.mu.Unlock()
	if p.Launch {
		l, err := k.server.sessions.Launch(ctx, s.ID)
		l.Start.Client = ide.Client{} // who asks knows itself
		return l, err
	}
	return s, nil
}

func sessionLaunch(k *conn, ctx context.Context, p ide.SessionID) (ide.Launch, error) {
	return k.server.sessions.Launch(ctx, p.ID)
}

func sessionStop(k *conn, ctx context.Context, p ide.SessionID) (ide.Empty, error) {
	return ide.Empty{}, k.server.sessions.Stop(ctx, p.ID)
}

func sessionRestart(k *conn, ctx context.Context, p ide.SessionRestartParams) (ide.Session, error) {
	return k.server.sessions.Restart(ctx, p)
}

func sessionArm(k *conn, ctx context.Context, p ide.SessionID) (ide.Empty, error) {
	return ide.Empty{}, k.server.sessions.Arm(ctx, p.ID)
}

// sessionEvents is answered when there is nothing more to tell.
func sessionEvents(k *conn, ctx context.Context, p ide.SessionEventsParams) (ide.Empty, error) {
	err := k.server.sessions.Events(ctx, p, func(e ide.SessionEvent) { k.notify(ctx, ide.MethodSessionEvent, e) })
	if errors.Is(err, errEnds) {
		err = nil // nothing will happen any more
	}
	return ide.Empty{}, err
}

func sessionRequest(k *conn, _ context.Context, p ide.RequestParams) (ide.RequestResult, error) {
	return k.server.sessions.Request(p)
}

func sessionHolders(k *conn, ctx context.Context, p ide.TargetListParams) (ide.HoldersResult, error) {
	return k.server.sessions.Holders(ctx, p)
}

func sessionServing(k *conn, ctx context.Context, p ide.ServingParams) (ide.ServingResult, error) {
	return k.server.sessions.Serving(ctx, p)
}

func sessionList(k *conn, _ context.Context, _ ide.Empty) (ide.SessionListResult, error) {
	list := k.server.sessions.List()
	if list == nil {
		list = []ide.Session{} // an array on the wire
	}
	return ide.SessionListResult{Sessions: list}, nil
}
