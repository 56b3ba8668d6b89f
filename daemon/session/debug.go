package session

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"mirrord/daemon/debug/endpoint"
	"mirrord/protocol/ide"
)

// Debuggers are the launchers of debug sessions that this daemon started. Each
// ends with its session, of itself.
//
// Goroutines: one waits for the end of each; close waits for them.
type debuggers struct {
	dir string // the runtime directory
	wg  sync.WaitGroup

	mu  sync.Mutex
	all map[*endpoint.Process]bool // guarded by mu
}

// launcherProgram is beside ours.
const launcherProgram = "mirrord"

// debuggerTime is what debuggers have to end when their sessions have.
const debuggerTime = 8 * time.Second

// Debug starts a debug session in a session.
func (m *Manager) Debug(ctx context.Context, p ide.DebugStartParams, progress func(string)) (ide.Debug, error) {
	s, err := m.session(p.ID)
	if err != nil {
		return ide.Debug{}, err
	}
	progress("starting the debugger")
	self, err := os.Executable()
	if err != nil {
		return ide.Debug{}, fmt.Errorf("starting the debugger: %w", err)
	}
	d, err := endpoint.Start(ctx, filepath.Join(filepath.Dir(self), launcherProgram), m.debuggers.dir, p)
	if err != nil {
		return ide.Debug{}, err
	}
	if ctx.Err() != nil { // nobody will learn where it is
		d.Kill()
		_ = d.Wait() // it was killed
		return ide.Debug{}, context.Cause(ctx)
	}
	s.log.Info("debug session started", "path", d.Endpoint, "pid", d.PID)
	m.debuggers.attend(d, func(end error) {
		s.log.Info("debug session ended", "path", d.Endpoint, "pid", d.PID, "err", end)
	})
	return ide.Debug{Endpoint: d.Endpoint, PID: d.PID}, nil
}

// attend waits for the end of d in a goroutine.
func (d *debuggers) attend(p *endpoint.Process, ended func(error)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all[p] = true
	d.wg.Go(func() {
		end := p.Wait()
		d.mu.Lock()
		delete(d.all, p)
		d.mu.Unlock()
		ended(end)
	})
}

// close waits for the end of all, whose sessions have ended and who are told so.
func (d *debuggers) close() {
	timer := time.AfterFunc(debuggerTime, func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		for p := range d.all {
			p.Kill()
		}
	})
	defer timer.Stop()
	d.wg.Wait()
}
