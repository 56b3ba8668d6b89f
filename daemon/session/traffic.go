package session

import (
	"fmt"

	"golang.org/x/sys/unix"

	"mirrord/daemon/forward"
	"mirrord/daemon/traffic"
	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// watchTraffic has those sessions observed that somebody asks about. m.mu is held.
func (m *Manager) watchTraffic() {
	for _, s := range m.sessions {
		s.watchTraffic(m.events.watched(s.id))
	}
}

func (s *Session) watchTraffic(on bool) {
	if !s.traffic.Watch(on) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for l := range s.launchers {
		l.notices.watched(on)
	}
}

// Request tells of a request that was seen.
func (m *Manager) Request(p ide.RequestParams) (ide.RequestResult, error) {
	s, err := m.session(p.ID)
	if err != nil {
		return ide.RequestResult{}, err
	}
	r, ok := s.traffic.Request(p.Request, p.Reveal)
	if !ok {
		return r, &ide.Error{
			Code: ide.CodeParams, Msg: fmt.Sprintf("session %s has no request %d", p.ID, p.Request),
			Hint: "the last 200 are kept while somebody listens with session/events and its traffic",
		}
	}
	return r, nil
}

// outgoing watches a connection that a launcher asks for.
func (l *launcher) outgoing(proto string, r *layer.Request) forward.Watch {
	return l.s.traffic.Outgoing(proto, r.Addr, r.Mode)
}

// tellOpened tells of a file that the target was asked for.
func (l *launcher) tellOpened(r *layer.Request, attr protocol.Attr, err error) {
	if l.visitor || !l.s.traffic.Watched() {
		return
	}
	o := traffic.Opening{
		Path: r.Path, List: r.Flags&layer.OpenDirectory != 0 || attr.Mode&unix.S_IFMT == unix.S_IFDIR, Write: r.Flags&layer.OpenWrite != 0,
		Thread: r.Mode, Err: err,
	}
	if attr.Mode&unix.S_IFMT == unix.S_IFREG {
		o.Bytes = attr.Size
	}
	l.s.traffic.File(o)
}

// opened takes a launcher's word of files that it answered by itself.
func (l *launcher) opened(r *layer.Request) {
	o := traffic.Opening{
		Path: r.Path, List: r.Flags&layer.OpenDirectory != 0, Write: r.Flags&layer.OpenWrite != 0,
		Thread: r.Mode, Count: int(r.Seq),
	}
	if r.Flags&layer.OpenFailed != 0 {
		o.Err = unix.Errno(r.Node)
	} else {
		o.Bytes = int64(r.Node)
	}
	l.s.traffic.File(o)
}
