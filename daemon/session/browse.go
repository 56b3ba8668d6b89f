package session

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"mirrord/protocol"
	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// Clients may look at the target's files, whatever the configuration says of the
// debuggee's. Nothing is kept: each request is answered by the agent.

const (
	maxListed   = 20_000 // entries of one answer
	askedAtOnce = 64     // entries of a directory: a far agent is asked about many in one round trip
)

// ListFiles lists a directory of the target.
func (m *Manager) ListFiles(ctx context.Context, p ide.FileParams) (r ide.FileListResult, err error) {
	err = m.look(ctx, "listing", p.ID, p.Path, func(ctx context.Context, s *Session, at string) error {
		n, _, err := m.openFile(ctx, s, protocol.Open{Path: protocol.Path(at), Directory: true})
		if err != nil {
			return err
		}
		defer m.closeFile(s, n)
		var list []protocol.DirEntry
		for more := true; more; {
			if len(list) >= maxListed {
				r.Truncated = true
				break
			}
			var part []protocol.DirEntry
			if part, more, err = n.readDir(ctx, len(list)); err != nil {
				return err
			}
			list = append(list, part...)
		}
		r.Entries, err = s.entries(ctx, at, list)
		return err
	})
	return r, err
}

// entries describes what a directory has, by name. What has gone meanwhile is left out.
func (s *Session) entries(ctx context.Context, dir string, list []protocol.DirEntry) ([]ide.FileEntry, error) {
	all := make([]*ide.FileEntry, len(list))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(askedAtOnce)
	for i, e := range list {
		g.Go(func() (err error) {
			all[i], err = s.entry(ctx, path.Join(dir, e.Name), e)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	entries := []ide.FileEntry{}
	for _, e := range all {
		if e != nil {
			entries = append(entries, *e)
		}
	}
	slices.SortFunc(entries, func(a, b ide.FileEntry) int { return strings.Compare(a.Name, b.Name) })
	return entries, nil
}

// entry describes one entry of a directory; nil: it is not there any more.
func (s *Session) entry(ctx context.Context, at string, d protocol.DirEntry) (*ide.FileEntry, error) {
	attr, text, err := s.stat(ctx, at, false)
	switch {
	case errors.Is(err, unix.ENOENT):
		return nil, nil
	case notErrno(err) != nil:
		return nil, err
	case err != nil: // EACCES: who may list it need not be allowed to search it; ENOTCONN: a mount that is dead
		return &ide.FileEntry{Name: ide.Name(d.Name), Kind: kindOf(uint32(d.Type) << 12)}, nil
	}
	e := entryOf(d.Name, attr)
	if e.Kind != ide.FileSymlink {
		return &e, nil
	}
	e.Target = ide.Name(text)
	attr, _, err = s.stat(ctx, at, true)
	if err == nil {
		e.Leads = kindOf(attr.Mode)
	}
	return &e, notErrno(err)
}

// notErrno leaves out that the target refuses, which is an answer too.
func notErrno(err error) error {
	if e, ok := errors.AsType[*protocol.Error](err); ok && e.Errno != 0 {
		return nil
	}
	return err
}

// StatFile tells of a file, and what a symlink leads to.
func (m *Manager) StatFile(ctx context.Context, p ide.FileParams) (e ide.FileEntry, err error) {
	err = m.look(ctx, "looking at", p.ID, p.Path, func(ctx context.Context, s *Session, at string) error {
		attr, text, err := s.stat(ctx, at, false)
		if err != nil {
			return err
		}
		link := kindOf(attr.Mode) == ide.FileSymlink
		if link {
			if attr, _, err = s.stat(ctx, at, true); err != nil {
				return err
			}
		}
		e = entryOf(path.Base(at), attr)
		e.Symlink, e.Target = link, ide.Name(text)
		return nil
	})
	return e, err
}

// ReadFile reads bytes of a file of the target.
func (m *Manager) ReadFile(ctx context.Context, p ide.FileReadParams) (r ide.FileReadResult, err error) {
	if p.Offset < 0 || p.Length < 0 {
		return r, &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf("reading %d bytes at %d: neither may be negative", p.Length, p.Offset)}
	}
	length := min(cmp.Or(p.Length, ide.MaxFileRead), ide.MaxFileRead)
	err = m.look(ctx, "reading", p.ID, p.Path, func(ctx context.Context, s *Session, at string) error {
		n, content, err := m.openFile(ctx, s, protocol.Open{Path: protocol.Path(at), Inline: inline})
		if err != nil {
			return err
		}
		if n == nil { // all of it came
			content = content[min(p.Offset, int64(len(content))):]
			r = ide.FileReadResult{Data: content[:min(length, len(content))], EOF: length >= len(content)}
			return nil
		}
		defer m.closeFile(s, n)
		buf := make([]byte, length)
		got, err := n.read(ctx, buf, p.Offset)
		if err != nil {
			return err
		}
		// Files of procfs claim to be empty.
		end := n.attr.Size > 0 && p.Offset+int64(got) >= n.attr.Size
		r = ide.FileReadResult{Data: buf[:got], EOF: got < length || end}
		return nil
	})
	return r, err
}

// look does something with a file of a session's target, until the session's end.
func (m *Manager) look(ctx context.Context, what, id, name string, do func(ctx context.Context, s *Session, at string) error) error {
	at, err := ide.Bytes(name)
	if err == nil && !path.IsAbs(at) {
		err = errors.New("the path is not absolute")
	}
	if err != nil {
		return &ide.Error{Code: ide.CodeParams, Msg: fmt.Sprintf("%s %q of the target: %v", what, name, err)}
	}
	s, err := m.session(id)
	if err != nil {
		return err
	}
	if err := s.hasFiles(); err != nil {
		return err
	}
	own, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(s.ctx, func() { cancel(noSession(id)) })()
	err = do(own, s, at)
	if err != nil && own.Err() != nil {
		return context.Cause(own)
	}
	return fileError(fmt.Sprintf("%s %s of the target", what, at), err)
}

// hasFiles is an error where there is no target to look at.
func (s *Session) hasFiles() error {
	s.mu.Lock()
	targetless := s.config.Targetless
	s.mu.Unlock()
	if targetless {
		return &ide.Error{Code: ide.CodeTarget, Msg: "the session has no target, and so no files", Hint: "start one with a target"}
	}
	if err := s.works(layer.OpOpen); err != nil {
		return &ide.Error{Code: ide.CodeAgent, Msg: err.Error(), Err: err}
	}
	return nil
}

// fileError tells clients why a file could not be read.
func fileError(what string, err error) error {
	if err == nil {
		return nil
	}
	e, ok := errors.AsType[*protocol.Error](err)
	if !ok || e.Errno == 0 {
		return &ide.Error{Code: ide.CodeAgent, Msg: what + ": " + err.Error(), Err: err}
	}
	told := &ide.Error{Code: ide.CodeFile, Msg: what + ": " + e.Msg, Errno: unix.ErrnoName(unix.Errno(e.Errno)), Err: err}
	if unix.Errno(e.Errno) == unix.EACCES {
		told.Hint = "the user of the target's process may not do it either"
	}
	return told
}

// stat tells of a file, and of a link that is not followed its text.
func (s *Session) stat(ctx context.Context, at string, follow bool) (_ protocol.Attr, link string, _ error) {
	r, err := s.statBy(ctx, protocol.Path(at), nil, follow)
	return r.Attr, string(r.Link), err
}

func (s *Session) statBy(ctx context.Context, at protocol.Path, walk *protocol.Walk, follow bool) (r protocol.StatReply, err error) {
	_, err = s.tunnel().Call(ctx, protocol.KindStat, protocol.Stat{Path: at, NoFollow: !follow, Walk: walk}, &r)
	return r, err
}

// openFile opens a file of the target, or answers with its content: then there is
// nothing to close, and no node. Where ctx ends first, the agent opens it all the
// same, and it is closed when that is known.
func (m *Manager) openFile(ctx context.Context, s *Session, q protocol.Open) (*node, []byte, error) {
	type answer struct {
		opened  protocol.OpenReply
		content []byte
		err     error
	}
	answers, t := make(chan answer), s.tunnel()
	begun := s.spawn(func() {
		var a answer
		a.content, a.err = t.Call(s.ctx, protocol.KindOpen, q, &a.opened)
		select {
		case answers <- a:
		case <-ctx.Done():
			if a.err == nil && a.opened.Handle != 0 {
				m.nodes.close(&node{tunnel: t, handle: a.opened.Handle})
			}
		}
	})
	if !begun {
		return nil, nil, s.ctx.Err()
	}
	select {
	case a := <-answers:
		if a.err != nil || a.opened.Handle == 0 {
			return nil, a.content, a.err
		}
		return &node{tunnel: t, handle: a.opened.Handle, attr: a.opened.Attr}, nil, nil
	case <-ctx.Done():
		return nil, nil, context.Cause(ctx)
	}
}

// closeFile closes a file; nobody waits for that.
func (m *Manager) closeFile(s *Session, n *node) {
	if !s.spawn(func() { m.nodes.close(n) }) {
		m.nodes.close(n)
	}
}

func entryOf(name string, a protocol.Attr) ide.FileEntry {
	return ide.FileEntry{Name: ide.Name(name), Kind: kindOf(a.Mode), Size: a.Size, Modified: a.Mtime / 1e6, Mode: a.Mode & 0o7777}
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return ide.FileRegular
	case unix.S_IFDIR:
		return ide.FileDirectory
	case unix.S_IFLNK:
		return ide.FileSymlink
	}
	return ide.FileOther
}
