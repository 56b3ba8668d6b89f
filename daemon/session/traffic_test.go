package session

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/protocol/ide"
	"mirrord/protocol/layer"
)

// listenTo hears a session's traffic until the end of the test or the call of
// the function.
func listenTo(t *testing.T, m *Manager, p ide.SessionEventsParams) (<-chan ide.SessionEvent, func()) {
	t.Helper()
	told := make(chan ide.SessionEvent, 1000)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = m.Events(ctx, p, func(e ide.SessionEvent) { told <- e })
	}()
	end := func() {
		cancel()
		<-done
	}
	t.Cleanup(end)
	return told, end
}

// wants waits for an event that is right.
func wants(t *testing.T, told <-chan ide.SessionEvent, what string, right func(ide.SessionEvent) bool) ide.SessionEvent {
	t.Helper()
	var seen []string
	for {
		select {
		case e := <-told:
			if right(e) {
				return e
			}
			seen = append(seen, fmt.Sprintf("%s %+v %+v %+v", e.Kind, e.Connection, e.Outgoing, e.File))
		case <-time.After(time.Minute):
			t.Fatalf("no event of %s, but\n%s", what, strings.Join(seen, "\n"))
		}
	}
}

// Who asks hears of requests, outgoing connections and files, and others do not.
func TestTraffic(t *testing.T) {
	m := manager(t)
	s, c := start(t, m)
	plain, _ := listenTo(t, m, ide.SessionEventsParams{ID: s.ID})
	told, end := listenTo(t, m, ide.SessionEventsParams{Traffic: true})
	watched := func(want uint64) {
		t.Helper()
		for {
			notice, _ := c.read(0)
			if notice.Flags&layer.ReplyWatched == 0 {
				continue // leases, or what is answered ahead
			}
			if notice.Node != want {
				t.Errorf("the launcher is told %+v", notice)
			}
			return
		}
	}
	watched(1)

	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.Copy(w, r.Body) })}
	go server.Serve(l)
	t.Cleanup(func() { server.Close() })
	free, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(free.Addr().(*net.TCPAddr).Port)
	free.Close()
	c.listen(port, l)
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(fmt.Sprintf("http://127.0.0.1:%d/items?all", port), "text/plain", strings.NewReader("hello"))
	if err != nil {
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); string(b) != "hello" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
	resp.Body.Close()
	asked := wants(t, told, "the request", func(e ide.SessionEvent) bool { return e.Kind == ide.EventRequest })
	if r := asked.Request; asked.Session != s.ID || r.Method != "POST" || r.Path != "/items?all" || r.Port != port || !strings.HasPrefix(r.Peer, "127.0.0.1:") {
		t.Errorf("%+v %+v", asked, r.Asked)
	}
	answered := wants(t, told, "its answer", func(e ide.SessionEvent) bool { return e.Kind == ide.EventResponse })
	if r := answered.Request; r.ID != asked.Request.ID || r.Status != 200 || r.RequestBytes != 5 || r.ResponseBytes != 5 {
		t.Errorf("%+v %+v", answered, r.Answered)
	}
	r, err := m.Request(ide.RequestParams{ID: s.ID, Request: asked.Request.ID})
	if err != nil || string(r.Request.Body) != "hello" || string(r.Response.Body) != "hello" || len(r.Request.Headers) == 0 || r.Response.Status != 200 {
		t.Errorf("%+v, %v", r, err)
	}

	none, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	none.Close()
	closed := none.Addr().(*net.TCPAddr).AddrPort()
	source, _ := boundSocket(t)
	c.call(layer.Request{Op: layer.OpConnect, Addr: closed, Addr2: source, Mode: uint32(unix.Gettid())})
	wants(t, told, "a connection that is refused", func(e ide.SessionEvent) bool {
		o := e.Outgoing
		return o != nil && o.Proto == "tcp" && o.Address == closed.String() && o.Error == "ECONNREFUSED" && o.Ended && o.PID == os.Getpid()
	})
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	c.call(layer.Request{Op: layer.OpOpen, Path: path, Mode: uint32(unix.Gettid())})
	wants(t, told, "a file", func(e ide.SessionEvent) bool {
		f := e.File
		return f != nil && f.Path == path && f.Op == "open" && !f.Write && f.Bytes == 7 && f.PID == os.Getpid() && f.Error == "" && f.Count == 0
	})
	c.call(layer.Request{Op: layer.OpOpen, Path: filepath.Dir(path), Flags: layer.OpenDirectory})
	wants(t, told, "a directory", func(e ide.SessionEvent) bool {
		return e.File != nil && e.File.Path == filepath.Dir(path) && e.File.Op == "list"
	})
	c.call(layer.Request{Op: layer.OpOpen, Path: path + ".none"})
	wants(t, told, "no file", func(e ide.SessionEvent) bool {
		return e.File != nil && e.File.Path == path+".none" && e.File.Error == "ENOENT"
	})
	// What the launcher answers by itself it tells, and gets no answer.
	known := layer.Request{Op: layer.OpOpened, Seq: 3, Flags: layer.OpenWrite | layer.OpenFailed, Node: uint64(unix.EROFS), Path: "/etc/shop/known"}
	if _, err := c.conn.Write(known.Append(nil)); err != nil {
		t.Fatal(err)
	}
	wants(t, told, "files that the launcher knows", func(e ide.SessionEvent) bool {
		f := e.File
		return f != nil && f.Path == "/etc/shop/known" && f.Write && f.Error == "EROFS" && f.Count == 3
	})

	end()
	watched(0)
	if _, err := m.Request(ide.RequestParams{ID: s.ID, Request: asked.Request.ID}); err == nil || !strings.Contains(err.Error(), "has no request") {
		t.Errorf("nobody listens: %v", err)
	}
	if _, err := m.Request(ide.RequestParams{ID: "none", Request: 1}); err == nil || !strings.Contains(err.Error(), "no session") {
		t.Errorf("no session: %v", err)
	}
	if err := m.Stop(t.Context(), s.ID); err != nil {
		t.Fatal(err)
	}
	for e := range plain {
		if e.Kind == ide.EventEnded {
			return
		}
		if e.Request != nil || e.Connection != nil || e.Outgoing != nil || e.File != nil {
			t.Errorf("who has not asked is told %+v", e)
		}
	}
}

// A session that begins while somebody listens to all is watched, and a
// launcher that comes is told.
func TestTrafficOfALaterSession(t *testing.T) {
	m := manager(t)
	told, _ := listenTo(t, m, ide.SessionEventsParams{Traffic: true})
	s, c := start(t, m)
	for notice := (layer.Reply{}); notice.Flags&layer.ReplyWatched == 0; {
		notice, _ = c.read(0)
		if notice.Flags&layer.ReplyWatched != 0 && notice.Node != 1 {
			t.Errorf("the launcher is told %+v", notice)
		}
	}
	c.call(layer.Request{Op: layer.OpOpen, Path: "/none/of/this"})
	wants(t, told, "the file", func(e ide.SessionEvent) bool {
		return e.Session == s.ID && e.File != nil && e.File.Path == "/none/of/this"
	})
}

// What goes through a session leaves room for what happens in it.
func TestSlowReaderOfTraffic(t *testing.T) {
	var e events
	s := e.subscribe(ide.SessionEventsParams{Traffic: true}, nil)
	for range 2 * maxEvents {
		e.tell(ide.SessionEvent{Kind: ide.EventFile}, true)
	}
	for range maxEvents / 4 {
		e.tell(ide.SessionEvent{Kind: ide.EventTaken}, false)
	}
	n := map[string]int{}
	for _, ev := range e.take(s) {
		n[ev.Kind]++
	}
	if n[ide.EventFile] != maxTraffic || n[ide.EventTaken] != maxEvents/4 || n[ide.EventMissed] != 1 {
		t.Errorf("told: %v", n)
	}
}
