package layer

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sys/unix"
)

// How long to wait before the next attempt to start a daemon, or to have a
// listener's port again: at first, and at most.
const (
	firstPause = time.Second
	lastPause  = 15 * time.Second
)

// attend tells the user what the daemon says by itself, and finds another one
// when it is gone.
func (l *Layer) attend(ctx context.Context) {
	for {
		select {
		case words := <-l.Daemon.news:
			l.say(words)
			continue
		case <-ctx.Done():
			return
		case <-l.Daemon.lost():
		}
		if l.Daemon.disconnected() {
			return
		}
		if len(l.Daemon.news) > 0 { // said before it went
			continue
		}
		if l.Daemon.over() {
			l.Daemon.expect(false)
			l.Over()
			return
		}
		if l.Again == nil {
			l.say("the daemon is gone: remote files and new connections fail from now on")
			return
		}
		if !l.restart(ctx) {
			return
		}
	}
}

// restart gets another daemon for the one that is gone. False: ctx has ended.
func (l *Layer) restart(ctx context.Context) bool {
	l.say("the daemon is gone, and another is started: open remote connections and files fail")
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		err := l.again(ctx)
		switch {
		case ctx.Err() != nil:
			return false
		case err == nil:
			l.say("the daemon is back")
			lost := l.Daemon.lost()
			l.team.Go(func() { l.takeAgain(ctx, lost) })
			return true
		case pause == firstPause:
			l.Daemon.expect(false)
			l.say(fmt.Sprintf("starting the daemon again: %v; remote files and new connections fail until that is possible", err))
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return false
		}
	}
}

// again makes all that a daemon holds for us anew, but for what it listens to.
func (l *Layer) again(ctx context.Context) error {
	socket, session, err := l.Again(ctx)
	if err != nil {
		return err
	}
	k, err := l.Daemon.dial(ctx, socket, session)
	if err != nil {
		return err
	}
	l.files.serve(k.root)
	l.sockets.forgetEndpoints()
	l.Daemon.use(k)
	l.Daemon.expect(true)
	if l.Debugger != nil {
		for _, id := range l.Debugger.debuggees() {
			l.tellDebuggee(id)
		}
	}
	return nil
}

// takeAgain asks for the ports of the debuggee's listeners, until it has them or
// this daemon, too, is lost. The agent may hold one for the daemon that is
// gone, until it knows that it is.
func (l *Layer) takeAgain(ctx context.Context, lost <-chan struct{}) {
	wanted := l.sockets.listeners()
	for pause := firstPause; ; pause = min(2*pause, lastPause) {
		for inode, k := range wanted {
			errno, why := l.take(inode, k)
			if errno == unix.EADDRINUSE {
				l.tell(fmt.Sprintf("port %d of the target cannot be had again yet: %s", k.local.Port(), why))
				continue
			}
			delete(wanted, inode)
			if errno != 0 {
				l.tell(fmt.Sprintf("port %d of the target could not be had again: %s", k.local.Port(), why))
			}
		}
		if len(wanted) == 0 {
			return
		}
		select {
		case <-time.After(pause):
		case <-lost:
			return
		case <-ctx.Done():
			return
		}
		alive := l.sockets.listeners()
		for inode := range wanted {
			if alive[inode] == nil {
				delete(wanted, inode)
			}
		}
	}
}
