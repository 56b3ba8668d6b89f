package launch

import (
	"bufio"
	"fmt"
	"net/http"
	"net/netip"
	"strconv"
	"testing"
)

// A static, stripped Go program does all of it.
func TestStaticGo(t *testing.T) {
	w := newWorld(t)
	serveHTTP(t, w)
	port := freePort(t)
	status := make(chan string, 1)
	go func() {
		c, err := w.Deliver(port, netip.MustParseAddrPort("192.0.2.7:40000"))
		if err != nil {
			status <- err.Error()
			return
		}
		defer c.Close()
		fmt.Fprint(c, "GET / HTTP/1.1\r\nHost: web\r\nConnection: close\r\n\r\n")
		r, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			status <- err.Error()
			return
		}
		r.Body.Close()
		status <- r.Status
	}()
	w.want(t, `color: blue
web-1
hello from web.shop
lookup nowhere.shop on 10.96.0.10:53: no such host
dial tcp 10.96.9.9:81: connect: connection refused
2
served 192.0.2.7:40000 true
`, goProgram(t, "web"), strconv.Itoa(int(port)))
	if s := <-status; s != "200 OK" {
		t.Errorf("the client got %s", s)
	}
}
