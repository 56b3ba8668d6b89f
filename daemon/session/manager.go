// Package session binds debuggees to targets: it finds the target, gets it an
// agent, and answers the hooked calls of the session's launchers. Whatever a
// session did is undone when it ends.
//
//	rpc ── Manager ── Session ── agent (tunnel, shared by sessions on one target)
//	          │          ├── forward.Outgoing, Datagrams, Incoming
//	          │          └── ports it steals
//	launcher ─┴─ conn: one launcher's hooked calls
package session

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"mirrord/daemon/config"
	"mirrord/daemon/files"
	"mirrord/protocol"
	"mirrord/protocol/ide"
)

// A Manager holds the daemon's sessions.
//
// Goroutines: Serve accepts launchers, one serves each and one each of its
// calls; Serve waits for them.
type Manager struct {
	log      *slog.Logger
	agents   *agents
	nodes    *nodes
	path     string
	listener *net.UnixListener

	mu       sync.Mutex
	sessions map[string]*Session // guarded by mu, by id

	filesMu sync.Mutex
	files   *files.Server // guarded by filesMu; nil until a session wants files
}

// acceptPause is the wait after accept(2) failed: the descriptors or memory it
// lacked come back when others end.
const acceptPause = 50 * time.Millisecond

// NewManager makes a manager whose launchers' socket is in dir.
func NewManager(log *slog.Logger, dir string) (*Manager, error) {
	m := &Manager{
		log: log, nodes: newNodes(log), path: filepath.Join(dir, "layer.sock"), sessions: map[string]*Session{},
	}
	m.agents = newAgents(log, m.hearExpired, m.agentGone)
	if err := os.Remove(m.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing old layer socket: %w", err)
	}
	l, err := net.ListenUnix("unixpacket", &net.UnixAddr{Name: m.path, Net: "unixpacket"})
	if err != nil {
		return nil, fmt.Errorf("opening layer socket: %w", err)
	}
	if err := os.Chmod(m.path, 0o600); err != nil {
		l.Close()
		return nil, fmt.Errorf("opening layer socket: %w", err)
	}
	m.listener = l
	return m, nil
}

// LayerSocket is the path that launchers connect to.
func (m *Manager) LayerSocket() string { return m.path }

// Serve answers launchers until ctx ends.
func (m *Manager) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { m.listener.Close() })()
	var wg sync.WaitGroup
	defer wg.Wait()
	for {
		c, err := m.listener.AcceptUnix()
		switch {
		case ctx.Err() != nil:
			if c != nil {
				c.Close()
			}
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("accepting launcher: %w", err)
		case err != nil:
			m.log.Warn("accepting launcher", "err", err)
			time.Sleep(acceptPause)
			continue
		}
		wg.Go(func() {
			if err := serveLauncher(ctx, m, c); err != nil {
				m.log.Info("launcher ended", "err", err)
			}
		})
	}
}

// Close ends all sessions, agents' tunnels and the file server.
func (m *Manager) Close() {
	m.listener.Close()
	for _, s := range m.all() {
		m.end(s, "the daemon was stopped")
	}
	m.agents.close()
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if m.files != nil {
		m.files.Close()
	}
}

// Start makes a session. It lives until Stop, or until both the connection
// that started it (Release) and its launchers are gone.
func (m *Manager) Start(ctx context.Context, p ide.SessionStartParams, progress func(string)) (ide.Session, error) {
	cfg, err := config.Load(p.Client, p.ConfigFile, p.Overrides)
	if err != nil {
		return ide.Session{}, configError(err)
	}
	if err := cfg.NeedTarget(); err != nil {
		return ide.Session{}, configError(err)
	}
	if cfg.FS.Mode != "local" {
		if err := m.startFiles(); err != nil {
			return ide.Session{}, err
		}
	}
	a, target, err := m.agents.get(ctx, cfg, p.Client, progress)
	if err != nil {
		return ide.Session{}, clusterError(err)
	}
	s, err := m.begin(ctx, cfg, p.Client, a, target)
	if err != nil {
		m.agents.put(a)
		return ide.Session{}, clusterError(err)
	}
	return s.info(), nil
}

// begin reads what a debuggee needs to know of the target and registers the session.
func (m *Manager) begin(ctx context.Context, cfg *config.Config, client ide.Client, a *agent, target target) (*Session, error) {
	environ, err := a.tunnel.Call(ctx, protocol.KindEnviron, struct{}{}, new(protocol.EnvironReply))
	if err != nil {
		return nil, fmt.Errorf("reading the target's environment: %w", err)
	}
	set, unset, err := cfg.Environ(splitEnviron(environ), client)
	if err != nil {
		return nil, configError(err)
	}
	s, err := newSession(m.log, a)
	if err != nil {
		return nil, err
	}
	hello := a.tunnel.Hello()
	s.launch = ide.Launch{
		Session: ide.Session{
			ID: s.id, Target: target.name, Pod: target.pod, Namespace: target.namespace, Context: target.context,
			Started: s.started.Format(time.RFC3339), Warnings: warnings(cfg),
		},
		Hostname: hello.Hostname, Addrs: hello.Addrs, Env: set, Unset: unset, Policy: cfg.Policy(target.mounts),
	}
	m.mu.Lock()
	m.sessions[s.id] = s
	m.mu.Unlock()
	s.log.Info("session started", "target", target.name)
	return s, nil
}

func splitEnviron(b []byte) []string {
	return slices.DeleteFunc(strings.Split(string(b), "\x00"), func(s string) bool { return s == "" })
}

func warnings(cfg *config.Config) []string {
	var list []string
	for _, w := range cfg.Warnings {
		list = append(list, config.Words(w))
	}
	return list
}

// startFiles starts the file server unless it runs.
func (m *Manager) startFiles() error {
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if m.files != nil {
		select {
		case <-m.files.Done():
			m.files.Close()
			m.files = nil
		default:
			return nil
		}
	}
	f, err := files.Start(context.Background(), m.log, m.nodes)
	if err != nil {
		return unsupported(err)
	}
	m.files = f
	return nil
}

// root is the file server's root directory, nil where there is none.
func (m *Manager) root() *os.File {
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if m.files == nil {
		return nil
	}
	return m.files.Root()
}

// Launch tells a launcher what it needs to know of a session.
func (m *Manager) Launch(_ context.Context, id string) (ide.Launch, error) {
	s, err := m.session(id)
	if err != nil {
		return ide.Launch{}, err
	}
	l := s.launch
	l.Session = s.info()
	return l, nil
}

// Stop ends a session; its open connections are reset.
func (m *Manager) Stop(_ context.Context, id string) error {
	s, err := m.session(id)
	if err != nil {
		return err
	}
	m.end(s, "it was stopped")
	return nil
}

// List tells of all sessions, the oldest first.
func (m *Manager) List() []ide.Session {
	list := []ide.Session{}
	for _, s := range m.all() {
		list = append(list, s.info())
	}
	return list
}

// Release says that the connection which started a session is gone.
func (m *Manager) Release(id string) {
	if s, err := m.session(id); err == nil && s.release() {
		m.end(s, "its client is gone")
	}
}

// agentGone tells the sessions of an agent that it has ended by itself.
func (m *Manager) agentGone(a *agent, why error) {
	for _, s := range m.all() {
		if s.agent == a {
			s.agentGone(why)
		}
	}
}

func (m *Manager) session(id string) (*Session, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[id]
	if s == nil {
		return nil, &ide.Error{Code: ide.CodeSession, Msg: fmt.Sprintf("no session %q", id), Hint: "mirrord session ls shows those that run"}
	}
	return s, nil
}

func (m *Manager) all() []*Session {
	m.mu.Lock()
	defer m.mu.Unlock()
	list := make([]*Session, 0, len(m.sessions))
	for _, s := range m.sessions {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b *Session) int { return a.started.Compare(b.started) })
	return list
}

// end undoes the session, once.
func (m *Manager) end(s *Session, why string) {
	if !m.forget(s) {
		return
	}
	s.log.Info("session ended", "why", why, "dur", time.Since(s.started))
	s.tell("the session has ended: "+why, true)
	s.close()
	m.agents.put(s.agent)
}

func (m *Manager) forget(s *Session) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.sessions[s.id] != s {
		return false
	}
	delete(m.sessions, s.id)
	return true
}

func newID() string {
	var b [4]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}
