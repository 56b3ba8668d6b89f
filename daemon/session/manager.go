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
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mirrord/daemon/debug/endpoint"
	"mirrord/daemon/files"
	"mirrord/protocol/ide"
)

// A Manager holds the daemon's sessions.
//
// Goroutines: Serve accepts launchers, one serves each and one each of its
// calls; Serve waits for them. One waits for each debugger, and Close for those.
type Manager struct {
	log      *slog.Logger
	agents   *agents
	nodes    *nodes
	path     string
	standIns string // directory of the launchers' directories
	listener *net.UnixListener

	debuggers debuggers

	mu       sync.Mutex
	sessions map[string]*Session // guarded by mu, by id
	events   events

	filesMu sync.Mutex
	files   *files.Server // guarded by filesMu; nil until a session wants files
}

// acceptPause is the wait after accept(2) failed: the descriptors or memory it
// lacked come back when others end.
const acceptPause = 50 * time.Millisecond

// NewManager makes a manager whose launchers' socket is in dir.
func NewManager(log *slog.Logger, dir string) (*Manager, error) {
	m := &Manager{
		log: log, nodes: newNodes(log), path: filepath.Join(dir, "layer.sock"), standIns: filepath.Join(dir, standInsName),
		sessions: map[string]*Session{}, debuggers: debuggers{dir: dir, all: map[*endpoint.Process]bool{}},
	}
	who, err := whoWeAre(dir)
	if err != nil {
		return nil, err
	}
	m.agents = newAgents(log, who, m.hearExpired, m.agentNews)
	if err := os.Remove(m.path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("removing old layer socket: %w", err)
	}
	if err := os.RemoveAll(m.standIns); err != nil {
		return nil, fmt.Errorf("removing an old daemon's directories: %w", err)
	}
	endpoint.Sweep(dir)
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

// Serve answers launchers until ctx ends. Then the sessions end before their
// launchers' sockets do: a launcher that only loses its daemon starts another.
func (m *Manager) Serve(ctx context.Context) error {
	defer context.AfterFunc(ctx, func() { m.listener.Close() })()
	launchers, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	defer m.End()
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
			if err := serveLauncher(launchers, m, c); err != nil {
				m.log.Info("launcher ended", "err", err)
			}
		})
	}
}

// Close ends all sessions, agents' tunnels and the file server.
func (m *Manager) Close() {
	m.listener.Close()
	defer os.Remove(m.standIns) // it is empty, or was never made
	m.End()
	m.debuggers.close()
	m.nodes.drain()
	m.agents.close()
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	if m.files != nil {
		m.files.Close()
	}
	m.nodes.closing.Wait()
}

// End ends all sessions, which is told as their events.
func (m *Manager) End() {
	for _, s := range m.all() {
		m.end(s, "the daemon was stopped")
	}
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
			m.nodes.dropSeen()
		default:
			return nil
		}
	}
	f, err := files.Start(context.Background(), m.log, m.nodes)
	if err != nil {
		return err
	}
	m.files = f
	return nil
}

// fileServer is nil where there is none.
func (m *Manager) fileServer() *files.Server {
	m.filesMu.Lock()
	defer m.filesMu.Unlock()
	return m.files
}

// caughtUp waits until it is known what debuggees have written.
func (m *Manager) caughtUp(ctx context.Context) {
	if f := m.fileServer(); f != nil {
		f.CaughtUp(ctx)
	}
}

// root is the file server's root directory, nil where there is none.
func (m *Manager) root() *os.File {
	if f := m.fileServer(); f != nil {
		return f.Root()
	}
	return nil
}

// Launch tells a launcher what it needs to know of a session.
func (m *Manager) Launch(_ context.Context, id string) (ide.Launch, error) {
	s, err := m.session(id)
	if err != nil {
		return ide.Launch{}, err
	}
	s.mu.Lock()
	l := s.launch
	s.mu.Unlock()
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

// Release says that a connection which started a session is gone. A tied
// session ends with it, whatever runs there.
func (m *Manager) Release(id string, tied bool) {
	const why = "its client is gone"
	s, err := m.session(id)
	if err != nil {
		return
	}
	s.release()
	if tied {
		m.end(s, why)
	} else {
		m.endUnused(s, why)
	}
}

// agentNews tells the sessions of an agent.
func (m *Manager) agentNews(a *agent, n news) {
	for _, s := range m.all() {
		if r := s.replicaOf(a); r != nil {
			s.hear(r, n)
		}
	}
}
