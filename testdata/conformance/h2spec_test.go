package conformance

import (
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/summerwind/h2spec/config"
	"github.com/summerwind/h2spec/generic"
	"github.com/summerwind/h2spec/hpack"
	"github.com/summerwind/h2spec/http2"
	"github.com/summerwind/h2spec/spec"

	"mirrord/protocol"
)

// Every case of h2spec that a server passes directly it passes when its requests
// pass a filtered port, and when they are stolen. A few that it fails pass there, as
// what we are more exact about it does not get to see.
func TestH2spec(t *testing.T) {
	in := agent(t)
	serve := func(t *testing.T, asked bool) netip.AddrPort {
		var requests atomic.Int32
		t.Cleanup(func() {
			if n := requests.Load(); (n > 0) != asked {
				t.Errorf("a server got %d requests", n)
			}
		})
		return web(t, func(w http.ResponseWriter, r *http.Request) {
			requests.Add(1)
			_, _ = io.Copy(io.Discard, r.Body)
			_, _ = io.WriteString(w, "words for who reads slowly")
		})
	}
	direct, passed, stolen := serve(t, true), serve(t, true), serve(t, false)
	filtered(t, in, passed, protocol.Filter{Path: "^/none$"}, serve(t, false))
	filtered(t, in, stolen, protocol.Filter{Path: "."}, serve(t, true))
	ways := []struct {
		name string
		at   netip.AddrPort
	}{{"directly", direct}, {"passed", passed}, {"stolen", stolen}}
	var run func(g *spec.TestGroup)
	run = func(g *spec.TestGroup) {
		for i, c := range append(g.Tests, g.StrictTests...) {
			t.Run(fmt.Sprintf("%s/%d", g.ID(), i+1), func(t *testing.T) {
				t.Parallel()
				results := make([]string, len(ways))
				var wg sync.WaitGroup
				for i, way := range ways {
					wg.Go(func() { results[i] = result(c, way.at) })
				}
				wg.Wait()
				for i, r := range results {
					t.Logf("%s: %s it %s", c.Desc, ways[i].name, r)
					if results[0] == passes && r != passes {
						t.Errorf("passes directly, but not %s", ways[i].name)
					}
				}
			})
		}
		for _, sub := range g.Groups {
			run(sub)
		}
	}
	for _, g := range []*spec.TestGroup{generic.Spec(), http2.Spec(), hpack.Spec()} {
		run(g)
	}
}

const passes = "passes"

// result is what comes of a case at a server.
func result(c *spec.TestCase, at netip.AddrPort) string {
	cfg := &config.Config{Host: at.Addr().String(), Port: int(at.Port()), Path: "/", Timeout: 5 * time.Second, MaxHeaderLen: 4000, Strict: true}
	conn, err := spec.Dial(cfg)
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	switch err := c.Run(cfg, conn); err {
	case nil:
		return passes
	case spec.ErrSkipped:
		return "is skipped"
	default:
		return fmt.Sprintf("fails: %v", err)
	}
}
