package session

import (
	"context"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/daemon/tunnel"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// settleTime is far more than the agent's word of what it has just changed takes.
const settleTime = time.Second

// change changes the target's files. Before it is answered the launcher has
// been told what of its answers is not true any more.
func (l *launcher) change(r *layer.Request, answer *layer.Reply) error {
	q, err := layer.DecodeChange(r.Path)
	if err != nil {
		return &ide.Error{Msg: err.Error(), Err: unix.EPROTO}
	}
	switch q.Op {
	case protocol.ChangeLink, protocol.ChangeMode, protocol.ChangeOwner, protocol.ChangeTimes:
		if r.Node == 0 {
			break
		}
		if q.Handle, err = l.m.nodes.settledHandle(l.ctx, r.Node); err != nil {
			return err
		}
	}
	switch q.Op {
	case protocol.ChangeMkdir, protocol.ChangeMknod, protocol.ChangeSymlink, protocol.ChangeUnlink, protocol.ChangeRmdir:
	default: // the file is to be seen, or is changed, as it is written
		if q.Handle != 0 {
			break
		}
		if err := l.settlePath(q.Path, nil, !q.NoFollow && q.Op != protocol.ChangeRename); err != nil {
			return err
		}
	}
	var reply protocol.ChangeReply
	a := l.s.agent()
	if err := l.askChange(q, &reply, answer); err != nil {
		return err
	}
	l.m.changedByName(l.ctx, a.tunnel, reply.Files)
	l.settle(a, reply.Seq)
	return nil
}

// changedByName has what is told of files that are open asked for anew, also by the
// kernel, where it is known of them that they are others now.
func (m *Manager) changedByName(ctx context.Context, t *tunnel.Tunnel, list []protocol.FileID) {
	open := m.nodes.stale(t, list)
	f := m.fileServer()
	if f == nil || len(open) == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, settleTime)
	defer cancel()
	f.Changed(ctx, open)
}

// settle waits until the launcher has been told of what expired up to seq, which is
// a's: where the session has moved nothing of a's is kept.
func (l *launcher) settle(a *agent, seq uint64) {
	if h := a.hearing.Load(); h != nil && l.s.agent() == a {
		ctx, cancel := context.WithTimeout(l.ctx, settleTime)
		defer cancel()
		if h.until(ctx, seq) != nil {
			h.missed(seq, l.notices.expired)
		}
	}
	_ = l.passOn() // its failure ends read as well
}

func (l *launcher) statfs(r *layer.Request, reply *layer.Reply) error {
	var told protocol.StatfsReply
	if _, err := l.s.tunnel().Call(l.ctx, protocol.KindStatfs, protocol.Statfs{Path: protocol.Path(r.Path)}, &told); err != nil {
		return err
	}
	reply.Data = layer.AppendStatfs(nil, &told)
	return nil
}

func (l *launcher) askChange(q protocol.Change, reply *protocol.ChangeReply, answer *layer.Reply) error {
	_, err := l.s.tunnel().Call(l.ctx, protocol.KindChange, q, reply)
	if reply.From != "" && reply.To != "" {
		answer.Data = []byte(string(reply.From) + "\x00" + string(reply.To))
	}
	return err
}
