package tunnel

import (
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
)

func BenchmarkCall(b *testing.B) {
	content := make([]byte, 2048)
	dial := far(b, func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if !hello(s, f, protocol.Version) {
			protocol.WriteMessage(s, f.Kind, protocol.OpenReply{}, content)
		}
	})
	tun := open(b, dial)
	for b.Loop() {
		if _, err := tun.Call(b.Context(), protocol.KindOpen, protocol.Open{Path: "/etc/shop/config.yaml"}, new(protocol.OpenReply)); err != nil {
			b.Fatal(err)
		}
	}
}

// relayed is a TCP connection through the tunnel to one that serve has.
func relayed(b *testing.B, serve func(net.Conn)) net.Conn {
	listen := func() net.Listener {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { l.Close() })
		return l
	}
	server, endpoint := listen(), listen()
	go func() {
		if c, err := server.Accept(); err == nil {
			serve(c)
			c.Close()
		}
	}()
	dial := far(b, func(_ *yamux.Session, s net.Conn, f protocol.Frame) {
		if hello(s, f, protocol.Version) {
			return
		}
		c, err := net.Dial("tcp", server.Addr().String())
		if err == nil {
			protocol.WriteMessage(s, f.Kind, protocol.ConnectReply{}, nil)
			protocol.Relay(c.(*net.TCPConn), s)
		}
	})
	tun := open(b, dial)
	near, err := net.Dial("tcp", endpoint.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { near.Close() })
	c, err := endpoint.Accept()
	if err != nil {
		b.Fatal(err)
	}
	s, _, err := tun.Connect(b.Context(), netip.AddrPort{})
	if err != nil {
		b.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		protocol.Relay(c.(*net.TCPConn), s)
	}()
	b.Cleanup(func() { near.Close(); <-done })
	return near
}

func BenchmarkRoundTrip(b *testing.B) {
	c := relayed(b, func(c net.Conn) { io.Copy(c, c) })
	buf := make([]byte, 64)
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(c, buf); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkTransfer(b *testing.B) {
	got := make(chan int64)
	c := relayed(b, func(c net.Conn) {
		n, _ := io.Copy(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{c})
		got <- n
	})
	buf := make([]byte, 256<<10)
	b.SetBytes(int64(len(buf)))
	var sent int64
	for b.Loop() {
		if _, err := c.Write(buf); err != nil {
			b.Fatal(err)
		}
		sent += int64(len(buf))
	}
	c.(*net.TCPConn).CloseWrite()
	if n := <-got; n != sent {
		b.Errorf("%d bytes of %d arrived", n, sent)
	}
}
