package mirrord_test

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

// A program that goes through a tree of small files waits for the agent about
// once per directory, in whichever language: what it will read is sent before it
// asks.
func TestRoundTripsOfATree(t *testing.T) {
	t.Parallel()
	const (
		directories, each = 50, 20
		// How many files one answer tells of at once, at the least: without any
		// answer ahead there would be a round trip for each of these.
		parallelism = 16
		most        = 12 * (1 + directories + directories*each/parallelism) / 10
	)
	w := newNotRoot(t)
	w.pod.do(func() error { return manySmall("/srv/many", directories, each) })
	u := &user{notRoot: w, t: t, namespaces: true}
	u.begin(true)
	for _, walker := range [][]string{
		{u.debuggee(), "read-tree", "/srv/many"},
		{"python3", "-Sc", `
import os
n = 0
for dir, _, names in os.walk("/srv/many"):
    for name in names:
        with open(os.path.join(dir, name)) as f: n += len(f.read())
print("read", n)`},
		{"sh", "-c", "cat /srv/many/*/* | wc -c | sed 's/^/read /'"},
	} {
		c := newCounter(t, w.user)
		u.agent = c.addr
		d := u.exec(nil, append([]string{"--"}, walker...)...)
		got := d.line("read ")
		if code := d.wait(); code != 0 || got != fmt.Sprint("read ", directories*each*len(smallText)) {
			t.Errorf("%s: exit code %d, %q", walker[0], code, got)
		}
		n, kinds := c.under("/srv/many")
		if n > most {
			t.Errorf("%s: %d round trips, want at most %d: %v", walker[0], n, most, kinds)
		}
		t.Logf("%s: %d round trips of at most %d: %v", walker[0], n, most, kinds)
		stop := u.command("daemon", "stop", "--force")
		stop.Env = u.env
		w.user.do(stop.Run)
	}
}

// A program that looks at a tree, which it does by listing its directories and
// asking for all that there is to know of each entry, waits for the agent about
// once per directory.
func TestRoundTripsOfAListing(t *testing.T) {
	t.Parallel()
	const (
		directories, each = 50, 20
		// What is asked before anything can be known ahead: about the tree itself,
		// its first entry of each kind, and the attributes that no file has.
		begin = 12
	)
	w := newNotRoot(t)
	w.pod.do(func() error {
		if err := manySmall("/srv/tree", directories, each); err != nil {
			return err
		}
		for d := range directories {
			if err := os.Symlink("../d0/f0", fmt.Sprintf("/srv/tree/d%d/f0.link", d)); err != nil {
				return err
			}
		}
		return manySmall("/srv/one", 1, each)
	})
	u := &user{notRoot: w, t: t, namespaces: true}
	u.begin(true)
	for _, test := range []struct {
		name, command string
		directories   int
		want          string
	}{
		{"ls -l of one directory", "ls -l /srv/one/d0 | wc -l", 1, fmt.Sprint(1 + each)},
		{"ls -lR", "ls -lR --color=always /srv/tree | grep -c '^[-dl]'", 1 + directories, fmt.Sprint(directories * (each + 2))},
		{"find -size", "find /srv/tree -type f -size +0 | wc -l", 1 + directories, fmt.Sprint(directories * each)},
		{"find -printf", "find /srv/tree -type l -printf '%l\\n' | grep -c ^../d0/f0", 1 + directories, fmt.Sprint(directories)},
		{"python", `python3 -Sc '
import os
n = 0
for dir, dirs, names in os.walk("/srv/tree"):
    for name in names:
        file = os.path.join(dir, name)
        os.lstat(file)
        n += os.access(file, os.R_OK) and not os.access(file, os.X_OK) and os.path.isfile(file) and not os.listxattr(file)
        if os.path.islink(file): os.readlink(file)
print(n)'`, 1 + directories, fmt.Sprint(directories * (each + 1))},
	} {
		c := newCounter(t, w.user)
		u.agent = c.addr
		d := u.exec(nil, "--", "sh", "-c", test.command+" | sed 's/^/counted /'")
		got := d.line("counted ")
		if code := d.wait(); code != 0 || got != "counted "+test.want {
			t.Errorf("%s: exit code %d, %q, want %s", test.name, code, got, test.want)
		}
		n, kinds := c.under("/srv/")
		most := 12*test.directories/10 + begin
		if n > most {
			t.Errorf("%s: %d round trips, want at most %d: %v", test.name, n, most, kinds)
		}
		t.Logf("%s: %d round trips of at most %d: %v", test.name, n, most, kinds)
		stop := u.command("daemon", "stop", "--force")
		stop.Env = u.env
		w.user.do(stop.Run)
	}
}

const smallText = "a small file's text\n"

func manySmall(dir string, directories, each int) error {
	for d := range directories {
		sub := filepath.Join(dir, fmt.Sprint("d", d))
		if err := os.MkdirAll(sub, 0o755); err != nil {
			return err
		}
		for f := range each {
			if err := os.WriteFile(filepath.Join(sub, fmt.Sprint("f", f)), []byte(smallText), 0o644); err != nil {
				return err
			}
		}
	}
	return nil
}

// readTree is main of a debuggee that reads all files of a tree.
func readTree(dir string) error {
	n := 0
	err := filepath.WalkDir(dir, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		n += len(b)
		return err
	})
	fmt.Println("read", n)
	return err
}

// A counter stands between daemon and agent, and counts what is asked.
type counter struct {
	t    *testing.T
	addr string
	to   *place
	log  *slog.Logger

	mu     sync.Mutex
	asked  []countedRequest         // guarded by mu
	dialer map[link.ID]*link.Dialer // guarded by mu
}

type countedRequest struct {
	kind protocol.Kind
	head string
}

func newCounter(t *testing.T, at *place) *counter {
	t.Helper()
	c := &counter{t: t, to: at, log: slog.New(slog.DiscardHandler), dialer: map[link.ID]*link.Dialer{}}
	var l net.Listener
	at.do(func() (err error) {
		l, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	})
	c.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var wg sync.WaitGroup
	wg.Go(func() { _ = link.NewServer(c.log, time.Second).Serve(ctx, l, c.serve) })
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
	return c
}

// serve carries one of a client's links on to the agent.
func (c *counter) serve(ctx context.Context, conn *link.Conn, id link.ID, ch link.Channel) {
	var on *link.Client
	if ch == link.Control {
		d := link.NewDialer(c.log, link.NewID(), time.Second, func(ctx context.Context) (nc net.Conn, err error) {
			c.to.do(func() error {
				nc, err = net.Dial("tcp4", podAddr+":7777")
				return nil
			})
			return nc, err
		})
		l, err := d.Control(ctx)
		if err != nil {
			c.t.Error(err)
			return
		}
		c.mu.Lock()
		c.dialer[id] = d
		c.mu.Unlock()
		on = l
	} else {
		c.mu.Lock()
		d := c.dialer[id]
		c.mu.Unlock()
		on = d.Bulk()
	}
	defer on.Wait()
	near, err1 := yamux.Server(conn, conn.Mux())
	far, err2 := yamux.Client(on, on.Mux())
	if err1 != nil || err2 != nil {
		c.t.Error(err1, err2)
		return
	}
	defer far.Close()
	defer near.Close()
	defer context.AfterFunc(ctx, func() { near.Close() })()
	for {
		s, err := near.AcceptStream()
		if err != nil {
			return
		}
		go c.stream(s, far)
	}
}

// stream carries a stream's requests on, one after the other, and counts them.
func (c *counter) stream(near net.Conn, far *yamux.Session) {
	defer near.Close()
	on, err := far.OpenStream()
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(near, on)
		near.Close()
	}()
	defer on.Close()
	for {
		f, err := protocol.ReadFrame(near)
		if err != nil {
			return
		}
		c.mu.Lock()
		c.asked = append(c.asked, countedRequest{f.Kind, string(f.Header)})
		c.mu.Unlock()
		b := protocol.AppendHead(nil, f.Kind, f.Header, len(f.Payload))
		if _, err := on.Write(append(b, f.Payload...)); err != nil {
			return
		}
	}
}

// under counts what was asked of files below dir, or by handle, and somebody waited for.
func (c *counter) under(dir string) (n int, kinds map[string]int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	kinds = map[string]int{}
	for _, q := range c.asked {
		byHandle := q.kind == protocol.KindRead || q.kind == protocol.KindReadDir || q.kind == protocol.KindWrite
		if byHandle || strings.Contains(q.head, `"path":"`+dir) {
			kinds[q.kind.String()]++
			n++
		}
	}
	return n, kinds
}
