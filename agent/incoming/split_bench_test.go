package incoming

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"testing"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// BenchmarkPassing compares what passes a filtered port with what passes a bare
// relay in the same place, each with the pod's server on loopback:
//
//	kept    requests of connections that are kept
//	new     connections of one request each
//	body    bytes of a large answer
func BenchmarkPassing(b *testing.B) {
	agenttest.Namespace(b)
	for _, kind := range []string{"kept", "new", "body"} {
		for _, way := range []string{"bare", "filtered"} {
			b.Run(kind+"/"+way, func(b *testing.B) {
				in := New(slog.New(slog.DiscardHandler))
				defer in.Close()
				pod := answers(b)
				s, err := in.Steal(b.Context(), protocol.Steal{Port: pod.Port(), Filter: filterOf(way)}, holder(refusing))
				if err != nil {
					b.Fatal(err)
				}
				defer s.Release()
				passing(b, pod, kind)
			})
		}
	}
}

// filterOf has a filter that chooses nothing, or none: then the holder refuses
// all connections, which the agent relays as they are.
func filterOf(way string) *protocol.Filter {
	if way == "bare" {
		return nil
	}
	return user("alice")
}

const (
	benchHead = "GET %s HTTP/1.1\r\nHost: shop.example\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\nX-Request-Id: 3f0c1c3e\r\n" +
		"Accept-Encoding: gzip\r\nX-Forwarded-For: 10.0.0.1\r\nBaggage: a=b\r\n\r\n"
	benchBody = 4 << 20
)

// answers is a pod's server that costs little: it answers each request, a large
// one to /body.
func answers(b *testing.B) netip.AddrPort {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	var wg sync.WaitGroup
	b.Cleanup(wg.Wait)
	b.Cleanup(func() { l.Close() })
	small := []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 100\r\n\r\n" + fmt.Sprintf("%100d", 1))
	large := append(fmt.Appendf(nil, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n", benchBody), make([]byte, benchBody)...)
	wg.Go(func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				defer c.Close()
				r := bufio.NewReader(c)
				for {
					answer := small
					for n := 0; ; n++ {
						line, err := r.ReadSlice('\n')
						if err != nil {
							return
						}
						if n == 0 && string(line[:9]) == "GET /body" {
							answer = large
						}
						if len(line) == 2 {
							break
						}
					}
					if _, err := c.Write(answer); err != nil {
						return
					}
				}
			})
		}
	})
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func passing(b *testing.B, pod netip.AddrPort, kind string) {
	request, size := fmt.Appendf(nil, benchHead, "/"), 0
	if kind == "body" {
		request, size = fmt.Appendf(nil, benchHead, "/body"), benchBody
		b.SetBytes(benchBody)
	}
	connect := func() net.Conn {
		c, err := net.Dial("tcp", pod.String())
		if err != nil {
			b.Fatal(err)
		}
		return c
	}
	b.SetParallelism(4)
	b.ResetTimer()
	b.RunParallel(func(p *testing.PB) {
		var c net.Conn
		buf := make([]byte, 64<<10)
		for p.Next() {
			if c == nil {
				c = connect()
			}
			if _, err := c.Write(request); err != nil {
				b.Error(err)
				return
			}
			n, err := io.ReadAtLeast(c, buf, 100)
			if err != nil {
				b.Error(err)
				return
			}
			for ; n < size; n += 0 {
				m, err := c.Read(buf)
				if err != nil {
					b.Error(err)
					return
				}
				n += m
			}
			if kind == "body" { // what is left of the head's length
				_ = c.Close()
				c = nil
			} else if kind == "new" {
				c.Close()
				c = nil
			}
		}
		if c != nil {
			c.Close()
		}
	})
}
