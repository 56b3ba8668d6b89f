package session

import (
	"context"
	"log/slog"
	"testing"
	"testing/synctest"

	"golang.org/x/sys/unix"

	"mirrord/protocol/layer"
)

// Launchers whose daemon is stopped hear that their session is over, or they
// would start another daemon.
func TestStoppedDaemonEndsSessions(t *testing.T) {
	m, err := NewManager(slog.New(slog.DiscardHandler), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ctx, stop := context.WithCancel(t.Context())
	served := make(chan error)
	go func() { served <- m.Serve(ctx) }()
	_, c := start(t, m)
	stop()
	for {
		reply, _ := c.read(0)
		if reply.Flags&layer.ReplyExpired != 0 {
			continue
		}
		if unix.Errno(reply.Errno) != unix.ECANCELED || string(reply.Data) != "the session has ended: the daemon was stopped" {
			t.Errorf("the launcher hears %+v: %s", reply, reply.Data)
		}
		break
	}
	if err := <-served; err != nil {
		t.Errorf("Serve = %v", err)
	}
}

// Of those who listen on a port at one time, one takes it.
func TestPortIsTakenOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Session{taken: map[uint16]chan struct{}{}}
		first, err := s.taking(t.Context(), 80)
		if err != nil {
			t.Fatal(err)
		}
		other, err := s.taking(t.Context(), 81)
		if err != nil {
			t.Fatal(err)
		}
		other()
		second := false
		go func() {
			done, err := s.taking(t.Context(), 80)
			if err != nil {
				t.Error(err)
				return
			}
			second = true
			done()
		}()
		synctest.Wait()
		if second {
			t.Error("two take one port")
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := s.taking(ctx, 80); err == nil {
			t.Error("who is gone takes a port")
		}
		first()
		synctest.Wait()
		if !second || len(s.taken) != 0 {
			t.Errorf("after the first: %v, %v", second, s.taken)
		}
	})
}
