package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-dap"

	"mirrord/daemon/debug/debugtest"
	"mirrord/daemon/debug/endpoint"
	"mirrord/protocol/ide"
)

// Of a goroutine that stops in a handler the daemon is asked for the request of
// its very connection and stream; of others nothing is asked, and the client sees
// nothing of our looking.
func TestServing(t *testing.T) {
	source, err := filepath.Abs("testdata/server/main.go")
	if err != nil {
		t.Fatal(err)
	}
	for _, flags := range []string{"all=-N -l", ""} {
		program := filepath.Join(t.TempDir(), "server")
		cmd := exec.Command("go", "build", "-gcflags="+flags, "-o", program, source)
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("building the server: %v\n%s", err, out)
		}
		for _, proto := range []string{"HTTP/1", "HTTP/2"} {
			t.Run(proto+" built with "+flags, func(t *testing.T) {
				serving(t, program, source, proto, flags != "" || proto == "HTTP/1")
			})
		}
	}
}

func serving(t *testing.T, program, source, proto string, known bool) {
	asked := make(chan ide.ServingParams, 10)
	var request atomic.Uint64 // that is served
	request.Store(1)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		server, err := l.Accept()
		if err != nil {
			t.Error(err)
			return
		}
		serveDAP(endpoint.Tap(server, func(_ context.Context, p ide.ServingParams) (ide.ServingResult, error) {
			id := request.Load() // before the test goes on
			asked <- p
			if p.Stream == 3 {
				return ide.ServingResult{}, errors.New("nobody knows this one")
			}
			return ide.ServingResult{
				Serving: ide.Serving{Thread: p.Thread, ID: id, Method: "GET", Path: fmt.Sprintf("/%d", id), Peer: p.Peer, Pod: "shop/client"},
				Headers: [][2]string{{"Accept", "*/*"}},
			}, nil
		}), make(chan struct{}))
	}()
	defer func() { <-done }()
	c := debugtest.Dial(t, l.Addr().String())
	defer c.Close()
	c.Launch(debugtest.Args{"mode": "exec", "program": program, "args": []string{proto}, "outputMode": "remote"})
	mark := func(text string) dap.SourceBreakpoint {
		return dap.SourceBreakpoint{Line: debugtest.Mark(t, source, text)}
	}
	c.Break(source, mark("// mark: serves"), mark("// mark: nobody"))
	c.Run()
	var peers []string
	for i := range 3 {
		thread := c.Stopped("breakpoint")
		if !known {
			c.Resume("continue", thread)
			continue
		}
		p := <-asked
		peers = append(peers, p.Peer)
		stream := uint32(0)
		if proto == "HTTP/2" {
			stream = uint32(1 + 2*i)
		}
		if p.Thread != int64(thread) || p.Stream != stream || p.Peer != peers[0] {
			t.Errorf("goroutine %d asks of %+v, want stream %d of %s", thread, p, stream, peers[0])
		}
		if stream != 3 {
			e := debugtest.Next[*dap.OutputEvent](c)
			for e.Body.Category != "console" || !strings.HasPrefix(e.Body.Output, "mirrord: ") {
				e = debugtest.Next[*dap.OutputEvent](c)
			}
			if want := fmt.Sprintf(" serves GET /%d from pod shop/client (%s)\n", i+1, p.Peer); !strings.HasSuffix(e.Body.Output, want) || e.Body.Group != "startCollapsed" {
				t.Errorf("the client shows %+v, want %q", e.Body, want)
			}
			if e := debugtest.Next[*dap.OutputEvent](c); e.Body.Output != "Accept: */*\n" {
				t.Errorf("the client shows the headers %q", e.Body.Output)
			}
			c.Resume("next", thread) // the same request: nothing is shown again
			thread = c.Stopped("step")
			if again := <-asked; again != p {
				t.Errorf("after a step it asks of %+v, not %+v", again, p)
			}
		}
		request.Store(uint64(i + 2))
		c.Resume("continue", thread)
	}
	main := c.Stopped("breakpoint")
	if stack := c.Stack(main, 1); stack[0].Name != "main.main" {
		t.Fatalf("it stands in %s", stack[0].Name)
	}
	c.Resume("continue", main)
	if code := c.Exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if known && !strings.Contains(c.Out(), "answer "+peers[0]) {
		t.Errorf("the peer is said to be %s, and the server prints %q", peers[0], c.Out())
	}
	c.Disconnect(true)
	if len(asked) > 0 {
		t.Errorf("asked was %+v", <-asked)
	}
}
