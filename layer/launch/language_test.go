package launch

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"testing"

	"mirrord/layer/layertest"
)

// The target's world, in every language.
func TestLanguages(t *testing.T) {
	for _, wit := range layertest.Witnesses {
		t.Run(wit.Language, func(t *testing.T) { testify(t, wit.Listens, "hello", wit.Build(t)...) })
	}
}

// testify runs a witness.
func testify(t *testing.T, listens bool, greeting string, command ...string) {
	t.Helper()
	w := newWorld(t)
	serveHTTP(t, w)
	w.env = append(w.env, "SHOP_GREETING=hello")
	port := freePort(t)
	want := "env " + greeting + "\nfile color: blue\nname 10.96.1.1\nhttp 200 10.96.1.1:80\n"
	got := make(chan string, 1)
	if listens {
		want += "listening\nclient 192.0.2.7:40000\n"
		go func() { got <- get(w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))) }()
	}
	w.want(t, want, append(command, strconv.Itoa(int(port)), "web.shop")...)
	if t.Failed() || !listens {
		return
	}
	if s := <-got; !strings.HasSuffix(s, "\r\n\r\nwitness\n") {
		t.Errorf("the client got %q", s)
	}
}

func get(c net.Conn, err error) string {
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	fmt.Fprint(c, "GET / HTTP/1.0\r\nHost: web\r\n\r\n")
	b, _ := io.ReadAll(c)
	return string(b)
}

// A child is served whatever it has been left of its environment, and however
// far it has gone from its parent: here it is a daemon of its own session.
func TestChildren(t *testing.T) {
	for _, wit := range layertest.Witnesses[:3] {
		t.Run(wit.Language, func(t *testing.T) {
			command := wit.Build(t)
			t.Run("without environment", func(t *testing.T) {
				testify(t, true, "", append([]string{"env", "-i"}, command...)...)
			})
			t.Run("daemonised", func(t *testing.T) {
				// The substitution ends when nobody has its pipe any more.
				testify(t, true, "hello", append([]string{"sh", "-c", `echo "$( (setsid "$@" &) )"`, "sh"}, command...)...)
			})
		})
	}
}
