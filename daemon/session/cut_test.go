package session

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/link"
	"mirrord/protocol/link/linktest"
)

// A ledger notes which requests a server was asked.
type ledger struct {
	net.Listener
	mu   sync.Mutex
	seen map[string]int
	came chan struct{} // holds one where something was added
}

func (l *ledger) ServeHTTP(_ http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	l.seen[r.URL.Path]++
	l.mu.Unlock()
	select {
	case l.came <- struct{}{}:
	default:
	}
}

// more waits for so many requests more.
func (l *ledger) more(t *testing.T, who string, n int) {
	t.Helper()
	l.mu.Lock()
	want := len(l.seen) + n
	l.mu.Unlock()
	for late := time.After(time.Minute); ; {
		l.mu.Lock()
		enough := len(l.seen) >= want
		l.mu.Unlock()
		if enough {
			return
		}
		select {
		case <-l.came:
		case <-late:
			t.Fatalf("%s gets nothing", who)
		}
	}
}

func logged(t *testing.T) *ledger {
	l := &ledger{seen: map[string]int{}, came: make(chan struct{}, 1)}
	l.Listener = serveHTTP(t, l)
	return l
}

// However its link is cut, a request that is not to be made twice is made by the debuggee
// or the pod, also when the link is back.
func TestCutLinkMakesNothingTwice(t *testing.T) {
	const clients = 20
	for stolen, filter := range map[string]string{"all": "", "filtered": `, "http_filter": {"header_filter": "^x-user: alice$"}`} {
		for how, state := range map[string]linktest.State{"reset": linktest.Refuses, "silent": linktest.Swallows} {
			t.Run(stolen+", "+how, func(t *testing.T) {
				m := manager(t)
				n := linktest.New(t, agentAddress(t))
				s := beginAt(t, m, n.Addr(), filter)
				pod, own := logged(t), logged(t)
				port := pod.Addr().(*net.TCPAddr).Port
				attach(t, m, s.ID).listen(uint16(port), own.Listener)
				// What the debuggee has taken waits for the link; who asks does not, or nobody would ask any more.
				client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: 10 * time.Second}
				var asking sync.WaitGroup
				var number, failed atomic.Int64
				done := make(chan struct{})
				stop := sync.OnceFunc(func() {
					close(done)
					asking.Wait()
				})
				defer stop()
				for range clients {
					asking.Go(func() {
						for {
							select {
							case <-done:
								return
							default:
							}
							r, err := http.NewRequest("POST", fmt.Sprintf("http://127.0.0.1:%d/%d", port, number.Add(1)), nil)
							if err != nil {
								t.Error(err)
								return
							}
							r.Header.Set("X-User", "alice")
							a, err := client.Do(r)
							if err != nil {
								failed.Add(1)
								continue
							}
							a.Body.Close()
							if a.StatusCode != http.StatusOK {
								failed.Add(1)
							}
						}
					})
				}
				own.more(t, "the debuggee", 100)
				n.Set(state, link.Control, link.Bulk)
				pod.more(t, "the pod", 100)
				n.Set(linktest.Works, link.Control, link.Bulk)
				own.more(t, "the debuggee", 100)
				stop()
				twice := 0
				for _, l := range []*ledger{pod, own} {
					l.mu.Lock()
					defer l.mu.Unlock()
				}
				for path, times := range own.seen {
					if times+pod.seen[path] > 1 {
						twice++
					}
				}
				t.Logf("of %d requests %d failed", number.Load(), failed.Load())
				if n := failed.Load(); n > 2*clients {
					t.Errorf("%d of %d requests failed, of which %d were in flight at a time", n, number.Load(), clients)
				}
				if twice > 0 {
					t.Errorf("%d of %d requests were made twice", twice, number.Load())
				}
			})
		}
	}
}

// Of the clients of one agent each is kept for as long as its own configuration says,
// with the connections that it has.
func TestGraceOfEach(t *testing.T) {
	addr := agentAddress(t)
	n := linktest.New(t, addr)
	patient := manager(t)
	kept := beginAt(t, patient, n.Addr(), "")
	echo, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer echo.Close()
	go func() {
		if c, err := echo.Accept(); err == nil {
			_, _ = io.Copy(c, c)
			c.Close()
		}
	}()
	pod := serve(t, "pod")
	attach(t, patient, kept.ID).listen(pod.at().Port(), echo)
	c, err := net.Dial("tcp4", pod.at().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(time.Minute))
	echoes := func(words string) {
		t.Helper()
		b := make([]byte, len(words))
		_, err := io.WriteString(c, words)
		if err == nil {
			_, err = io.ReadFull(c, b)
		}
		if err != nil || string(b) != words {
			t.Fatalf("%q is answered by %q, %v", words, b, err)
		}
	}
	echoes("before")

	hasty := manager(t)
	lost := beginWith(t, hasty, n.Addr(), `{"agent": {"communication_timeout": 2}, "feature": {"fs": "local", "network": {"incoming": {"mode": "steal"}}}}`)
	other := serve(t, "pod")
	attach(t, hasty, lost.ID).listen(other.at().Port(), serve(t, "hasty").Listener)

	n.Set(linktest.Refuses, link.Control, link.Bulk)
	heir := manager(t)
	heirs := attach(t, heir, beginAt(t, heir, addr, "").ID)
	mine := serve(t, "heir")
	for late := time.Now().Add(30 * time.Second); ; {
		errno, why := heirs.tries(other.at().Port(), mine.Listener, 0)
		if errno == 0 {
			break
		}
		if errno != unix.EADDRINUSE || time.Now().After(late) {
			t.Fatalf("the port of one who may be away for 2 s: %v: %s", errno, why)
		}
	}
	wantAnswer(t, "the port of the other", whoAnswers(other.at().Port()), "heir")
	n.Set(linktest.Works, link.Control, link.Bulk)
	echoes("after")
}
