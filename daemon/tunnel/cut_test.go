package tunnel

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// answers is an agent's: a read's are size bytes, connections go to server.
func answers(t *testing.T, size int, server string) answerer {
	content := make([]byte, size)
	return func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		switch {
		case hello(s, f, protocol.Version):
		case f.Kind == protocol.KindStat:
			protocol.WriteMessage(s, f.Kind, protocol.StatReply{Attr: protocol.Attr{Ino: 7}}, nil)
		case f.Kind == protocol.KindRead:
			for err := error(nil); err == nil; f, err = protocol.ReadFrame(s) {
				var q protocol.Read
				if err := json.Unmarshal(f.Header, &q); err != nil {
					t.Error(err)
				}
				protocol.WriteMessage(s, f.Kind, protocol.ReadReply{ID: q.ID}, content)
			}
		case f.Kind == protocol.KindConnect:
			c, err := net.Dial("tcp", server)
			if err != nil {
				t.Error(err)
				return
			}
			protocol.WriteMessage(s, f.Kind, protocol.ConnectReply{}, nil)
			protocol.Relay(c.(*net.TCPConn), s)
		}
	}
}

func stat(t *testing.T, tun *Tunnel) error {
	var reply protocol.StatReply
	_, err := tun.Call(t.Context(), protocol.KindStat, protocol.Stat{Path: "/"}, &reply)
	if err == nil && reply.Attr.Ino != 7 {
		t.Errorf("stat answered %+v", reply)
	}
	return err
}

// echo is a TCP server that says what it hears.
func echo(t *testing.T) (addr string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				io.Copy(c, c)
				c.Close()
			})
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String()
}

// connect is a connection through the tunnel as a debuggee has it.
func connect(t *testing.T, tun *Tunnel) *net.TCPConn {
	t.Helper()
	s, _, err := tun.Connect(t.Context(), netip.AddrPort{})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	near, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	c, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	relayed := make(chan error, 1)
	go func() { relayed <- protocol.Relay(c.(*net.TCPConn), s) }()
	t.Cleanup(func() {
		near.Close()
		<-relayed
	})
	return near.(*net.TCPConn)
}

// Whatever is cut when, a transfer arrives whole, and so does every small
// operation beside it.
func TestCutsAreNotNoticed(t *testing.T) {
	n := linktest.New(t, agent(t, answers(t, 1<<20, echo(t))))
	tun := open(t, n.Dial)
	data := make([]byte, 16<<20)
	rand.NewChaCha8([32]byte{}).Read(data)
	c := connect(t, tun)

	done := make(chan struct{})
	var wg sync.WaitGroup
	wg.Go(func() {
		if _, err := c.Write(data); err != nil {
			t.Errorf("sending: %v", err)
		}
		c.CloseWrite()
	})
	wg.Go(func() {
		defer close(done)
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, data) {
			t.Errorf("%d bytes came back of %d, or others: %v", len(got), len(data), err)
		}
	})
	each := func(do func() error) {
		wg.Go(func() {
			for {
				if err := do(); err != nil {
					t.Error(err)
					return
				}
				select {
				case <-done:
					return
				default:
				}
			}
		})
	}
	each(func() error { return stat(t, tun) })
	each(func() error {
		n, err := tun.Read(t.Context(), 1, 0, make([]byte, 1<<20))
		if err == nil && n != 1<<20 {
			t.Errorf("%d bytes were read", n)
		}
		return err
	})
	cut := func(ch link.Channel, every time.Duration) {
		wg.Go(func() {
			tick := time.NewTicker(every)
			defer tick.Stop()
			for range 10 {
				select {
				case <-tick.C:
					n.Cut(ch)
				case <-done:
					return
				}
			}
		})
	}
	cut(link.Control, 7*time.Millisecond)
	cut(link.Bulk, 23*time.Millisecond)
	wg.Wait()
}

// A network that loses everything without a word is noticed in time; what was
// asked meanwhile is answered when it is back.
func TestSilenceIsNoticed(t *testing.T) {
	n := linktest.New(t, agent(t, answers(t, 1, "")))
	tun := open(t, n.Dial)
	if err := stat(t, tun); err != nil {
		t.Fatal(err)
	}
	up, changed := tun.Up()
	if !up {
		t.Fatal("the control link is not up")
	}
	start := time.Now()
	n.Set(linktest.Swallows, link.Control, link.Bulk)
	asked := make(chan error, 1)
	go func() { asked <- stat(t, tun) }()
	<-changed
	if up, _ := tun.Up(); up || time.Since(start) > 5*time.Second {
		t.Errorf("after %v the link is up: %v", time.Since(start), up)
	}
	n.Set(linktest.Works, link.Control, link.Bulk)
	if err := <-asked; err != nil {
		t.Error(err)
	}
}

// Who waits for what expires is let go when the tunnel is closed, and not only
// when its link has ended, which may take until all is said.
func TestWatchEndsBeforeTheLink(t *testing.T) {
	once := func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if !hello(s, f, protocol.Version) {
			protocol.WriteMessage(s, f.Kind, protocol.WatchReply{}, nil)
			protocol.WriteMessage(s, f.Kind, protocol.Expired{}, nil)
			io.Copy(io.Discard, s)
		}
	}
	n := linktest.New(t, agent(t, once))
	tun := open(t, n.Dial)
	watched, expired := make(chan bool, 1), make(chan bool, 1)
	go func() {
		_ = tun.Watch(t.Context(), func(protocol.Expired) { expired <- true })
		up, _ := tun.Up()
		watched <- up
	}()
	<-expired
	n.Set(linktest.Swallows, link.Control, link.Bulk) // the link's end is not answered
	tun.Close()
	if up := <-watched; !up {
		t.Error("it waited for the link's end")
	}
}

// Small operations do not need the bulk link; those that do wait for it.
func TestControlWithoutBulk(t *testing.T) {
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	n := linktest.New(t, agent(t, answers(t, 10, server.Addr().String())))
	n.Set(linktest.Refuses, link.Bulk)
	tun := open(t, n.Dial)
	read, connected := make(chan error, 1), make(chan error, 1)
	go func() {
		_, err := tun.Read(t.Context(), 1, 0, make([]byte, 10))
		read <- err
	}()
	go func() {
		c, _, err := tun.Connect(t.Context(), netip.MustParseAddrPort("192.0.2.1:80"))
		if err == nil {
			c.Close()
		}
		connected <- err
	}()
	for range 10 {
		if err := stat(t, tun); err != nil {
			t.Fatal(err)
		}
	}
	select {
	case err := <-read:
		t.Errorf("a read without the bulk link: %v", err)
	case err := <-connected:
		t.Errorf("a connection without the bulk link: %v", err)
	default:
	}
	n.Set(linktest.Works, link.Bulk)
	if err := errors.Join(<-read, <-connected); err != nil {
		t.Error(err)
	}
}

// Another agent at the old one's place does not know the client: the tunnel
// ends, and says so to whoever waits.
func TestAgentReplaced(t *testing.T) {
	silent := func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if !hello(s, f, protocol.Version) {
			io.Copy(io.Discard, s)
		}
	}
	n := linktest.New(t, agent(t, silent))
	tun := open(t, n.Dial)
	asked := make(chan error, 1)
	go func() { asked <- stat(t, tun) }()
	n.Lead(agent(t, silent))
	if err := <-asked; err == nil {
		t.Error("an agent that is gone has answered")
	}
	<-tun.Done()
	if err := tun.Err(); !errors.Is(err, link.ErrGone) {
		t.Errorf("Err = %v", err)
	}
}
