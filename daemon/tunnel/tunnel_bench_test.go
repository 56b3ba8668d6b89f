package tunnel

import (
	"context"
	"log/slog"
	"net"
	"testing"

	"github.com/hashicorp/yamux"

	"mirrord/protocol"
	"mirrord/protocol/link"
)

func BenchmarkCall(b *testing.B) {
	quiet := slog.New(slog.DiscardHandler)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	content := make([]byte, 2048)
	s := link.NewServer(quiet, link.Grace)
	ctx, cancel := context.WithCancel(b.Context())
	served := make(chan error)
	go func() {
		served <- s.Serve(ctx, l, func(_ context.Context, c *link.Conn, _ link.ID) {
			mux, err := yamux.Server(c, link.Mux())
			if err != nil {
				return
			}
			for {
				st, err := mux.Accept()
				if err != nil {
					return
				}
				go func() {
					defer st.Close()
					f, err := protocol.ReadFrame(st)
					if err != nil {
						return
					}
					if f.Kind == protocol.KindHello {
						protocol.WriteMessage(st, f.Kind, protocol.HelloReply{Version: protocol.Version}, nil)
						return
					}
					protocol.WriteMessage(st, f.Kind, protocol.OpenReply{}, content)
				}()
			}
		})
	}()
	t, err := Open(ctx, quiet, link.NewID(), func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", l.Addr().String())
	})
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if _, err := t.Call(ctx, protocol.KindOpen, protocol.Open{Path: "/etc/shop/config.yaml"}, new(protocol.OpenReply)); err != nil {
			b.Fatal(err)
		}
	}
	t.Close()
	cancel()
	<-served
}
