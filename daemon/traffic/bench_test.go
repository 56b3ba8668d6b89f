package traffic

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"mirrord/protocol"
)

// relayed joins a client and a server by the two relays of a stolen connection;
// watch is shown what the daemon's moves.
func relayed(b *testing.B, watch protocol.Watch) (client, server net.Conn) {
	pair := func() (net.Conn, net.Conn) {
		l, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		defer l.Close()
		c, err := net.Dial("tcp4", l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		s, err := l.Accept()
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { c.Close(); s.Close() })
		return c, s
	}
	client, agent := pair()
	theirs, ours := pair() // the stream
	daemon, server := pair()
	done := make(chan error, 2)
	go func() { done <- protocol.Relay(agent.(*net.TCPConn), theirs) }()
	go func() { done <- protocol.RelayBy(nil, daemon.(*net.TCPConn), ours, watch) }()
	b.Cleanup(func() { client.Close(); server.Close(); <-done; <-done })
	return client, server
}

func watches(b *testing.B, each func(b *testing.B, w protocol.Watch)) {
	b.Run("none", func(b *testing.B) { each(b, nil) })
	for name, on := range map[string]bool{"nobody asks": false, "watched": true} {
		b.Run(name, func(b *testing.B) {
			w := newSource(b)
			w.source.Watch(on)
			in := w.source.Incoming(port, false, netip.MustParseAddrPort("10.1.2.3:4711"))
			in.Answered(nil)
			each(b, in)
		})
	}
}

// One request and its answer after the other.
func BenchmarkRequest(b *testing.B) {
	const ask, answer = "GET /items HTTP/1.1\r\nHost: web\r\nAccept: */*\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
	watches(b, func(b *testing.B, w protocol.Watch) {
		c, s := relayed(b, w)
		go func() {
			buf := make([]byte, len(ask))
			for {
				if _, err := io.ReadFull(s, buf); err != nil {
					return
				}
				io.WriteString(s, answer)
			}
		}()
		buf := make([]byte, len(answer))
		for b.Loop() {
			io.WriteString(c, ask)
			if _, err := io.ReadFull(c, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// A large answer.
func BenchmarkBulk(b *testing.B) {
	const size = 1 << 20
	watches(b, func(b *testing.B, w protocol.Watch) {
		c, s := relayed(b, w)
		b.SetBytes(size)
		io.WriteString(c, "GET / HTTP/1.1\r\n\r\n")
		go func() {
			io.WriteString(s, "HTTP/1.1 200 OK\r\n\r\n")
			for block := make([]byte, size); ; {
				if _, err := s.Write(block); err != nil {
					return
				}
			}
		}()
		buf := make([]byte, size)
		for b.Loop() {
			if _, err := io.ReadFull(c, buf); err != nil {
				b.Fatal(err)
			}
		}
	})
}

// What one piece costs while nobody asks.
func BenchmarkUnwatchedPiece(b *testing.B) {
	in := newSource(b).source.Incoming(port, false, netip.MustParseAddrPort("10.1.2.3:4711"))
	in.Answered(nil)
	piece := make([]byte, 1400)
	var w protocol.Watch = in
	b.ReportAllocs()
	for b.Loop() {
		w.Receives(piece)
	}
}
