package mirrord_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"mirrord/protocol/ide"
)

// A viewer hears what goes through a daemon's sessions.
type viewer struct {
	t      *testing.T
	events chan ide.SessionEvent
	seen   []string
}

func (e *editor) view(session string) *viewer {
	v := &viewer{t: e.t, events: make(chan ide.SessionEvent, 10_000)}
	ctx, cancel := context.WithCancel(e.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = e.Events(ctx, ide.SessionEventsParams{ID: session, Traffic: true}, func(ev ide.SessionEvent) { v.events <- ev })
	}()
	e.t.Cleanup(func() {
		cancel()
		<-done
	})
	return v
}

// wants waits for an event.
func (v *viewer) wants(what string, right func(ide.SessionEvent) bool) ide.SessionEvent {
	v.t.Helper()
	timeout := time.After(patience)
	for {
		select {
		case e := <-v.events:
			v.seen = append(v.seen, fmt.Sprintf("%s %+v %+v %+v", e.Kind, e.Connection, e.Outgoing, e.File))
			if right(e) {
				return e
			}
		case <-timeout:
			v.t.Fatalf("%s is not told, but\n%s", what, strings.Join(v.seen, "\n"))
		}
	}
}

// A server that answers with what it got, after it has used the target's
// network and files.
const echoServer = `
import http.server, urllib.request, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(201)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Set-Cookie", "session=secret")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass
server = http.server.ThreadingHTTPServer(("", 8080), H)
print("listening", flush=True)
import threading
threading.Thread(target=server.serve_forever, daemon=True).start()
for line in sys.stdin:
    what, arg = line.split()
    try:
        if what == "get": print("got", urllib.request.urlopen(arg).status, flush=True)
        if what == "read": print("read", len(open(arg, "rb").read(4)), flush=True)
    except Exception as e: print("failed", e, flush=True)
`

// What an editor's side bar shows while a debuggee is in the place of a pod, or
// gets copies of its requests.
func TestTraffic(t *testing.T) {
	t.Parallel()
	namespace, address := ownShop(t)
	apply(t, namespace, `
apiVersion: v1
kind: Service
metadata: {name: other}
spec:
  clusterIP: None
  selector: {app: other}
---
`+strings.Replace(pod("other", `args: [web, -copy=cluster, -inventory, "http://127.0.0.1:9/"]`), "{name: other}", "{name: other, labels: {app: other}}", 1))
	kubectl(t, "wait", "pod/other", "-n", namespace, "--for=condition=Ready", "--timeout=60s")
	dir := ownDaemon(t)
	e := openEditor(t, dir)
	for _, steal := range []bool{true, false} {
		t.Run(fmt.Sprint("steal ", steal), func(t *testing.T) {
			e := &editor{e.Client, t}
			s := e.session(namespace, "web", steal)
			told := started(t, mirrord(t, "session", "events", s.ID, "--traffic"), nil)
			told.line("") // what is the case
			v := e.view(s.ID)
			cmd := mirrord(t, "exec", "--session", s.ID, "--", "python3", "-c", echoServer)
			stdin, err := cmd.StdinPipe()
			if err != nil {
				t.Fatal(err)
			}
			d := started(t, cmd, nil)
			d.line("listening")

			var conn net.Conn
			err = inNetwork(t, namespace, "client", func() (err error) {
				conn, err = net.Dial("tcp4", address)
				return err
			})
			if err != nil {
				t.Fatal(err)
			}
			c := http.Client{Timeout: patience, Transport: &http.Transport{
				DisableKeepAlives: true, DialContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil },
			}}
			post, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+address+"/items?all", strings.NewReader("hello"))
			if err != nil {
				t.Fatal(err)
			}
			post.Header.Set("Authorization", "Bearer secret")
			resp, err := c.Do(post)
			if err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(resp.Body); err != nil || (string(b) == "hello") != steal {
				t.Errorf("answered %d %q, %v", resp.StatusCode, b, err)
			}
			resp.Body.Close()
			asked := v.wants("the request", func(e ide.SessionEvent) bool { return e.Kind == ide.EventRequest }).Request
			host, _, _ := net.SplitHostPort(asked.Peer)
			if asked.Method != "POST" || asked.Path != "/items?all" || asked.Host != address || asked.Port != 8080 || asked.Mirror == steal ||
				asked.Proto != "HTTP/1.1" || host != podIP(t, namespace, "client") {
				t.Errorf("%+v", asked.Asked)
			}
			answered := v.wants("its answer", func(e ide.SessionEvent) bool { return e.Kind == ide.EventResponse }).Request
			if answered.ID != asked.ID || answered.Status != 201 || answered.RequestBytes != 5 || answered.ResponseBytes != 5 || answered.MS <= 0 {
				t.Errorf("%+v", answered.Answered)
			}
			r, err := e.Request(t.Context(), ide.RequestParams{ID: s.ID, Request: asked.ID})
			if err != nil || string(r.Request.Body) != "hello" || string(r.Response.Body) != "hello" || r.Response.Status != 201 || !r.Done {
				t.Errorf("%+v, %v", r, err)
			}
			header := func(list [][2]string, name string) string {
				for _, h := range list {
					if strings.EqualFold(h[0], name) {
						return h[1]
					}
				}
				return "none"
			}
			if a, c := header(r.Request.Headers, "Authorization"), header(r.Response.Headers, "Set-Cookie"); a != "…" || c != "…" {
				t.Errorf("secrets are shown: %q, %q", a, c)
			}
			r, err = e.Request(t.Context(), ide.RequestParams{ID: s.ID, Request: asked.ID, Reveal: true})
			if a := header(r.Request.Headers, "Authorization"); a != "Bearer secret" || err != nil {
				t.Errorf("revealed: %q, %v", a, err)
			}

			name := "other." + namespace + ".svc.cluster.local"
			fmt.Fprintf(stdin, "get http://%s:8080/\n", name)
			d.line("got 200")
			open := v.wants("the connection", func(e ide.SessionEvent) bool { return e.Outgoing != nil && e.Outgoing.Proto == "tcp" }).Outgoing
			if open.Name != name || open.Address != podIP(t, namespace, "other")+":8080" || open.Ended || open.Error != "" || open.PID == 0 {
				t.Errorf("%+v", open)
			}
			ended := v.wants("its end", func(e ide.SessionEvent) bool { return e.Outgoing != nil && e.Outgoing.ID == open.ID }).Outgoing
			if !ended.Ended || ended.BytesIn == 0 || ended.BytesOut == 0 {
				t.Errorf("%+v", ended)
			}
			for range 3 {
				fmt.Fprintln(stdin, "read /shop")
				d.line("read 4")
			}
			count := 0
			for count < 3 {
				f := v.wants("the file", func(e ide.SessionEvent) bool { return e.File != nil && e.File.Path == "/shop" }).File
				if count += max(f.Count, 1); f.Op != "open" || f.Write || f.Bytes == 0 || f.Error != "" || f.PID != open.PID {
					t.Errorf("%+v", f)
				}
			}
			if count != 3 {
				t.Errorf("it was opened 3 times, which is told as %d", count)
			}
			fmt.Fprintln(stdin, "read /shop/none")
			d.line("failed")
			v.wants("no file", func(e ide.SessionEvent) bool {
				return e.File != nil && e.File.Path == "/shop/none" && e.File.Error == "ENOTDIR"
			})

			has := func(words ...string) {
				t.Helper()
				for {
					line, all := told.line(""), true
					for _, w := range words {
						all = all && strings.Contains(line, w)
					}
					if all {
						return
					}
				}
			}
			has("POST /items?all", "at port 8080 from "+asked.Peer, "HTTP/1.1 to "+address)
			has("POST /items?all: 201 in ", "5 bytes for 5")
			has("tcp to "+name, "is open")
			has("opens /shop")
			told.signal(syscall.SIGINT)
			told.wait()
			stdin.Close()
			if code := d.wait(); code != 0 {
				t.Errorf("the debuggee's exit code is %d", code)
			}
			if err := e.Stop(t.Context(), s.ID); err != nil {
				t.Error(err)
			}
		})
	}
}
