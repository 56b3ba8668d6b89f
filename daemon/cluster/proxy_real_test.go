package cluster

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"testing"
)

// Requests and port-forwards of both protocols go through the proxy that the
// kubeconfig names.
func TestProxy(t *testing.T) {
	a := startEcho(t, openShop(t), echoSpec(t))
	addr, tunnels := proxy(t)
	b := *a
	b.c = configured(t, shop.namespace, []string{"set", "clusters.mirrord-test.proxy-url", "http://" + addr})
	if err := b.Gone(t.Context()); err != nil {
		t.Fatal(err)
	}
	if tunnels.Load() != 1 {
		t.Errorf("%d tunnels after a request, want 1", tunnels.Load())
	}
	for want := int32(2); want <= 3; want++ {
		if err := hello(t.Context(), dial(t, &b)); err != nil {
			t.Error(err)
		}
		if tunnels.Load() != want {
			t.Errorf("%d tunnels, want %d", tunnels.Load(), want)
		}
		b.c.spdyRefused.Store(true)
	}
}

// proxy answers CONNECT and counts.
func proxy(t *testing.T) (string, *atomic.Int32) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var count atomic.Int32
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { serveConnect(conn, &count) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		wg.Wait()
	})
	return l.Addr().String(), &count
}

func serveConnect(near net.Conn, count *atomic.Int32) {
	defer near.Close()
	q, err := http.ReadRequest(bufio.NewReader(near))
	if err != nil || q.Method != http.MethodConnect {
		return
	}
	far, err := net.Dial("tcp", q.Host)
	if err != nil {
		return
	}
	defer far.Close()
	count.Add(1)
	io.WriteString(near, "HTTP/1.1 200 OK\r\n\r\n")
	go func() {
		io.Copy(far, near)
		far.Close()
		near.Close()
	}()
	io.Copy(near, far)
}
