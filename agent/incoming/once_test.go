package incoming

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// A crowd has all ask at one time, and returns how often somebody answered.
type crowd func(t *testing.T, pod netip.AddrPort, somebody string) int

// connections are n, each with so many requests.
func connections(n, requests int) crowd {
	return func(t *testing.T, pod netip.AddrPort, somebody string) int {
		var wg, all sync.WaitGroup
		var count atomic.Int32
		all.Add(n)
		for range n {
			wg.Go(func() {
				c, err := net.Dial("tcp", pod.String())
				all.Done()
				if err != nil {
					t.Error(err)
					return
				}
				defer reset(c.(stream)) // so many would keep all ports of loopback for a minute (TIME_WAIT)
				_ = c.SetDeadline(time.Now().Add(time.Minute))
				all.Wait()
				r := bufio.NewReader(c)
				for range requests {
					_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\nX-User: alice\r\n\r\n")
					a, err := http.ReadResponse(r, nil)
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(a.Body)
					if err != nil {
						t.Error(err)
					}
					if strings.HasPrefix(string(b), somebody) {
						count.Add(1)
					}
				}
			})
		}
		wg.Wait()
		return int(count.Load())
	}
}

// streams are n of each of some connections in HTTP/2.
func streams(conns, n int) crowd {
	return func(t *testing.T, pod netip.AddrPort, somebody string) int {
		var wg sync.WaitGroup
		var count atomic.Int32
		for range conns {
			tr := &http.Transport{Protocols: new(http.Protocols), DialContext: func(context.Context, string, string) (net.Conn, error) {
				return dial(t, pod), nil
			}}
			tr.Protocols.SetUnencryptedHTTP2(true)
			conn, err := tr.NewClientConn(t.Context(), "http", "shop:80")
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			for range n {
				wg.Go(func() {
					r, _ := http.NewRequest("POST", "http://shop/", strings.NewReader("words"))
					r.Header.Set("X-User", "alice")
					a, err := conn.RoundTrip(r)
					if err != nil {
						t.Error(err)
						return
					}
					b, err := io.ReadAll(a.Body)
					a.Body.Close()
					if err != nil {
						t.Error(err)
					}
					if strings.HasPrefix(string(b), somebody) {
						count.Add(1)
					}
				})
			}
		}
		wg.Wait()
		return int(count.Load())
	}
}

// Of all that come at one time a holder that wants one gets exactly one, for each
// arming.
func TestOnce(t *testing.T) {
	for name, tt := range map[string]struct {
		filter *protocol.Filter
		crowd  crowd
	}{
		"requests":    {user("alice"), connections(1000, 1)},
		"kept":        {user("alice"), connections(100, 20)},
		"streams":     {user("alice"), streams(5, 200)},
		"connections": {nil, connections(1000, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			in := newTest(t)
			pod := netip.MustParseAddrPort(server(t, "pod"))
			alice := server(t, "alice")
			s := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: tt.filter, Once: true, Arm: 1}, relayedTo(t, alice))
			for arm := range uint64(3) {
				if n := tt.crowd(t, pod, "alice"); n != 1 {
					t.Errorf("arming %d: %d were hers", arm+1, n)
				}
				if n := tt.crowd(t, pod, "alice"); n != 0 {
					t.Errorf("after arming %d: %d were hers", arm+1, n)
				}
				if err := s.Arm(arm + 2); err != nil {
					t.Fatal(err)
				}
			}
			if err := s.Arm(0); err != nil {
				t.Fatal(err)
			}
			if n := tt.crowd(t, pod, "alice"); n != 0 {
				t.Errorf("when nothing is wanted: %d were hers", n)
			}
		})
	}
}

// What the holder cannot take it is offered again, unless it has had its one.
func TestOnceRefused(t *testing.T) {
	for errno, want := range map[unix.Errno]int32{unix.ECONNREFUSED: 3, unix.EALREADY: 1} {
		t.Run(errno.Error(), func(t *testing.T) {
			in := newTest(t)
			pod := netip.MustParseAddrPort(server(t, "pod"))
			var offers atomic.Int32
			own := newGoroutines(t)
			steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice"), Once: true, Arm: 1}, holder(func() (net.Conn, error) {
				theirs, ours := newStream()
				own.Go(func() {
					defer theirs.Close()
					if agenttest.ReadRequest(theirs, protocol.KindIncoming, new(protocol.Incoming)) == nil {
						offers.Add(1)
						_ = protocol.WriteError(theirs, "incoming", errno)
					}
				})
				return ours, nil
			}))
			ask := visitor(t, pod)
			for range 3 {
				if got := ask("alice", "/"); got != "pod" {
					t.Errorf("answered by %q", got)
				}
			}
			if n := offers.Load(); n != want {
				t.Errorf("%d offers, not %d", n, want)
			}
		})
	}
}

// While a holder is paused, what is new is another's, or the pod's; what was
// given stays, and a filtered port's connections are seen afterwards.
func TestPaused(t *testing.T) {
	in := newTest(t)
	pod := netip.MustParseAddrPort(server(t, "pod"))
	alice := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, relayedTo(t, server(t, "alice")))
	bobs := relayedTo(t, server(t, "bob"))
	before := visitor(t, pod)
	expect := func(when string, ask func(user, path string) string, want string) {
		t.Helper()
		if got := ask("alice", "/"); got != want {
			t.Errorf("%s: answered by %q, not %q", when, got, want)
		}
	}
	expect("before", before, "alice")
	alice.Suspend(Paused)
	during := visitor(t, pod)
	expect("a kept connection", before, "pod")
	expect("a new connection", during, "pod")
	bob := steal(t, in, protocol.Steal{Port: pod.Port(), Filter: user("alice")}, bobs)
	expect("with another holder", before, "bob")
	expect("with another holder", during, "bob")
	alice.Suspend(Absent)
	bob.Release()
	if err := alice.Resume(Paused); err != nil {
		t.Fatal(err)
	}
	expect("still absent", during, "pod")
	if err := alice.Resume(Absent); err != nil {
		t.Fatal(err)
	}
	expect("afterwards", before, "alice")
	expect("of the pause", during, "alice")
	alice.Release()

	port := echo(t)
	all := steal(t, in, protocol.Steal{Port: port}, newDebuggee(t))
	kept := dial(t, netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port))
	hears := func(want string) {
		t.Helper()
		b := make([]byte, len(want))
		if _, err := io.ReadFull(kept, b); err != nil || string(b) != want {
			t.Errorf("%q, %v", b, err)
		}
	}
	hears(debuggeeSays)
	all.Suspend(Paused)
	echoed(t, port)
	_, _ = io.WriteString(kept, "still")
	hears("still")
	if err := all.Resume(Paused); err != nil {
		t.Fatal(err)
	}
	if got, err := answered("127.0.0.1", port); got != debuggeeSays+harmless || err != nil {
		t.Errorf("afterwards: %q, %v", got, err)
	}
	all.Release()
	if err := errors.Join(all.Arm(1), all.Resume(Absent)); !errors.Is(err, unix.EBADF) {
		t.Errorf("after the release: %v", fmt.Sprint(err))
	}
}
