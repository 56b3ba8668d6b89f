package serve

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"mirrord/agent/incoming"
	"mirrord/protocol"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// A port is a hold that tells what became of it.
type port struct{ suspended, resumed int }

func (p *port) Suspend(incoming.Why)      { p.suspended++ }
func (p *port) Resume(incoming.Why) error { p.resumed++; return nil }

func (*port) Holder() protocol.Holder { return protocol.Holder{} }

// A lost port cannot be taken again.
type lost struct{}

func (lost) Suspend(incoming.Why)      {}
func (lost) Resume(incoming.Why) error { return net.ErrClosed }

func (lost) Holder() protocol.Holder { return protocol.Holder{} }

// Whoever has a port that is lost hears of it.
func TestResumeFails(t *testing.T) {
	s := &steals{log: slog.New(slog.DiscardHandler), held: map[hold]func(error){}}
	ended := 0
	s.add(lost{}, func(error) { ended++ })
	s.set(true)
	s.set(false)
	if ended != 1 {
		t.Errorf("ended %d times", ended)
	}
}

// A visitor is a client whose links a test can cut.
type visitor struct {
	*linktest.Pipes
	mu    sync.Mutex
	conns []net.Conn // guarded by mu; the first are the control and the bulk link's
	away  bool       // guarded by mu; it cannot connect
}

func (v *visitor) dial(ctx context.Context) (net.Conn, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.away {
		return nil, net.ErrClosed
	}
	c, err := v.Dial(ctx)
	v.conns = append(v.conns, c)
	return c, err
}

func (v *visitor) set(away bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.away = away
}

func (v *visitor) cut(ch link.Channel) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.conns[ch].Close()
}

// visited runs test with steals that are watched for a visitor's absence.
func visited(t *testing.T, test func(t *testing.T, s *steals, v *visitor)) {
	synctest.Test(t, func(t *testing.T) {
		quiet := slog.New(slog.DiscardHandler)
		v := &visitor{Pipes: linktest.NewPipes()}
		s := &steals{log: quiet, held: map[hold]func(error){}}
		ctx, cancel := context.WithCancel(t.Context())
		joined := make(chan *link.Conn, 1)
		var wg sync.WaitGroup
		wg.Go(func() {
			_ = link.NewServer(quiet, time.Hour).Serve(ctx, v, func(ctx context.Context, c *link.Conn, _ link.ID, ch link.Channel) {
				if ch == link.Bulk {
					joined <- c
				} else {
					wg.Go(func() { s.watch(ctx, c, joined) })
				}
				io.Copy(io.Discard, c)
			})
		})
		dialer := link.NewDialer(quiet, link.NewID(), time.Hour, v.dial)
		control, err := dialer.Control(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		links := []*link.Client{control, dialer.Bulk()}
		for _, l := range links {
			wg.Go(func() { io.Copy(io.Discard, l) })
		}
		synctest.Wait()
		test(t, s, v)
		for _, l := range links {
			l.Close()
			l.Wait()
		}
		cancel()
		wg.Wait()
	})
}

// The ports of a client that is away for more than a second are the pod's.
func TestAbsence(t *testing.T) {
	visited(t, func(t *testing.T, s *steals, v *visitor) {
		var p, late port
		expect := func(what string, p *port, want port) {
			t.Helper()
			synctest.Wait()
			s.mu.Lock()
			defer s.mu.Unlock()
			if *p != want {
				t.Errorf("%s: %+v", what, *p)
			}
		}
		s.add(&p, nil)
		v.set(true)
		v.cut(link.Bulk)
		time.Sleep(time.Minute)
		expect("one link is left", &p, port{})
		v.cut(link.Control)
		time.Sleep(away - time.Millisecond)
		expect("away for less than a second", &p, port{})
		time.Sleep(2 * time.Millisecond)
		expect("away for longer", &p, port{1, 0})
		s.add(&late, nil)
		expect("stolen while away", &late, port{1, 0})
		time.Sleep(time.Minute)
		expect("away for a minute", &p, port{1, 0})
		v.set(false)
		time.Sleep(200 * time.Millisecond)
		expect("back", &p, port{1, 1})
		expect("back", &late, port{1, 1})
		s.remove(&late)
		time.Sleep(time.Hour)
		expect("long back", &p, port{1, 1})
		s.remove(&p)
	})
}
