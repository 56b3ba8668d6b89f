package forward

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"mirrord/protocol"
	"mirrord/protocol/socket/tlstest"
)

// What was said in TLS is said to the debuggee in TLS, or, where it does not take
// that, not at all. Who watches sees what was said.
func TestDeliverTLS(t *testing.T) {
	pair, cert, key := tlstest.Certificate(t, t.TempDir(), "own")
	_, other, _ := tlstest.Certificate(t, t.TempDir(), "own")
	for name, test := range map[string]struct {
		roots    Roots
		server   *tls.Config // nil: none
		protocol string
		want     string // the name that the debuggee is asked for, or an error
	}{
		"any":              {Roots{}, &tls.Config{}, "", "shop"},
		"h2":               {Roots{ServerName: "mine"}, &tls.Config{NextProtos: []string{"h2"}}, "h2", "mine"},
		"its own":          {Roots{ServerCert: cert}, &tls.Config{}, "http/1.1", "own"},
		"a root":           {Roots{Files: []string{filepath.Dir(cert)}, ServerName: "own"}, &tls.Config{}, "", "own"},
		"with a client's":  {Roots{ClientCert: cert, ClientKey: key}, &tls.Config{ClientAuth: tls.RequireAnyClientCert}, "", "shop"},
		"not its own":      {Roots{ServerCert: other}, &tls.Config{}, "", "x509: certificate"},
		"not by that name": {Roots{Files: []string{cert}}, &tls.Config{}, "", "not shop"},
		"no h2":            {Roots{}, &tls.Config{}, "h2", `agrees to protocol ""`},
		"another than h2":  {Roots{}, &tls.Config{NextProtos: []string{"http/1.1"}}, "h2", "no application protocol"},
		"not TLS":          {Roots{}, nil, "", "does not look like a TLS"},
	} {
		t.Run(name, func(t *testing.T) {
			d, err := NewDelivery(test.roots)
			if err != nil {
				t.Fatal(err)
			}
			l, err := net.Listen("tcp4", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			defer l.Close()
			asked := make(chan string, 1)
			served := make(chan struct{})
			go func() {
				defer close(served)
				c, err := l.Accept()
				if err != nil {
					return
				}
				defer c.Close()
				if test.server == nil {
					_, _ = io.WriteString(c, "I speak first, and plainly\n")
					_, _ = io.Copy(io.Discard, c)
					return
				}
				test.server.Certificates = []tls.Certificate{pair}
				s := tls.Server(c, test.server)
				defer s.Close()
				if s.Handshake() == nil {
					asked <- s.ConnectionState().ServerName
					_, _ = io.Copy(s, s)
				}
			}()
			ours, agent := streams(t)
			w := newWatched()
			done := make(chan error, 1)
			go func() {
				done <- newIncoming(t).Deliver(t.Context(), NewOffer(ours, false), Peer{TLS: &protocol.Opened{ServerName: "shop", Protocol: test.protocol}},
					Listener{Addr: l.Addr().(*net.TCPAddr).AddrPort(), TLS: d}, w)
			}()
			if strings.Contains(test.want, " ") {
				err := <-done
				if _, ok := errors.AsType[*TLSError](err); !ok || !strings.Contains(err.Error(), test.want) {
					t.Errorf("%v, not %s", err, test.want)
				}
				<-served
				return
			}
			if _, err := protocol.ReadAnswer(agent, protocol.KindIncoming, new(protocol.IncomingReply)); err != nil {
				t.Fatal(err)
			}
			if got := <-asked; got != test.want {
				t.Errorf("the debuggee is asked for %q, not %q", got, test.want)
			}
			c := protocol.NewChunked(agent)
			if _, err := io.WriteString(c, "words"); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, len("words"))
			if _, err := io.ReadFull(c, b); err != nil || string(b) != "words" {
				t.Errorf("%q, %v came back", b, err)
			}
			if err := c.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if b, err := io.ReadAll(c); err != nil || len(b) > 0 {
				t.Errorf("%q, %v came at the end", b, err)
			}
			agent.Close()
			if err := <-done; err != nil {
				t.Error(err)
			}
			w.wants(t, "answered <nil>", `receives "words"`, `sends "words"`, `receives ""`, `sends ""`, "ended <nil>")
			<-served
		})
	}
}

func TestDeliveryErrors(t *testing.T) {
	_, cert, key := tlstest.Certificate(t, t.TempDir(), "own")
	for want, roots := range map[string]Roots{
		"trust_roots /none: stat":           {Files: []string{"/none"}},
		"server_cert " + key + ": there is": {ServerCert: key},
		"client_cert " + cert + " with":     {ClientCert: cert, ClientKey: "/none"},
	} {
		if _, err := NewDelivery(roots); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
