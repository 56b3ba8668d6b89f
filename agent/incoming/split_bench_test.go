package incoming

import (
	"bufio"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"mirrord/agent/agenttest"
	"mirrord/protocol"
)

// BenchmarkPassing compares what passes a filtered port with what passes a bare
// relay in the same place, in turn, and reports the median of the rounds' ratios
// of time, and of processor time, which others on the machine disturb less
// (greater than 1: the filter is faster):
//
//	kept    requests of connections that are kept
//	new     connections of one request each
//	body    bytes of a large answer
//
// For kept ones also what the slowest hundredth waits longer than directly, at half
// of the requests per second that the filtered port reaches.
func BenchmarkPassing(b *testing.B) {
	agenttest.Namespace(b)
	for kind, requests := range map[string]int{"kept": 4000, "new": 300, "body": 40} {
		b.Run(kind, func(b *testing.B) {
			in := New(slog.New(slog.DiscardHandler), SkLookup)
			defer in.Close()
			bare, filtered := answers(b), answers(b)
			// Nobody holds that port: all is relayed as it is.
			if err := in.redirect.Add(bare.Port()); err != nil {
				b.Fatal(err)
			}
			s, err := in.Steal(b.Context(), protocol.Steal{Port: filtered.Port(), Filter: user("alice")}, holder(refusing))
			if err != nil {
				b.Fatal(err)
			}
			defer s.Release()
			var ratios, costs []float64
			for i := range b.N {
				ways := []netip.AddrPort{bare, filtered}
				took, cost := map[netip.AddrPort]time.Duration{}, map[netip.AddrPort]time.Duration{}
				for n := range ways {
					way := ways[(n+i)%2]
					begun, used := time.Now(), processor(b)
					passing(b, way, kind, requests, 0)
					took[way], cost[way] = time.Since(begun), processor(b)-used
				}
				ratios = append(ratios, float64(took[bare])/float64(took[filtered]))
				costs = append(costs, float64(cost[bare])/float64(cost[filtered]))
			}
			slices.Sort(ratios)
			slices.Sort(costs)
			b.ReportMetric(ratios[len(ratios)/2], "ratio")
			b.ReportMetric(costs[len(costs)/2], "cpu-ratio")
			if kind == "kept" {
				added(b, answers(b), bare, filtered)
			}
		})
	}
}

// added reports what the slowest hundredth of requests waits longer than directly.
func added(b *testing.B, direct, bare, filtered netip.AddrPort) {
	const requests, rounds = 4000, 5
	begun := time.Now()
	passing(b, filtered, "kept", requests, 0)
	pace := 2 * time.Since(begun) / (requests / benchClients)
	more := map[string][]float64{}
	for range rounds {
		slow := func(way netip.AddrPort) float64 {
			all := passing(b, way, "kept", requests/4, pace)
			slices.Sort(all)
			return float64(all[len(all)*99/100]) / float64(time.Millisecond)
		}
		base := slow(direct)
		more["bare-p99-ms"] = append(more["bare-p99-ms"], slow(bare)-base)
		more["p99-ms"] = append(more["p99-ms"], slow(filtered)-base)
	}
	for unit, all := range more {
		slices.Sort(all)
		b.ReportMetric(all[rounds/2], unit)
	}
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

// processor is the time that this process, clients and servers included, has used.
func processor(b *testing.B) time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// benchClients ask at one time, from many addresses, as one has not so many ports.
const benchClients = 8

var benchAddrs atomic.Uint32

// passing makes requests, each client one in every pace, and tells what each took.
func passing(b *testing.B, pod netip.AddrPort, kind string, requests int, pace time.Duration) (took []time.Duration) {
	request, size := fmt.Appendf(nil, benchHead, "/"), 100
	if kind == "body" {
		request, size = fmt.Appendf(nil, benchHead, "/body"), benchBody
	}
	var wg sync.WaitGroup
	took = make([]time.Duration, requests)
	start := time.Now()
	for client := range benchClients {
		wg.Go(func() {
			var c net.Conn
			buf := make([]byte, 64<<10)
			for i := range requests / benchClients {
				due := start.Add(time.Duration(i)*pace + pace*time.Duration(client)/benchClients)
				time.Sleep(time.Until(due)) // not at all where there is no pace
				begun := time.Now()
				if c == nil {
					n := benchAddrs.Add(1)
					d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 1+byte(n>>16), byte(n>>8), byte(n))}}
					var err error
					if c, err = d.Dial("tcp", pod.String()); err != nil {
						b.Error(err)
						return
					}
				}
				_, err := c.Write(request)
				for n := 0; n < size && err == nil; {
					var m int
					m, err = c.Read(buf)
					n += m
				}
				if err != nil {
					b.Error(err)
					return
				}
				took[i*benchClients+client] = time.Since(begun)
				if kind != "kept" {
					c.Close()
					c = nil
				}
			}
			if c != nil {
				c.Close()
			}
		})
	}
	wg.Wait()
	return took
}
